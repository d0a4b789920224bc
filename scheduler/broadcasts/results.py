"""Results: what became of each recipient of a broadcast, streamed.

Called by the command line. Reads only, a short transaction a chunk.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import orjson
from sqlalchemy import Engine, text

from scheduler.broadcasts.states import BroadcastState
from scheduler.broadcasts.tables import BroadcastRow
from worker.database import reading
from worker.order import WAITS_FOR_BROADCAST

#: Recipients of one query.
_CHUNK = 2_000
_NEXT = text(
    "SELECT r.person, r.target, r.platform AS planned, r.excluded, d.state, d.platform, "
    "d.error_kind, d.error_text, CAST(d.receipt AS TEXT) AS receipt, d.ended_ms, d.id "
    "FROM (SELECT * FROM recipient WHERE broadcast_id = :id AND person > :after "
    "ORDER BY person LIMIT :limit) AS r "
    "LEFT JOIN delivery d ON d.key = 'broadcast:' || r.broadcast_id || ':' || r.person "
    "ORDER BY r.person"
)


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one recipient.

    Attributes:
        status: The state of the delivery; `left_out` by the preflight, `waiting` for its turn.
        receipt: The platform's message ids, with spaces between them.
        sent_ms: When it was sent.
    """

    person: str
    target: str
    platform: str | None
    status: str
    reason: str | None
    receipt: str | None
    sent_ms: int | None
    delivery: str | None


def results(engine: Engine, broadcast: BroadcastRow) -> Iterator[Result]:
    """Give what became of each recipient, in the order of their names."""
    after = ""
    while True:
        with reading(engine) as connection:
            rows = connection.execute(
                _NEXT, {"id": broadcast.id, "after": after, "limit": _CHUNK}
            ).all()
        for row in rows:
            status, reason = _status(broadcast, row.excluded, row.state, row.error_kind)
            yield Result(
                row.person,
                row.target,
                row.platform or row.planned,
                status,
                reason or row.error_text,
                None if row.receipt is None else " ".join(orjson.loads(row.receipt)),
                row.ended_ms if status == "sent" else None,
                row.id,
            )
        if len(rows) < _CHUNK:
            return
        after = rows[-1].person


def _status(
    broadcast: BroadcastRow, excluded: str | None, state: str | None, error_kind: str | None
) -> tuple[str, str | None]:
    if excluded is not None:
        return "left_out", excluded.replace("_", " ")
    if state is None and broadcast.state == BroadcastState.CANCELLED:
        return "cancelled", None
    if state is None or (state == "held" and error_kind == WAITS_FOR_BROADCAST):
        return "waiting", None
    return state, None
