"""Time zones: read by their IANA names, and local times that a zone skips or has twice.

Called at every door that takes a zone, and by the quiet hours. Pure but for the zone database.
"""

import difflib
from datetime import UTC, datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from worker.errors import Refused


def parse_zone(name: str) -> ZoneInfo:
    """Give a time zone by its IANA name.

    Raises:
        Refused: There is none of that name; names the nearest.
    """
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        near = _nearest_zones(name) or ["Europe/Berlin", "UTC"]
        raise Refused(
            f"{name!r} is not a time zone: write an IANA name such as {' or '.join(near)}"
        ) from None


def first_valid(local: datetime, zone: ZoneInfo) -> datetime:
    """Give the UTC instant of a naive local time: in a fold the first, after a gap its end."""
    instant = local.replace(tzinfo=zone, fold=0).astimezone(UTC)
    if instant.astimezone(zone).replace(tzinfo=None) == local:
        return instant
    # Inside a gap fold=0 reads with the offset before it and so lands after the change,
    # fold=1 lands before it; the change itself is searched between them.
    before, after = local.replace(tzinfo=zone, fold=1).astimezone(UTC), instant
    old_offset = before.astimezone(zone).utcoffset()
    while after - before > timedelta(seconds=1):
        middle = before + timedelta(seconds=(after - before) // timedelta(seconds=2))
        if middle.astimezone(zone).utcoffset() == old_offset:
            before = middle
        else:
            after = middle
    return after


def _nearest_zones(name: str) -> list[str]:
    """Give up to three zone names: those of that city first, then those spelt alike."""
    by_lower = {zone.lower(): zone for zone in _zone_names()}
    wanted = name.strip().lower().replace(" ", "_")
    cities = [zone for low, zone in by_lower.items() if low.rpartition("/")[2] == wanted]
    alike = [by_lower[low] for low in difflib.get_close_matches(wanted, by_lower, n=3)]
    return list(dict.fromkeys([*sorted(cities), *alike]))[:3]


@cache
def _zone_names() -> tuple[str, ...]:
    return tuple(sorted(available_timezones()))
