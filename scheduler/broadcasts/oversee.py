"""Oversee: ends broadcasts and canaries, halts what goes wrong, takes back what strayed.

One pass; ticked by the clock after the feed. Two at once do no harm: every change looks at
the state again under the lock of the broadcast's row.
"""

import time
from collections.abc import Sequence

import structlog
from sqlalchemy import Connection, Engine, text
from sqlmodel import Session, col, or_, select

from scheduler.broadcasts.canary import canary_size
from scheduler.broadcasts.outcomes import Attempts, judge, lately, outcomes
from scheduler.broadcasts.states import BroadcastState
from scheduler.broadcasts.steer import finish_cancel, halt
from scheduler.broadcasts.tables import BroadcastRow
from worker import by_broadcast
from worker.database import NOW_MS, reading

_log = structlog.get_logger(__name__)

#: Counting takes at most one part in so many of the time, of all broadcasts together: a million
#: outcomes are some tenths of a second, and of so many the shares change slowly.
_COUNTING = 20


class Overseer:
    """Looks after all broadcasts that have not ended; `run` is one look."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._count_again: dict[str, float] = {}

    def run(self) -> bool:
        """Do what is to be done; tell whether any broadcast runs."""
        found = _open(self._engine)
        running = [row for row in found if row.state == BroadcastState.RUNNING]
        ended = _ended(self._engine, running)
        for row in found:
            match BroadcastState(row.state):
                case BroadcastState.RUNNING if row.id in ended:
                    _end(self._engine, row)
                case BroadcastState.RUNNING:
                    self._look_at(row, len(running))
                case BroadcastState.CANCELLED:
                    for _ in finish_cancel(self._engine, row.id):
                        pass
                case _:
                    _take_back_strays(self._engine, row)
        names = {row.id for row in running}
        self._count_again = {k: at for k, at in self._count_again.items() if k in names}
        return bool(running)

    def _look_at(self, row: BroadcastRow, running: int) -> None:
        begun = time.monotonic()
        if begun < self._count_again.get(row.id, 0.0):
            return
        reason = _reason_to_halt(self._engine, row)
        took = time.monotonic() - begun
        self._count_again[row.id] = time.monotonic() + took * _COUNTING * running
        if reason is not None:
            with self._engine.begin() as connection:
                _halt(connection, row, reason)


def _open(engine: Engine) -> list[BroadcastRow]:
    state, ended = col(BroadcastRow.state), col(BroadcastRow.ended_ms)
    query = select(BroadcastRow).where(
        or_(
            state.in_([BroadcastState.RUNNING, BroadcastState.PAUSED, BroadcastState.HALTED]),
            (state == BroadcastState.CANCELLED) & ended.is_(None),
        )
    )
    with reading(engine) as connection, Session(connection) as session:
        return list(session.exec(query))


def _take_back_strays(engine: Engine, row: BroadcastRow) -> None:
    """Hold again what workers gave back, or a person had tried again, after the pause."""
    with reading(engine) as connection:
        if not by_broadcast.any_let_go(connection, row.id):
            return
    with engine.begin() as connection:
        # Not if a person has just let it go on.
        states = "('paused', 'halted')"
        lock = "" if connection.dialect.name == "sqlite" else "FOR UPDATE"
        query = f"SELECT 1 FROM broadcast WHERE id = :id AND state IN {states} {lock}"
        if connection.execute(text(query), {"id": row.id}).first() is not None:
            by_broadcast.take_back(connection, row.id)


def _size_of_canary(row: BroadcastRow) -> int | None:
    """Give the size of a canary that is under way and is not all of the recipients."""
    if row.canary_percent is None or row.canary_done:
        return None
    size = canary_size(row.recipients, row.canary_percent)
    return None if size >= row.recipients else size


def _ended(engine: Engine, running: Sequence[BroadcastRow]) -> set[str]:
    """Give the running broadcasts, and canaries, of which nothing is left to wait for."""
    fanned_out = [row.id for row in running if _is_fanned_out(row)]
    if not fanned_out:
        return set()
    with reading(engine) as connection:
        return set(by_broadcast.over(connection, fanned_out))


def _is_fanned_out(row: BroadcastRow) -> bool:
    canary = _size_of_canary(row)
    return row.fanned_out >= (row.recipients if canary is None else canary)


def _end(engine: Engine, row: BroadcastRow) -> None:
    with engine.begin() as connection:
        if _size_of_canary(row) is not None:
            _end_canary(connection, row)
            return
        ended = connection.execute(
            text(
                f"UPDATE broadcast SET state = 'done', reason = NULL, "
                f"ended_ms = {NOW_MS[connection.dialect.name]} "
                "WHERE id = :id AND state = 'running'"
            ),
            {"id": row.id},
        ).rowcount
    if ended:
        _log.info("broadcast_done", broadcast=row.name)


def _end_canary(connection: Connection, row: BroadcastRow) -> None:
    found = outcomes(connection, row.id)
    connection.execute(
        text("UPDATE broadcast SET canary_done = true WHERE id = :id AND state = 'running'"),
        {"id": row.id},
    )
    failed = found.failed + found.unknown + found.blocked
    _log.info("canary_ended", broadcast=row.name, sent=found.sent, failed=failed)
    if row.canary_then != "go":
        reason = (
            f"the canary has ended: {found.sent} sent, {failed} failed; "
            f"mirrorpost broadcast resume {row.name}"
        )
        halt(connection, row.id, BroadcastState.PAUSED, reason)
    elif (bad := judge(found.since(row.forgiven), Attempts(), at_least=1)) is not None:
        _halt(connection, row, f"the canary has ended: {bad}")


def _reason_to_halt(engine: Engine, row: BroadcastRow) -> str | None:
    forgiven = row.forgiven or {}
    with reading(engine) as connection:
        return judge(
            outcomes(connection, row.id).since(forgiven),
            lately(connection, row.id, since_ms=forgiven.get("at_ms", 0)),
        )


def _halt(connection: Connection, row: BroadcastRow, reason: str) -> None:
    if halt(connection, row.id, BroadcastState.HALTED, reason):
        _log.error("broadcast_halted", broadcast=row.name, reason=reason)
