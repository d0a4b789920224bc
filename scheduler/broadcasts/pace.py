"""Pace: how fast broadcasts of one bot may go, as the workers' limiter lets them."""

from math import ceil

from worker.limiter import broadcast_pace


def pace_of(platform: str, account: str) -> float | None:
    """Give the messages a second; `None` where only each chat has its limit."""
    return broadcast_pace(platform, account)


def seconds_for(platform: str, account: str, messages: int) -> int | None:
    """Give the seconds that messages take at least; `None` where nothing is known of it."""
    pace = pace_of(platform, account)
    return None if pace is None else ceil(messages / pace)
