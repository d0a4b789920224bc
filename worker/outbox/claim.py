"""Claim: rows are taken by lease, kept by renewal, given back unsent.

Part of the outbox. The attempt number is the fence: whoever settles must hold it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import orjson
from sqlalchemy import Connection, RowMapping, TextClause, text

from worker.database import NOW_MS
from worker.json_rows import rows_from_json
from worker.order import IS_BEHIND, WAITS

_CLAIMED = (
    "id, attempt, attempts_used, target, platform, account, chat_id, thread_id, text, metadata, "
    "reply_to, silent, source, topic, action, refers_to, lane, policy, order_key, expires_ms, "
    "created_ms, maybe_duplicate, receipt"
)
#: Columns that a textual statement on SQLite gives as text and as integers.
_JSON = ("metadata", "receipt")
_BOOLEAN = ("silent", "maybe_duplicate")
_HELD = {"id": "text", "attempt": "integer"}


@dataclass(frozen=True, slots=True)
class Claimed:
    """A delivery that this process holds by lease.

    Attributes:
        attempt: The fence.
        receipt: The message ids of the parts that were sent before.
        action: What it does, see `worker.actions`; `refers_to` is the delivery that it changes.
        age_ms: Milliseconds since it was claimed for the first time.
        doubt_ms: Milliseconds since when an attempt may have been accepted without an answer;
            `None` without doubt.
    """

    id: str
    attempt: int
    attempts_used: int
    target: str
    platform: str | None
    account: str
    chat_id: str | None
    thread_id: str | None
    text: str
    metadata: dict[str, object] | None
    reply_to: str | None
    silent: bool
    source: str
    topic: str
    lane: str
    policy: str
    order_key: str | None
    expires_ms: int | None
    created_ms: int
    maybe_duplicate: bool
    receipt: list[str] | None
    action: str
    refers_to: str | None
    age_ms: int
    doubt_ms: int | None


@dataclass(frozen=True, slots=True)
class Taken:
    """What a claim found.

    Attributes:
        claimed: In the order in which they should leave.
        touched: Rows looked at, with those that an earlier one of their chat holds back.
    """

    claimed: list[Claimed]
    touched: int


def claim(
    connection: Connection,
    *,
    owner: str,
    lease_ms: int,
    limit: int,
    ids: Sequence[str] = (),
) -> Taken:
    """Take up to `limit` queued deliveries by lease, those named or else whatever is queued.

    Bumps the fence of each. What is behind another one of its order key is parked as `held`.
    """
    dialect = connection.dialect.name
    statement = _claim_statement(dialect, named=bool(ids))
    parameters: dict[str, object] = {"owner": owner, "lease_ms": lease_ms, "limit": limit}
    if ids:
        parameters["ids"] = orjson.dumps(list(ids)).decode() if dialect == "sqlite" else list(ids)
    rows = connection.execute(statement, parameters).mappings().all()
    claimed = [_claimed(row) for row in rows if row["state"] == "sending"]
    claimed.sort(key=lambda c: c.id)
    claimed.sort(key=lambda c: c.lane, reverse=True)
    return Taken(claimed, len(rows))


def _claimed(row: RowMapping) -> Claimed:
    values: dict[str, object] = {str(name): value for name, value in row.items()}
    del values["state"]
    for name in _JSON:
        value = values[name]
        if isinstance(value, str):
            values[name] = orjson.loads(value)
    for name in _BOOLEAN:
        values[name] = bool(values[name])
    return Claimed(**values)  # type: ignore[arg-type]  # the columns are the fields


@cache
def _claim_statement(dialect: str, *, named: bool) -> TextClause:
    if not named:
        wanted = "state = 'queued'"
    elif dialect == "sqlite":
        wanted = "state = 'queued' AND id IN (SELECT value FROM json_each(:ids))"
    else:
        # PostgreSQL counts the partial index of queued rows as small and cannot see that it
        # is full of dead entries; spelled so, it goes by the primary key.
        wanted = "state || '' = 'queued' AND id = ANY(CAST(:ids AS text[]))"
    # SQLite has no row locks and needs none: the transaction began as IMMEDIATE.
    lock = "" if dialect == "sqlite" else "FOR UPDATE SKIP LOCKED"
    now = NOW_MS[dialect]
    # PostgreSQL may run what is joined more than once, and lock more rows than the limit.
    once = "" if dialect == "sqlite" else "MATERIALIZED"
    return text(
        f"""
        WITH w AS {once} (
            SELECT id AS wanted_id, {IS_BEHIND} AS behind FROM delivery WHERE {wanted}
            ORDER BY lane DESC, due_ms, id LIMIT :limit {lock})
        UPDATE delivery SET
            state = CASE WHEN w.behind THEN 'held' ELSE 'sending' END,
            attempt = delivery.attempt + CASE WHEN w.behind THEN 0 ELSE 1 END,
            owner = CASE WHEN w.behind THEN NULL ELSE :owner END,
            lease_until_ms = CASE WHEN w.behind THEN NULL ELSE {now} + :lease_ms END,
            begun_ms = CASE WHEN w.behind THEN delivery.begun_ms
                       ELSE COALESCE(delivery.begun_ms, {now}) END,
            error_kind = CASE WHEN w.behind THEN '{WAITS}' ELSE delivery.error_kind END,
            error_text = CASE WHEN w.behind THEN 'an earlier delivery to this chat comes first'
                         ELSE delivery.error_text END
        FROM w WHERE delivery.id = w.wanted_id
        RETURNING state, {_CLAIMED}, {now} - begun_ms AS age_ms, {now} - doubt_ms AS doubt_ms
        """
    )


def renew(
    connection: Connection, held: Mapping[str, int], *, lease_ms: int, in_doubt: bool = False
) -> set[str]:
    """Lengthen the leases of deliveries, given with their fences; give those still held.

    Args:
        in_doubt: Note as well, before the request leaves, that it may be accepted from now on.
    """
    rows = orjson.dumps([{"id": id_, "attempt": attempt} for id_, attempt in held.items()])
    statement = _renew_statement(connection.dialect.name, in_doubt=in_doubt)
    found = connection.execute(statement, {"rows": rows.decode(), "lease_ms": lease_ms})
    return set(found.scalars())


@cache
def _renew_statement(dialect: str, *, in_doubt: bool) -> TextClause:
    now = NOW_MS[dialect]
    doubt = f", doubt_ms = COALESCE(delivery.doubt_ms, {now})" if in_doubt else ""
    return text(
        f"UPDATE delivery SET lease_until_ms = {now} + :lease_ms{doubt} "
        f"FROM ({rows_from_json(dialect, _HELD)}) AS r WHERE delivery.id = r.id "
        "AND delivery.attempt = r.attempt AND delivery.state || '' = 'sending' "
        "RETURNING delivery.id"
    )


def give_back(connection: Connection, claimed: Sequence[tuple[str, int]]) -> None:
    """Return claimed deliveries that were not sent; the relay publishes them again."""
    if claimed:
        connection.execute(
            text(
                "UPDATE delivery SET state = 'queued', lease_until_ms = NULL, owner = NULL, "
                "published_ms = 0 WHERE id = :id AND attempt = :attempt AND state = 'sending'"
            ),
            [{"id": id_, "attempt": attempt} for id_, attempt in claimed],
        )
