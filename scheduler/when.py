"""Times as people type them: instants, durations and time zones.

Called at the door (command line, HTTP, Python); pure but for the zone database. What cannot
be understood with certainty is refused: a reminder at the wrong hour is worse than none.
"""

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import pytimeparse2

from worker.errors import Refused
from worker.zones import first_valid

if TYPE_CHECKING:
    from dateparser import DateDataParser

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_WHEN_FORM = "write 2027-01-31T09:00, 'tomorrow 9am', 'in 10 minutes' or 10m"
_DURATION_FORM = "write a number with its unit, such as 90s, 5m, 1h30m or 2d"
_UNITS = r"(?:w|weeks?|d|days?|h|hrs?|hours?|m|mins?|minutes?|s|secs?|seconds?)"
_DURATION = re.compile(rf"(?:\d+(?:\.\d+)?\s*{_UNITS}\s*)+", re.IGNORECASE | re.ASCII)
_IN_A = re.compile(r"^in\s+an?\s+", re.IGNORECASE)
_AHEAD = re.compile(r"^(?:\+|in\s+)", re.IGNORECASE)

_CLOCK = (
    r"(?:(?:1[0-2]|0?[1-9])(?::[0-5]\d){0,2}\s*[ap]m"
    r"|(?:2[0-3]|[01]?\d)(?::[0-5]\d){1,2}|noon|midnight)"
)
_WEEKDAY = r"(?:mon|tues?|wed(?:nes)?|thu(?:rs)?|fri|sat(?:ur)?|sun)(?:day)?"
_MONTH = (
    r"(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?"
    r"|sep(?:t(?:ember)?)?|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)"
)
_DAY = r"(?:3[01]|[12]?\d)(?:st|nd|rd|th)?"
_DATE = (
    rf"(?:today|tomorrow|(?:on\s+|next\s+|this\s+)?{_WEEKDAY}|next\s+(?:week|month|year)"
    rf"|in\s+(?:an?|\d+)\s+(?:day|week|month|year)s?"
    rf"|(?:on\s+)?(?:{_MONTH}\s+{_DAY}|{_DAY}\s+{_MONTH})(?:,?\s+20\d\d)?)"
)
#: The English that is handed to dateparser. It makes a time out of nearly anything and drops
#: what it does not understand: "tomorrow at 9" is to it tomorrow at this hour.
_ENGLISH = re.compile(
    rf"{_DATE}(?:,?\s+(?:at\s+)?{_CLOCK})?|(?:at\s+)?{_CLOCK}(?:,?\s+{_DATE})?",
    re.IGNORECASE | re.ASCII,
)


def to_ms(instant: datetime) -> int:
    """Give an aware datetime as epoch milliseconds."""
    return (instant - EPOCH) // timedelta(milliseconds=1)


def from_ms(ms: int) -> datetime:
    """Give epoch milliseconds as an aware datetime in UTC."""
    return EPOCH + timedelta(milliseconds=ms)


def parse_when(text: str, *, now: datetime, tz: ZoneInfo) -> datetime:
    """Read an instant in the future.

    ISO 8601 first, then a duration from now, then plain English. What names no zone is meant
    in `tz`; a local time that the clock skips becomes the first valid instant after the gap,
    one that comes twice is the first. A day in a duration is 24 hours.

    Returns:
        An aware datetime in UTC.

    Raises:
        Refused: It is not a time, not certain, or not in the future.
    """
    typed = text.strip()
    try:
        instant = _iso(typed, tz) or _ahead(typed, now) or _english(typed, now, tz)
    except OverflowError:
        instant = None
    if instant is None:
        raise Refused(f"{text!r} is not a time: {_WHEN_FORM}")
    if instant <= now:
        shown = instant.astimezone(tz).isoformat(timespec="seconds")
        raise Refused(f"{text!r} is {shown}, which is past: give a later time, such as 10m")
    return instant


def parse_since(text: str, *, now: datetime) -> datetime:
    """Read an instant in the past: ISO 8601, in UTC where it names no zone, or a length ago.

    Raises:
        Refused: It is neither, or not in the past.
    """
    typed = text.strip().removesuffix("ago").strip()
    try:
        duration = _duration(typed)
        instant = _iso(typed, ZoneInfo("UTC")) if duration is None else now - duration
    except OverflowError:
        instant = None
    if instant is None:
        raise Refused(f"{text!r} is not a time: write 2027-01-31T09:00 or a length ago such as 2d")
    if instant > now:
        raise Refused(f"{text!r} is not past: give an earlier time, such as 2d")
    return instant


def parse_duration(text: str) -> timedelta:
    """Read a length of time with its units.

    Raises:
        Refused: It is not one, or not more than zero.
    """
    duration = _duration(text.strip())
    if duration is None:
        raise Refused(f"{text!r} is not a duration: {_DURATION_FORM}")
    if not duration:
        raise Refused(f"{text!r} is no time at all: {_DURATION_FORM}")
    return duration


def _iso(text: str, tz: ZoneInfo) -> datetime | None:
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        return None
    return first_valid(parsed, tz) if parsed.tzinfo is None else parsed.astimezone(UTC)


def _ahead(text: str, now: datetime) -> datetime | None:
    duration = _duration(_AHEAD.sub("", _IN_A.sub("in 1 ", text)))
    return None if duration is None else now.astimezone(UTC) + duration


def _duration(text: str) -> timedelta | None:
    if not _DURATION.fullmatch(text):
        return None
    seconds = pytimeparse2.parse(text)
    return timedelta(seconds=seconds) if isinstance(seconds, int | float) else None


def _english(text: str, now: datetime, tz: ZoneInfo) -> datetime | None:
    if not _ENGLISH.fullmatch(text):
        return None
    local_now = now.astimezone(tz).replace(tzinfo=None)
    found = _dateparser(local_now).get_date_data(text).date_obj
    if found is None:
        return None
    return first_valid(found, tz) if found.tzinfo is None else found.astimezone(UTC)


def _dateparser(local_now: datetime) -> "DateDataParser":
    # Imported here because it takes a tenth of a second, which few commands need.
    from dateparser import DateDataParser

    return DateDataParser(
        languages=["en"],
        settings={
            "PREFER_DATES_FROM": "future",
            "RELATIVE_BASE": local_now,
            "RETURN_AS_TIMEZONE_AWARE": False,
        },
    )
