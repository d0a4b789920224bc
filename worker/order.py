"""Order: deliveries of one key leave one after the other, as they were stored.

Part of the outbox: writes the state by `worker.states`. A claim takes only the head of a key
and parks what is behind it as `held`; whatever ends a head calls `release` in the same
transaction. `sweep` mends what two transactions could not see of each other.
"""

from collections.abc import Collection
from functools import cache

import orjson
from sqlalchemy import Connection, TextClause, text

from worker.tables import IN_ORDER

#: The error kind of a delivery that is held because another one of its key comes first.
WAITS = "order"
#: Rows of one sweep.
_SWEEP = 1_000

#: Both tests of the state, because SQLite uses a partial index only for its very words.
_NEXT = (
    "SELECT w.id FROM delivery w WHERE w.order_key = k.value AND w.state = 'held' "
    "AND w.error_kind = 'order' AND w." + IN_ORDER + " ORDER BY w.seq LIMIT 1"
)
_QUEUE = (
    "UPDATE delivery SET state = 'queued', published_ms = 0, error_kind = NULL, "
    "error_text = NULL WHERE id IN ({}) AND state = 'held' RETURNING id"
)

#: SQL that is true of a row `delivery` that another one of its key holds back.
IS_BEHIND = (
    "(delivery.order_key IS NOT NULL AND EXISTS (SELECT 1 FROM delivery e "
    "WHERE e.order_key = delivery.order_key AND e.seq < delivery.seq AND e." + IN_ORDER + "))"
)


def release(connection: Connection, order_keys: Collection[str]) -> list[str]:
    """Queue the next delivery of each key whose head has ended; give the ids.

    They are unpublished: the caller claims them, or the relay publishes them.
    """
    if not order_keys:
        return []
    keys = orjson.dumps(sorted(order_keys)).decode()
    statement = _release(connection.dialect.name)
    return list(connection.execute(statement, {"keys": keys}).scalars())


@cache
def _release(dialect: str) -> TextClause:
    keys = (
        "json_each(:keys)"
        if dialect == "sqlite"
        else "json_array_elements_text(CAST(:keys AS json))"
    )
    return text(_QUEUE.format(f"SELECT ({_NEXT}) FROM {keys} AS k"))


def sweep(connection: Connection) -> int:
    """Queue whatever is held although nothing before it is left; give how many.

    A claim that parks a row and a settle that ends the head do not see each other on
    PostgreSQL. What nobody releases then is found here.
    """
    lock = "" if connection.dialect.name == "sqlite" else "FOR UPDATE SKIP LOCKED"
    free = (
        f"SELECT id FROM delivery WHERE state = 'held' AND error_kind = '{WAITS}' "
        f"AND NOT {IS_BEHIND} LIMIT {_SWEEP} {lock}"
    )
    return len(connection.execute(text(_QUEUE.format(free))).all())
