"""Steer: pause, resume and cancel a broadcast, each at once.

Called by the command line, and for a halt by `oversee`. A change locks the broadcast's row
first: who feeds it or fans it out has ended, or finds it changed. What was let go and is not
with a worker is taken back in the same transaction; what comes back from workers later is
found by `oversee`.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import orjson
from sqlalchemy import Connection, Engine, text

from scheduler.broadcasts.outcomes import outcomes
from scheduler.broadcasts.states import TRANSITIONS, BroadcastState
from worker import by_broadcast
from worker.database import NOW_MS, now_ms
from worker.errors import NotFound, Refused

B = BroadcastState
_PAUSE = {
    B.DRAFT: "is a draft and has not been started: there is nothing to pause",
    B.CHECKED: "has not been started: there is nothing to pause",
    B.PAUSED: "is paused already",
    B.HALTED: "has halted by itself already: mirrorpost broadcast resume {name}, or cancel {name}",
    B.DONE: "is done: there is nothing to pause",
    B.CANCELLED: "was cancelled: there is nothing to pause",
}
_RESUME = {
    B.DRAFT: "was never started: mirrorpost broadcast preflight {name}, then start {name}",
    B.CHECKED: "was never started: mirrorpost broadcast start {name}",
    B.RUNNING: "is running already",
    B.DONE: "is done: there is nobody left to send it to",
    B.CANCELLED: "was cancelled, and that is for good: create another one",
}
_CANCEL = {
    B.DONE: "is done: there is nothing left to cancel",
    B.CANCELLED: "was cancelled already",
}


@dataclass(frozen=True, slots=True)
class Held:
    """A broadcast whose row is locked."""

    id: str
    state: BroadcastState
    ended_ms: int | None


def pause(engine: Engine, name: str) -> int:
    """Let nothing more of a broadcast go; give how many deliveries were taken back.

    Raises:
        NotFound: There is none of that name.
        Refused: It does not run.
    """
    with engine.begin() as connection:
        found = _hold(connection, name)
        _refuse_unless(found.state is B.RUNNING, name, found, _PAUSE)
        _set(connection, found, B.PAUSED, "paused by hand")
        return by_broadcast.take_back(connection, found.id)


def halt(connection: Connection, broadcast_id: str, to: BroadcastState, reason: str) -> bool:
    """Pause or halt a broadcast for a reason; `False` when it does not run any more."""
    found = _lock(connection, "id", broadcast_id)
    if found is None or found.state is not B.RUNNING:
        return False
    _set(connection, found, to, reason)
    by_broadcast.take_back(connection, found.id)
    return True


def resume(engine: Engine, name: str) -> None:
    """Let a broadcast go on that was paused or has halted; what came before is forgiven.

    Raises:
        NotFound: There is none of that name.
        Refused: It is neither paused nor halted.
    """
    with engine.begin() as connection:
        found = _hold(connection, name)
        _refuse_unless(found.state in {B.PAUSED, B.HALTED}, name, found, _RESUME)
        _set(connection, found, B.RUNNING, None)
        forgiven = outcomes(connection, found.id).as_object()
        connection.execute(
            text("UPDATE broadcast SET forgiven = :forgiven WHERE id = :id"),
            {
                "id": found.id,
                "forgiven": orjson.dumps({**forgiven, "at_ms": now_ms(connection)}).decode(),
            },
        )


def cancel(engine: Engine, name: str) -> Iterator[int]:
    """End a broadcast and whatever has not gone out; give how many deliveries, batch by batch.

    With the first batch nothing more goes out. Of the others a scheduler ends what an
    interruption leaves.

    Raises:
        NotFound: There is none of that name.
        Refused: It has ended.
    """
    with engine.begin() as connection:
        found = _hold(connection, name)
        goes_on = found.state is B.CANCELLED and found.ended_ms is None
        if not goes_on:
            allowed = B.CANCELLED in TRANSITIONS[found.state]
            _refuse_unless(allowed, name, found, _CANCEL)
            _set(connection, found, B.CANCELLED, None)
        ended = by_broadcast.cancel_let_go(connection, found.id)
    yield ended
    yield from finish_cancel(engine, found.id)


def finish_cancel(engine: Engine, broadcast_id: str) -> Iterator[int]:
    """End what is left of a cancelled broadcast, a short transaction a batch; give how many.

    It has ended itself when nothing is with a worker any more.
    """
    with engine.begin() as connection:
        yield by_broadcast.cancel_let_go(connection, broadcast_id)
    last: str | None = ""
    while last is not None:
        with engine.begin() as connection:
            batch = by_broadcast.cancel_held(connection, broadcast_id, after=last)
        last = max(batch, default=None)
        yield len(batch)
    with engine.begin() as connection:
        if by_broadcast.over(connection, [broadcast_id]):
            connection.execute(
                text(
                    f"UPDATE broadcast SET ended_ms = {NOW_MS[connection.dialect.name]} "
                    "WHERE id = :id AND state = 'cancelled' AND ended_ms IS NULL"
                ),
                {"id": broadcast_id},
            )


def _hold(connection: Connection, name: str) -> Held:
    found = _lock(connection, "name", name)
    if found is None:
        raise NotFound(f"there is no broadcast {name!r}: see mirrorpost broadcast list")
    return found


def _lock(connection: Connection, column: str, value: str) -> Held | None:
    # Over the lock of who feeds it, which does not keep others from fanning it out.
    lock = "" if connection.dialect.name == "sqlite" else "FOR UPDATE"
    row = connection.execute(
        text(f"SELECT id, state, ended_ms FROM broadcast WHERE {column} = :value {lock}"),
        {"value": value},
    ).one_or_none()
    return None if row is None else Held(row.id, BroadcastState(row.state), row.ended_ms)


def _refuse_unless(allowed: bool, name: str, found: Held, why: dict[BroadcastState, str]) -> None:
    if not allowed:
        raise Refused(f"broadcast {name!r} {why[found.state].format(name=name)}")


def _set(connection: Connection, found: Held, to: BroadcastState, reason: str | None) -> None:
    connection.execute(
        text("UPDATE broadcast SET state = :state, reason = :reason WHERE id = :id"),
        {"id": found.id, "state": to.value, "reason": reason},
    )
