"""Canary: the share of a broadcast's recipients that get it first."""

import math


def canary_size(recipients: int, percent: float) -> int:
    """Give how many recipients are the canary: at least one of any."""
    return min(recipients, max(1, math.ceil(recipients * percent / 100)))
