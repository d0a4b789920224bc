"""Read how long a platform wants to be left alone: pure, called by every adapter.

Units and places differ by platform; what they share is that a value may be nonsense, and
nonsense is `None`, never an exception and never a negative or endless wait.
"""

import math
import re
import time
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime

#: Seconds; the longest wait that is believed. Flood bans of hours are real, a wait of
#: years is a broken clock or somebody's joke.
LONGEST_S = 7 * 86_400.0
#: RFC 9110 says whole seconds; Zulip and some proxies send fractions.
_NUMBER = re.compile(r"[0-9]{1,15}(\.[0-9]*)?", re.ASCII)


def seconds(value: object) -> float | None:
    """Read a JSON number or numeric text as seconds, `None` for whatever is neither."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        text = value.strip()
        return min(float(text), LONGEST_S) if _NUMBER.fullmatch(text) else None
    if isinstance(value, int | float) and (isinstance(value, int) or math.isfinite(value)):
        return float(min(value, LONGEST_S)) if value >= 0 else None
    return None


def http_date_s(value: str) -> float | None:
    """Read an HTTP date, in any of its three forms, as Unix seconds."""
    try:
        date = parsedate_to_datetime(value)
        # An HTTP date without a zone is UTC; Python would take it for this machine's time.
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def header_s(headers: Mapping[str, str]) -> float | None:
    """Read `Retry-After` in either of RFC 9110's forms as seconds from now.

    A date is compared with the answer's own `Date`, so that a clock that is off on either
    side changes nothing; without one, with this machine's clock.
    """
    value = headers.get("retry-after")
    if value is None:
        return None
    number = seconds(value)
    if number is not None:
        return number
    then = http_date_s(value)
    if then is None:
        return None
    now = http_date_s(headers.get("date", ""))
    return min(max(0.0, then - (time.time() if now is None else now)), LONGEST_S)
