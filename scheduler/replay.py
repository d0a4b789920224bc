"""Replay: dead letters and what else stands still, tried again by id or by filter, at a pace.

Called by the command line. Each batch is one short transaction and published after it, so
that an interruption leaves nothing half-way.
"""

import time
from collections.abc import Callable, Iterator, Sequence

from sqlalchemy import Engine

from scheduler.deliveries import Filter, find, oldest_ids
from scheduler.publish import publish
from worker import by_hand
from worker.by_hand import RETRYABLE, Resolution
from worker.database import now_ms, reading
from worker.doubt import Way, choose
from worker.errors import Refused
from worker.order import WAITS, WAITS_FOR_BROADCAST
from worker.platforms import platforms
from worker.states import State
from worker.tables import DeliveryRow

#: Deliveries of one batch, where the rate allows it.
_BATCH = 100
#: Seconds between batches at most, so that an interruption is heeded.
_PAUSE_S = 1.0
#: What a filter without a status retries: dead letters alone.
_BY_FILTER = (State.FAILED,)


def retry(engine: Engine, ids: Sequence[str]) -> list[str]:
    """Queue deliveries again and publish them; give their whole ids.

    Raises:
        NotFound: An id names none or several; nothing was changed.
        Refused: One is not in a state from which it can be tried again; nothing was changed.
    """
    found = named(engine, ids)
    requeue(engine, found)
    return found


def named(engine: Engine, ids: Sequence[str]) -> list[str]:
    """Give the whole ids of what `retry` would try again.

    Raises:
        NotFound: An id names none or several.
        Refused: One cannot be tried again.
    """
    rows = [find(engine, id_) for id_ in ids]
    with reading(engine) as connection:
        now = now_ms(connection)
    for row in rows:
        _refuse(row, _why_not(row, now))
        if row.state == State.UNKNOWN and _is_for_a_person(row, now):
            _refuse(
                row,
                "may have arrived and must not be sent twice: say what happened, mirrorpost "
                f"deliveries resolve {row.id} sent|resend|drop",
            )
    return [row.id for row in rows]


def _refuse(row: DeliveryRow, why: str | None) -> None:
    if why is not None:
        raise Refused(f"delivery {row.id} {why}")


def _why_not(row: DeliveryRow, now: int) -> str | None:
    if row.state == State.HELD and row.error_kind == WAITS:
        return (
            "waits for an earlier delivery of its chat: retry or cancel that one, see mirrorpost "
            f"deliveries explain {row.id}"
        )
    if row.state == State.HELD and row.error_kind == WAITS_FOR_BROADCAST:
        return f"waits for its broadcast, see mirrorpost deliveries explain {row.id}"
    if row.state not in RETRYABLE:
        return f"is {row.state}: only those that are {', '.join(RETRYABLE)} can be tried again"
    if row.expires_ms is not None and row.expires_ms <= now:
        return "must not go out any more, its time to expire has passed: send it anew"
    return None


def _is_for_a_person(row: DeliveryRow, now: int) -> bool:
    """Tell whether a try would only find that nobody can know whether it arrived."""
    adapter = platforms().get(row.platform or "")
    doubt_s = None if row.doubt_ms is None else (now - row.doubt_ms) / 1000
    return adapter is not None and choose(adapter, row.policy, doubt_s) is Way.STOP


def matching(engine: Engine, which: Filter) -> list[str]:
    """Give the ids of what a filter would have tried again, oldest first.

    Raises:
        Refused: The status is not one from which a delivery can be tried again.
    """
    found: list[str] = []
    states = _states(which)
    while True:
        more = oldest_ids(
            engine,
            which,
            states=states,
            also=by_hand.can_be_retried(engine.dialect.name),
            limit=1_000,
            after=found[-1] if found else "",
        )
        found += more
        if not more:
            return found


def paced(
    ids: Sequence[str], *, rate: float, sleep: Callable[[float], None] = time.sleep
) -> Iterator[Sequence[str]]:
    """Give these in batches, `rate` a second."""
    size = max(1, min(_BATCH, int(rate * _PAUSE_S)))
    for at in range(0, len(ids), size):
        if at:
            sleep(size / rate)
        yield ids[at : at + size]


def requeue(engine: Engine, ids: Sequence[str]) -> int:
    """Queue and publish those of a batch that can still be tried again; give how many."""
    with engine.begin() as connection:
        queued = by_hand.retry(connection, ids)
    publish(engine, queued)
    return len(queued)


def _states(which: Filter) -> Sequence[State]:
    if which.status is None:
        return _BY_FILTER
    if which.status not in RETRYABLE:
        raise Refused(f"--status must be one of {', '.join(RETRYABLE)}, not {which.status!r}")
    return (State(which.status),)


def cancel(engine: Engine, ids: Sequence[str]) -> list[str]:
    """End deliveries that are not under way; give their whole ids.

    Raises:
        NotFound: An id names none or several; nothing was changed.
        Refused: One has ended or is under way; nothing was changed.
    """
    rows = [find(engine, id_) for id_ in ids]
    with engine.begin() as connection:
        done = set(by_hand.cancel(connection, [row.id for row in rows]))
        for row in rows:
            if row.id not in done:
                raise Refused(
                    f"delivery {row.id} is {row.state}: only those that are "
                    f"{', '.join(by_hand.CANCELLABLE)} can be cancelled"
                )
    return [row.id for row in rows]


def resolve(engine: Engine, id_: str, resolution: Resolution) -> str:
    """Say of an `unknown` delivery that it was sent, is to be sent again, or dropped.

    Raises:
        NotFound: The id names none or several.
        Refused: It is not `unknown`, or is to be sent again and must not go out any more.
    """
    row = find(engine, id_)
    if row.state == State.UNKNOWN and resolution is Resolution.RESEND:
        with reading(engine) as connection:
            _refuse(row, _why_not(row, now_ms(connection)))
    with engine.begin() as connection:
        queued = by_hand.resolve(connection, row.id, resolution)
    if queued is None:
        raise Refused(f"delivery {row.id} is {row.state}: only what is unknown can be resolved")
    publish(engine, queued)
    return row.id
