"""When a schedule fires: pure functions over what a `spec` document says.

Cron expressions mean what cron means by them (0 and 7 are Sunday; a day of the month OR a
day of the week when both are restricted); `cronsim` reads the fields. The walk over days is
ours, because daylight saving time is policy:

- a time that the clock skips fires at the first valid instant after the gap, once;
- a time that comes twice fires the first time only;
- an expression that names every hour follows elapsed time: it neither pauses nor repeats.

Nothing here knows a database or what time it is.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from itertools import islice, takewhile
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from scheduler.when import EPOCH, from_ms, to_ms
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
#: The shortest interval: the clock looks once a second.
MIN_EVERY_S = 1
#: A hundred years in seconds: longer intervals are typing errors and leave the calendar.
_MAX_EVERY_S = 3_155_760_000
#: 1 January 9999: later instants leave the calendar.
_MAX_MS = 253_370_764_800_000
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


@dataclass(frozen=True, slots=True)
class Every:
    """An interval, counted from `anchor_ms` so that it does not drift."""

    every_ms: int
    anchor_ms: int


@dataclass(frozen=True, slots=True)
class At:
    """One instant."""

    at_ms: int


Spec = Cron | Every | At


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
    if next_after(spec, datetime(2000, 1, 1, tzinfo=UTC)) is None:
        raise Refused(f"{expression!r} never fires: no day matches all of its fields")
    return spec


def every(interval: timedelta, anchor: datetime = EPOCH) -> Every:
    """Give the spec of an interval of at least a second.

    Raises:
        Refused: It is shorter, or longer than a hundred years.
    """
    seconds = interval.total_seconds()
    if not MIN_EVERY_S <= seconds <= _MAX_EVERY_S:
        raise Refused(
            f"an interval of {seconds:g} s cannot be: write 1s or longer, such as 90s, 5m or 1h30m"
        )
    return Every(every_ms=interval // timedelta(milliseconds=1), anchor_ms=to_ms(anchor))


def parse_spec(document: object) -> Spec:
    """Read the `spec` column.

    Raises:
        Refused: It is not one of the three forms, or its value cannot be.
    """
    if isinstance(document, Mapping):
        match document:
            case {"cron": str(expression), **rest} if set(rest) <= {"tz"}:
                tz = rest.get("tz", "UTC")
                if not isinstance(tz, str):
                    raise Refused(f"tz {tz!r} is not a time zone: write one such as Europe/Berlin")
                return cron(expression, tz)
            case {"every_s": int() | float() as seconds, **rest} if set(rest) <= {"anchor_ms"}:
                if not MIN_EVERY_S <= seconds <= _MAX_EVERY_S:
                    raise Refused(f"every_s {seconds!r} cannot be: write 1 or more seconds")
                anchor = _instant_ms("anchor_ms", rest.get("anchor_ms", 0))
                return Every(every_ms=round(seconds * 1000), anchor_ms=anchor)
            case {"at_ms": at_ms, **rest} if not rest:
                return At(_instant_ms("at_ms", at_ms))
    raise Refused(
        'the spec is none of {"cron": ..., "tz": ...}, {"every_s": ..., "anchor_ms": ...}, '
        '{"at_ms": ...}'
    )


def _instant_ms(name: str, value: object) -> int:
    if type(value) is not int or not 0 <= value < _MAX_MS:
        raise Refused(f"{name} {value!r} is not a time: write epoch milliseconds, a whole number")
    return value


def spec_document(spec: Spec) -> dict[str, object]:
    """Give the `spec` column's document, which `parse_spec` reads."""
    match spec:
        case Cron():
            return {"cron": spec.expression, "tz": spec.zone.key}
        case Every():
            seconds, rest = divmod(spec.every_ms, 1000)
            return {
                "every_s": spec.every_ms / 1000 if rest else seconds,
                "anchor_ms": spec.anchor_ms,
            }
        case At():
            return {"at_ms": spec.at_ms}


def next_after(spec: Spec, instant: datetime) -> datetime | None:
    """Give the first occurrence strictly after an aware instant, in UTC; `None` for no more."""
    match spec:
        case Cron():
            return _cron_after(spec, instant)
        case Every():
            passed = (to_ms(instant) - spec.anchor_ms) // spec.every_ms
            # An anchor in the future is itself the first occurrence.
            return from_ms(spec.anchor_ms + max(0, passed + 1) * spec.every_ms)
        case At():
            at = from_ms(spec.at_ms)
            return at if at > instant else None


def first(spec: Spec, since: datetime) -> datetime | None:
    """Give the occurrence with which a schedule that counts from `since` begins.

    A one-off that lies before `since` still has its occurrence: being late is for the
    misfire policy to judge.
    """
    return from_ms(spec.at_ms) if isinstance(spec, At) else next_after(spec, since)


def upcoming(spec: Spec, after: datetime) -> Iterator[datetime]:
    """Give the occurrences strictly after an instant, in order, perhaps without end."""
    occurrence = next_after(spec, after)
    while occurrence is not None:
        yield occurrence
        occurrence = next_after(spec, occurrence)


def between(spec: Spec, after: datetime, until: datetime, limit: int) -> list[datetime]:
    """Give at most `limit` occurrences after `after` and not after `until`."""
    return list(islice(takewhile(lambda at: at <= until, upcoming(spec, after)), limit))


def count_through(spec: Spec, after: datetime, until: datetime) -> tuple[int, datetime]:
    """Count the occurrences after `after` and not after `until`, and give the last of them.

    The last is `after` itself when there is none. Costs a step a day, not a step an
    occurrence: a minutely schedule may have slept for years.
    """
    match spec:
        case Cron():
            return _cron_through(spec, after, until)
        case Every():
            begun = max(-1, (to_ms(after) - spec.anchor_ms) // spec.every_ms)
            ended = max(-1, (to_ms(until) - spec.anchor_ms) // spec.every_ms)
            last = from_ms(spec.anchor_ms + ended * spec.every_ms)
            return (ended - begun, last) if ended > begun else (0, after)
        case At():
            at = from_ms(spec.at_ms)
            return (1, at) if after < at <= until else (0, after)


def _cron_after(spec: Cron, instant: datetime) -> datetime | None:
    local = instant.astimezone(spec.zone)
    from_hour = local.hour
    horizon = date(min(local.year + _HORIZON_YEARS, 9998), 12, 31)
    for day in _matching_days(spec, local.date(), horizon):
        for occurrence in _on_day(spec, day, from_hour if day == local.date() else 0):
            if occurrence > instant:
                return occurrence
    return None


def _cron_through(spec: Cron, after: datetime, until: datetime) -> tuple[int, datetime]:
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
