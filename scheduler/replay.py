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
from worker.errors import Refused
from worker.states import State

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
    rows = [find(engine, id_) for id_ in ids]
    for row in rows:
        if row.state not in RETRYABLE or (row.state == "held" and row.error_kind == "order"):
            raise Refused(
                f"delivery {row.id} is {row.state}: only those that are "
                f"{', '.join(RETRYABLE)} can be tried again"
            )
    _requeue(engine, [row.id for row in rows])
    return [row.id for row in rows]


def matching(engine: Engine, which: Filter) -> list[str]:
    """Give the ids that `retry_all` would try again, oldest first.

    Raises:
        Refused: The status is not one from which a delivery can be tried again.
    """
    found: list[str] = []
    states = _states(which)
    while True:
        more = oldest_ids(
            engine, which, states=states, limit=1_000, after=found[-1] if found else ""
        )
        found += more
        if not more:
            return found


def retry_all(
    engine: Engine,
    ids: Sequence[str],
    *,
    rate: float,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[int]:
    """Queue these again, `rate` a second; give after each batch how many were queued."""
    size = max(1, min(_BATCH, int(rate * _PAUSE_S)))
    for at in range(0, len(ids), size):
        if at:
            sleep(size / rate)
        yield _requeue(engine, ids[at : at + size])


def _states(which: Filter) -> Sequence[State]:
    if which.status is None:
        return _BY_FILTER
    if which.status not in RETRYABLE:
        raise Refused(f"--status must be one of {', '.join(RETRYABLE)}, not {which.status!r}")
    return (State(which.status),)


def _requeue(engine: Engine, ids: Sequence[str]) -> int:
    with engine.begin() as connection:
        queued = by_hand.retry(connection, ids)
    publish(engine, queued)
    return len(queued)


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
        Refused: It is not `unknown`.
    """
    row = find(engine, id_)
    with engine.begin() as connection:
        queued = by_hand.resolve(connection, row.id, resolution)
    if queued is None:
        raise Refused(f"delivery {row.id} is {row.state}: only what is unknown can be resolved")
    publish(engine, queued)
    return row.id
