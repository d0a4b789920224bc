"""Order: deliveries of one key leave one after the other, as they were stored.

Part of the outbox: writes the state by `worker.states`. A claim takes only the head of a key
and parks what is behind it as `held`; whatever ends a head calls `release` in the same
transaction. `sweep` mends what two transactions could not see of each other.

A delivery has its place, `seq`, from when it can go: what was scheduled for later takes a new
one when it is due, and what had ended when a person has it tried again. So none comes before
one that is under way. What is held until a time has none meanwhile: it holds nobody back.
"""

from collections.abc import Collection
from functools import cache

import orjson
from sqlalchemy import Connection, TextClause, text

from worker.tables import HELD_OTHERWISE, IN_ORDER

#: SQL for the place of a new row, the `n`-th of its statement. SQLite has no sequences, and one
#: writer at a time: the last rowid makes one, with room for the rows of one statement and,
#: before them, for those that come again.
SEQ_OF_NEW = {
    "sqlite": "(SELECT COALESCE(max(rowid), 0) FROM delivery) * 1000000 + 500000 + n",
    "postgresql": "nextval('delivery_seq')",
}
#: The error kind of a delivery that is held because another one of its key comes first.
WAITS = "order"
#: The error kind of a delivery that is held until its broadcast lets it go.
WAITS_FOR_BROADCAST = "broadcast"
#: Rows of one sweep.
_SWEEP = 1_000

#: Both tests of the state, because SQLite uses a partial index only for its very words.
_NEXT = (
    "SELECT w.id FROM delivery w WHERE w.order_key = k.value AND w.state = 'held' "
    "AND w.error_kind = 'order' AND w." + IN_ORDER + " ORDER BY w.seq LIMIT 1"
)
_QUEUE = (
    "UPDATE delivery SET state = 'queued', published_ms = 0, error_kind = NULL, "
    "error_text = NULL WHERE id IN ({}) AND " + HELD_OTHERWISE + " RETURNING id"
)

#: SQL that is true of a row `delivery` that another one of its key holds back.
IS_BEHIND = (
    "(delivery.order_key IS NOT NULL AND EXISTS (SELECT 1 FROM delivery e "
    "WHERE e.order_key = delivery.order_key AND e.seq < delivery.seq AND e." + IN_ORDER + "))"
)

#: SQL for the last place in the order of a row `q`, in a query of several.
_LAST_PLACE = {
    "sqlite": "max((SELECT max(rowid) FROM delivery) * 1000000, COALESCE((SELECT max(e.seq) "
    "FROM delivery e WHERE e.order_key = q.order_key AND e." + IN_ORDER + "), 0)) "
    "+ row_number() OVER (ORDER BY due_ms, seq, id)",
    "postgresql": "nextval('delivery_seq')",
}


def queue(dialect: str, which: str, *, limit: str = "", changes: str, returning: str) -> str:
    """Give SQL that queues rows, at the end of their order if they had no place in it.

    Args:
        which: SQL that is true of the rows.
        changes: More columns to set.
    """
    sqlite = dialect == "sqlite"
    # PostgreSQL may run what is joined more than once, and would draw places before it sorts.
    once, sorted_first = ("", "") if sqlite else ("MATERIALIZED", "OFFSET 0")
    lock = "" if sqlite else "FOR UPDATE SKIP LOCKED"
    return f"""
        WITH w AS {once} (
            SELECT id AS wanted_id, CASE WHEN {IN_ORDER} AND seq IS NOT NULL THEN seq
                ELSE {_LAST_PLACE[dialect]} END AS place
            FROM (SELECT id, state, order_key, seq, due_ms FROM delivery WHERE {which}
                  ORDER BY due_ms, seq, id {limit} {sorted_first} {lock}) AS q)
        UPDATE delivery SET state = 'queued', seq = w.place, {changes}
        FROM w WHERE delivery.id = w.wanted_id
        RETURNING {returning}
        """


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
        f"SELECT id FROM delivery WHERE {HELD_OTHERWISE} AND error_kind = '{WAITS}' "
        f"AND NOT {IS_BEHIND} LIMIT {_SWEEP} {lock}"
    )
    return len(connection.execute(text(_QUEUE.format(free))).all())
