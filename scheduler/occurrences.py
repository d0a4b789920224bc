"""When a schedule fires: pure functions over what a `spec` document says.

A cron expression, an interval or one instant; `scheduler.cron` knows of the first. Nothing here
knows a database or what time it is.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice, takewhile

from scheduler.cron import Cron, cron, cron_after, cron_through
from scheduler.when import EPOCH, from_ms, to_ms
from worker.errors import Refused

#: The shortest interval: the clock looks once a second.
MIN_EVERY_S = 1
#: A hundred years in seconds: longer intervals are typing errors and leave the calendar.
_MAX_EVERY_S = 3_155_760_000
#: 1 January 9999: later instants leave the calendar.
_MAX_MS = 253_370_764_800_000


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
            return cron_after(spec, instant)
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
            return cron_through(spec, after, until)
        case Every():
            begun = max(-1, (to_ms(after) - spec.anchor_ms) // spec.every_ms)
            ended = max(-1, (to_ms(until) - spec.anchor_ms) // spec.every_ms)
            last = from_ms(spec.anchor_ms + ended * spec.every_ms)
            return (ended - begun, last) if ended > begun else (0, after)
        case At():
            at = from_ms(spec.at_ms)
            return (1, at) if after < at <= until else (0, after)
