"""Cron expressions: read, and walked through day by day in their time zone.

They mean what cron means by them (0 and 7 are Sunday; a day of the month OR a day of the week
when both are restricted); `cronsim` reads the fields. The walk over days is ours, because
daylight saving time is policy:

- a time that the clock skips fires at the first valid instant after the gap, once;
- a time that comes twice fires the first time only;
- an expression that names every hour follows elapsed time: it neither pauses nor repeats.

Called by `scheduler.occurrences`. Pure but for the zone database.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from worker.errors import Refused
from worker.zones import first_valid, parse_zone

_ALIASES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_CRON_FORM = "write minute hour day month weekday, such as '0 9 * * 1-5', or @daily"
#: Years after which a cron expression counts as never firing; 29 February on a given weekday
#: can take 40.
_HORIZON_YEARS = 50
_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Cron:
    """A cron expression in a time zone; made by `cron`, which reads the fields."""

    expression: str
    zone: ZoneInfo
    seconds: tuple[int, ...] = field(compare=False)
    minutes: tuple[int, ...] = field(compare=False)
    hours: tuple[int, ...] = field(compare=False)
    months: frozenset[int] = field(compare=False)
    matches_day: Callable[[date], bool] = field(compare=False, repr=False)


@lru_cache(maxsize=4096)
def cron(expression: str, tz: str = "UTC") -> Cron:
    """Read a cron expression of five fields, of six with seconds first, or an alias.

    Raises:
        Refused: It is malformed, never fires, or the zone is unknown.
    """
    zone = parse_zone(tz)
    fields = _ALIASES.get(expression.strip().lower(), expression)
    try:
        # The base only feeds cronsim's own iteration, which is not used.
        parsed = CronSim(fields, datetime(2000, 1, 1, tzinfo=UTC))
    except CronSimError as error:
        wrong = str(error)[:1].lower() + str(error)[1:]
        raise Refused(
            f"{expression!r} is not a cron expression that ever fires ({wrong}): {_CRON_FORM}"
        ) from None
    spec = Cron(
        expression=expression,
        zone=zone,
        seconds=tuple(sorted(parsed.seconds)),
        minutes=tuple(sorted(parsed.minutes)),
        hours=tuple(sorted(parsed.hours)),
        months=frozenset(parsed.months),
        matches_day=parsed.match_day,
    )
    if cron_after(spec, datetime(2000, 1, 1, tzinfo=UTC)) is None:
        raise Refused(f"{expression!r} never fires: no day matches all of its fields")
    return spec


def cron_after(spec: Cron, instant: datetime) -> datetime | None:
    """Give the first occurrence strictly after an instant, in UTC; `None` for no more."""
    local = instant.astimezone(spec.zone)
    from_hour = local.hour
    horizon = date(min(local.year + _HORIZON_YEARS, 9998), 12, 31)
    for day in _matching_days(spec, local.date(), horizon):
        for occurrence in _on_day(spec, day, from_hour if day == local.date() else 0):
            if occurrence > instant:
                return occurrence
    return None


def cron_through(spec: Cron, after: datetime, until: datetime) -> tuple[int, datetime]:
    """Count the occurrences after `after` and not after `until`; give the last, or `after`."""
    start, end = after.astimezone(spec.zone), until.astimezone(spec.zone)
    count, last = 0, after
    for day in _matching_days(spec, start.date(), end.date()):
        midnight = _regular_midnight(spec.zone, day)
        # A gap at midnight makes a day's last occurrence the next day's first.
        if midnight is not None and start.date() < day < end.date() and last < midnight:
            count += len(spec.hours) * len(spec.minutes) * len(spec.seconds)
            last = midnight + timedelta(
                hours=spec.hours[-1], minutes=spec.minutes[-1], seconds=spec.seconds[-1]
            )
            continue
        for occurrence in _on_day(spec, day, start.hour if day == start.date() else 0):
            if occurrence > until:
                break
            if occurrence > last:
                count, last = count + 1, occurrence
    return count, last


def _matching_days(spec: Cron, day: date, last: date) -> Iterator[date]:
    while day <= last:
        if day.month not in spec.months:
            day = (day.replace(day=1) + timedelta(days=32)).replace(day=1)
            continue
        if spec.matches_day(day):
            yield day
        day += _DAY


def _on_day(spec: Cron, day: date, from_hour: int) -> Iterator[datetime]:
    """Give a local day's occurrences in order; perhaps none before `from_hour`."""
    midnight = _regular_midnight(spec.zone, day)
    if midnight is None:
        yield from _on_irregular_day(spec, day)
        return
    for hour in spec.hours:
        if hour >= from_hour:
            for minute in spec.minutes:
                for second in spec.seconds:
                    yield midnight + timedelta(hours=hour, minutes=minute, seconds=second)


def _regular_midnight(zone: ZoneInfo, day: date) -> datetime | None:
    """Give a day's beginning in UTC, or `None` when the zone's offset changes on that day."""
    start = datetime.combine(day, time(), zone)
    if start.utcoffset() != datetime.combine(day + _DAY, time(), zone).utcoffset():
        return None
    return start.astimezone(UTC)


@lru_cache(maxsize=256)
def _on_irregular_day(spec: Cron, day: date) -> tuple[datetime, ...]:
    every_hour = len(spec.hours) == 24  # noqa: PLR2004 - hours of a day
    found: set[datetime] = set()
    for hour in spec.hours:
        for minute in spec.minutes:
            for second in spec.seconds:
                local = datetime.combine(day, time(hour, minute, second))
                if every_hour:
                    found.update(_both(local, spec.zone))
                else:
                    found.add(first_valid(local, spec.zone))
    return tuple(sorted(found))


def _both(local: datetime, zone: ZoneInfo) -> Iterator[datetime]:
    """Give the instants at which a zone's clock shows a local time: none, one or two."""
    for fold in (0, 1):
        instant = local.replace(tzinfo=zone, fold=fold).astimezone(UTC)
        if instant.astimezone(zone).replace(tzinfo=None) == local:
            yield instant
