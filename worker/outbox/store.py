"""Store: what was asked for becomes rows, idempotent by key.

Part of the outbox. Runs in the caller's transaction, with all its rows as one JSON array.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import orjson
from sqlalchemy import Connection, TextClause, text

from worker.database import NOW_MS
from worker.errors import KeyConflict
from worker.intake import NewDelivery
from worker.json_rows import rows_from_json
from worker.lanes import Lane
from worker.order import SEQ_OF_NEW
from worker.states import State

_INSERT = {
    "id": "text",
    "key": "text",
    "body_hash": "text",
    "target": "text",
    "platform": "text",
    "account": "text",
    "chat_id": "text",
    "thread_id": "text",
    "text": "text",
    "metadata": "json",
    "reply_to": "text",
    "silent": "boolean",
    "source": "text",
    "topic": "text",
    "lane": "text",
    "order_key": "text",
    "policy": "text",
    "at_ms": "bigint",
    "expires_ms": "bigint",
    "n": "integer",
}


@dataclass(frozen=True, slots=True)
class Accepted:
    """A delivery that is committed with the caller's transaction.

    Attributes:
        created: False when the same key and body were accepted before.
        due_now: It can be published at once.

    """

    id: str
    lane: Lane
    created: bool
    due_now: bool
    state: State
    target: str


def insert(connection: Connection, deliveries: Sequence[NewDelivery]) -> list[Accepted]:
    """Store deliveries in the caller's transaction, idempotent by key, in the order given.

    Raises:
        KeyConflict: A key was used before for another body; the caller rolls back.

    """
    if not deliveries:
        return []
    rows = [_insert_row(n, d) for n, d in enumerate(deliveries)]
    statement = _insert_statement(connection.dialect.name)
    inserted = connection.execute(statement, {"rows": orjson.dumps(rows).decode()}).all()
    stored: dict[str, str] = {row.id: row.state for row in inserted}
    return [
        Accepted(
            d.id,
            d.lane,
            created=True,
            due_now=stored[d.id] == State.QUEUED,
            state=State(stored[d.id]),
            target=str(d.target),
        )
        if d.id in stored
        else _existing(connection, d)
        for d in deliveries
    ]


def _insert_row(n: int, delivery: NewDelivery) -> dict[str, object]:
    target = delivery.target
    person = target.is_person
    return {
        "id": delivery.id,
        "key": delivery.key,
        "body_hash": delivery.body_hash,
        "target": str(target),
        "platform": None if person else target.platform,
        "account": target.account,
        "chat_id": None if person else target.chat_id,
        "thread_id": target.thread,
        "text": delivery.text,
        "metadata": delivery.metadata,
        "reply_to": delivery.reply_to,
        "silent": delivery.silent,
        "source": delivery.source,
        "topic": delivery.topic,
        "lane": delivery.lane,
        "order_key": delivery.order_key,
        "policy": delivery.policy,
        "at_ms": delivery.at_ms,
        "expires_ms": delivery.expires_ms,
        "n": n,
    }


@cache
def _insert_statement(dialect: str) -> TextClause:
    now = NOW_MS[dialect]
    own = ", ".join(name for name in _INSERT if name not in {"at_ms", "n"})
    return text(
        f"""
        INSERT INTO delivery ({own}, seq, state,
            due_ms, created_ms, attempt, attempts_used, published_ms, maybe_duplicate)
        SELECT {own}, {SEQ_OF_NEW[dialect]},
            CASE WHEN at_ms > {now} THEN 'scheduled' ELSE 'queued' END,
            COALESCE(at_ms, {now}), {now}, 0, 0, {now}, false
        FROM ({rows_from_json(dialect, _INSERT)}) AS r WHERE true ORDER BY n
        ON CONFLICT (key) DO NOTHING
        RETURNING id, state
        """
    )


def _existing(connection: Connection, delivery: NewDelivery) -> Accepted:
    row = connection.execute(
        text("SELECT id, lane, state, target, body_hash FROM delivery WHERE key = :key"),
        {"key": delivery.key},
    ).one()
    if row.body_hash != delivery.body_hash:
        raise KeyConflict(
            f"key {delivery.key!r} was used before for another body (delivery {row.id}): "
            "give each occasion a key of its own"
        )
    return Accepted(
        row.id,
        Lane(row.lane),
        created=False,
        due_now=False,
        state=State(row.state),
        target=row.target,
    )
