"""Amend: deliveries that change what others have sent become rows, idempotent by key.

Part of the outbox. Each goes where the other went, with its order, or in an order of its own
with the others that change the same.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache

import orjson
from sqlalchemy import Connection, TextClause, text

from worker.actions import Action
from worker.database import NOW_MS
from worker.json_rows import rows_from_json
from worker.order import SEQ_OF_NEW

_ROW = {
    "id": "text",
    "key": "text",
    "body_hash": "text",
    "refers_to": "text",
    "action": "text",
    "text": "text",
    "metadata": "json",
    "lane": "text",
    "n": "integer",
}


@dataclass(frozen=True, slots=True)
class NewAmendment:
    """A change of what the delivery `refers_to` has sent, not stored yet.

    Attributes:
        text: What the messages are to say; empty for what retracts.
        metadata: The ids of the messages, see `worker.amend`.
    """

    id: str
    key: str
    body_hash: str
    refers_to: str
    action: Action
    text: str
    metadata: dict[str, object]
    lane: str


def insert_amendments(connection: Connection, new: Sequence[NewAmendment]) -> set[str]:
    """Store amendments in the order given; give the ids of those whose key was not used yet.

    What they refer to must be `sent`, or nothing is stored for it.
    """
    if not new:
        return set()
    rows = orjson.dumps([{**asdict(each), "n": n} for n, each in enumerate(new)]).decode()
    statement = _statement(connection.dialect.name)
    return set(connection.execute(statement, {"rows": rows}).scalars())


@cache
def _statement(dialect: str) -> TextClause:
    now = NOW_MS[dialect]
    return text(
        f"""
        INSERT INTO delivery (id, key, body_hash, target, platform, account, chat_id, thread_id,
            unified_user, topic, action, refers_to, text, metadata, silent, source, lane, policy,
            order_key, seq, state, due_ms, created_ms, attempt, attempts_used, published_ms,
            maybe_duplicate)
        SELECT r.id, r.key, r.body_hash, o.target, o.platform, o.account, o.chat_id, o.thread_id,
            o.unified_user, o.topic, r.action, r.refers_to, r.text, r.metadata, o.silent,
            o.source, r.lane, 'resend', COALESCE(o.order_key, 'amend:' || o.id),
            {SEQ_OF_NEW[dialect]}, 'queued', {now}, {now}, 0, 0, {now}, false
        FROM ({rows_from_json(dialect, _ROW)}) AS r JOIN delivery o ON o.id = r.refers_to
        WHERE o.state = 'sent' ORDER BY n
        ON CONFLICT (key) DO NOTHING
        RETURNING id
        """
    )
