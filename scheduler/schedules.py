"""Schedules as people handle them: add, pause, resume, run, remove.

Called by the command line and by producers; each change is one short transaction. Everything
is checked here, so that a row made here is never parked by the clock.
"""

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Concatenate, ParamSpec, TypeVar

import orjson
from sqlalchemy import Connection, Engine
from sqlalchemy import text as sql

from scheduler.cron import cron as read_cron
from scheduler.documents import delivery_for, loads, read_misfire, read_spec
from scheduler.occurrences import At, Spec, count_through, next_after, spec_document
from scheduler.occurrences import every as read_every
from scheduler.producer import _engine
from scheduler.record import NewFire, record, recorded
from scheduler.schedule_views import COLUMNS, ScheduleView, find, lookup, view
from scheduler.tables import FireOutcome, Misfire, ScheduleState
from scheduler.when import from_ms, parse_duration, parse_when, to_ms
from worker import outbox
from worker.database import now_ms, reading
from worker.errors import Refused
from worker.intake import Policy, new_id
from worker.lanes import Lane
from worker.outbox import Accepted
from worker.zones import parse_zone

Given = ParamSpec("Given")
Answer = TypeVar("Answer")

#: Characters that a name may have.
_MAX_NAME = 200


def add(
    engine: Engine,
    name: str,
    *,
    to: str,
    text: str,
    cron: str | None = None,
    every: timedelta | str | None = None,
    at: datetime | str | None = None,
    tz: str = "UTC",
    lane: Lane | str | None = None,
    misfire: Misfire | str = Misfire.LATEST,
    source: str | None = None,
    topic: str | None = None,
    metadata: Mapping[str, object] | None = None,
    thread: str | None = None,
    reply_to: str | None = None,
    silent: bool = False,
    policy: Policy | str = Policy.RESEND,
) -> ScheduleView:
    """Add a schedule; the same name with the same body gives the one that is there.

    Args:
        cron: Five fields, or six with seconds first, or an alias; in `tz`.
        every: An interval of at least a second; a string such as `5m`.
        at: One instant; a string as people type it, meant in `tz`.
        misfire: What goes out of occurrences that no clock saw: `latest`, `all` or `none`.

    Raises:
        Refused: Bad input, or the name has another body; nothing was stored.
    """
    _check_name(name)
    with reading(engine) as connection:
        now = from_ms(now_ms(connection))
    spec = _read_spec(cron, every, at, tz, now)
    message: dict[str, object] = {"to": to, "text": text}
    optional = {
        "lane": lane,
        "source": source,
        "topic": topic or None,
        "metadata": metadata,
        "thread": thread,
        "reply_to": reply_to,
        "silent": silent or None,
        "policy": None if policy == Policy.RESEND else policy,
    }
    message |= {field: value for field, value in optional.items() if value is not None}
    checked = delivery_for(message, spec, name=name, key=name)
    message["lane"] = checked.lane
    if checked.metadata is not None:
        message["metadata"] = checked.metadata
    policies: dict[str, object] = {"misfire": read_misfire(misfire)}
    with engine.begin() as connection:
        found = lookup(connection, name)
        if found is not None and found.name == name:
            return _same(view(found), spec, message, policies)
        return _insert(connection, name, spec, message, policies)


def _on_own_engine(
    function: Callable[Concatenate[Engine, Given], Answer],
) -> Callable[Given, Answer]:
    """Give a function that works on the database that the settings name."""

    def call(*args: Given.args, **kwargs: Given.kwargs) -> Answer:
        return function(_engine(), *args, **kwargs)

    call.__doc__ = function.__doc__
    return call


#: `add` for producers: `from scheduler import schedule`.
schedule = _on_own_engine(add)


def _check_name(name: str) -> None:
    if not isinstance(name, str) or not 0 < len(name) <= _MAX_NAME or not name.isprintable():
        raise Refused(f"a schedule's name must have 1 to {_MAX_NAME} printable characters")


def _read_spec(
    cron: str | None,
    every: timedelta | str | None,
    at: datetime | str | None,
    tz: str,
    now: datetime,
) -> Spec:
    zone = parse_zone(tz)
    match cron, every, at:
        case str(), None, None:
            return read_cron(cron, tz)
        case None, str() | timedelta(), None:
            interval = parse_duration(every) if isinstance(every, str) else every
            return read_every(interval, anchor=now)
        case None, None, str():
            return At(to_ms(parse_when(at, now=now, tz=zone)))
        case None, None, datetime():
            if at.tzinfo is None:
                raise Refused("at has no time zone: give an aware datetime, or text with tz=")
            return At(to_ms(at))
    raise Refused("a schedule has exactly one of cron, every and at")


def _same(
    there: ScheduleView, spec: Spec, message: dict[str, object], policy: dict[str, object]
) -> ScheduleView:
    spec_there = there.spec
    wanted = spec_document(spec)
    if isinstance(spec_there, dict):
        # The anchor is when an interval was first added, and so never the same again.
        spec_there = {key: value for key, value in spec_there.items() if key != "anchor_ms"}
        wanted.pop("anchor_ms", None)
    if (spec_there, there.message, there.policy) == (wanted, message, policy):
        return there
    raise Refused(
        f"schedule {there.name!r} is there with another body: "
        f"take another name, or first run mirrorpost schedule remove {there.name}"
    )


def _insert(
    connection: Connection,
    name: str,
    spec: Spec,
    message: dict[str, object],
    policy: dict[str, object],
) -> ScheduleView:
    next_fire = next_after(spec, from_ms(now_ms(connection)))
    if next_fire is None:
        raise Refused("at lies in the past: name a later time")
    json = "CAST({} AS jsonb)" if connection.dialect.name == "postgresql" else "{}"
    row = connection.execute(
        sql(
            "INSERT INTO schedule (id, name, spec, message, policy, next_fire_ms) VALUES "
            f"(:id, :name, {json.format(':spec')}, {json.format(':message')}, "
            f"{json.format(':policy')}, :next_ms) "
            f"ON CONFLICT (name) DO NOTHING RETURNING {COLUMNS}"
        ),
        {
            "id": new_id(),
            "name": name,
            "spec": orjson.dumps(spec_document(spec)).decode(),
            "message": orjson.dumps(message).decode(),
            "policy": orjson.dumps(policy).decode(),
            "next_ms": to_ms(next_fire),
        },
    ).one_or_none()
    if row is None:
        # Another process added the name since we looked.
        return _same(view(find(connection, name)), spec, message, policy)
    return view(row)


def pause(engine: Engine, name: str, note: str | None = None) -> ScheduleView:
    """Stop a schedule until `resume`; deliveries that were made go out all the same."""
    with engine.begin() as connection:
        row = find(connection, name, lock=True)
        if row.state not in (ScheduleState.ACTIVE, ScheduleState.PAUSED):
            raise Refused(f"schedule {row.name!r} is {row.state}: only an active one is paused")
        return _change(
            connection, row.id, state=ScheduleState.PAUSED, note=note, next_ms=row.next_fire_ms
        )


def resume(engine: Engine, name: str, *, by: str = "resume") -> ScheduleView:
    """Start a paused schedule; what it missed is left out and written down.

    A one-off whose time has passed ends.
    """
    with engine.begin() as connection:
        row = find(connection, name, lock=True)
        if row.state != ScheduleState.PAUSED:
            raise Refused(f"schedule {row.name!r} is {row.state}: only a paused one is resumed")
        state, next_ms, now = ScheduleState.ACTIVE, row.next_fire_ms, now_ms(connection)
        if next_ms is not None and next_ms <= now:
            spec = read_spec(row.spec)
            later, last = count_through(spec, from_ms(next_ms), from_ms(now))
            skipped = NewFire(
                row.id, to_ms(last), FireOutcome.SKIPPED, missed=later + 1, missed_since_ms=next_ms
            )
            if not recorded(connection, [(row.id, skipped.fire_ms)]):
                record(connection, [skipped], now_ms=now, by=by)
            following = next_after(spec, last)
            next_ms = None if following is None else to_ms(following)
            state = ScheduleState.ENDED if following is None else ScheduleState.ACTIVE
        return _change(connection, row.id, state=state, note=None, next_ms=next_ms)


def run(engine: Engine, name: str, *, by: str = "run") -> Accepted:
    """Fire a schedule now, besides its occurrences and whatever its state; the caller publishes.

    Raises:
        Refused: There is none of that name, or it cannot be read.
    """
    with engine.begin() as connection:
        row = find(connection, name, lock=True)
        spec = read_spec(row.spec)
        now = fire_ms = now_ms(connection)
        while _occupied(connection, row.id, spec, fire_ms):
            fire_ms += 1
        delivery = delivery_for(
            loads("message", row.message),
            spec,
            name=row.name,
            key=f"schedule:{row.id}:run:{new_id()}",
        )
        accepted = outbox.insert(connection, [delivery])[0]
        fire = NewFire(row.id, fire_ms, FireOutcome.FIRED, delivery_ids=(accepted.id,))
        record(connection, [fire], now_ms=now, by=by)
    return accepted


def _occupied(connection: Connection, schedule_id: str, spec: Spec, fire_ms: int) -> bool:
    """Tell whether a moment belongs to an occurrence, which must keep its own fire."""
    moment = from_ms(fire_ms)
    if count_through(spec, moment - timedelta(milliseconds=1), moment)[0]:
        return True
    return bool(recorded(connection, [(schedule_id, fire_ms)]))


def remove(engine: Engine, name: str) -> ScheduleView:
    """Remove a schedule; its fires and deliveries stay. Gives what it was."""
    with engine.begin() as connection:
        row = find(connection, name, lock=True)
        connection.execute(sql("DELETE FROM schedule WHERE id = :id"), {"id": row.id})
        return view(row)


def _change(
    connection: Connection,
    schedule_id: str,
    *,
    state: ScheduleState,
    note: str | None,
    next_ms: int | None,
) -> ScheduleView:
    connection.execute(
        sql(
            "UPDATE schedule SET state = :state, note = :note, next_fire_ms = :next_ms "
            "WHERE id = :id"
        ),
        {"id": schedule_id, "state": state.value, "note": note, "next_ms": next_ms},
    )
    return view(find(connection, schedule_id))
