"""The outbox: the only module that writes a delivery's state, and only by `worker.states`.

Each function is one statement, or a few in the caller's transaction. Hot statements take
their rows as one JSON array; the query plans are pinned by tests.
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
from worker.states import TRANSITIONS, State
from worker.verdict import Settlement

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
    "lane": "text",
    "policy": "text",
    "at_ms": "bigint",
    "expires_ms": "bigint",
}
_SETTLE = {
    "id": "text",
    "attempt": "integer",
    "state": "text",
    "delay_ms": "bigint",
    "cost": "integer",
    "error_kind": "text",
    "error_text": "text",
    "credential_print": "text",
    "maybe_duplicate": "boolean",
    "receipt": "json",
    "platform": "text",
    "account": "text",
    "chat_id": "text",
    "thread_id": "text",
    "unified_user": "text",
    "mirror": "text",
}
#: The error's text is the delivery's last and the attempt's own.
_ATTEMPT = {
    "id": "text",
    "attempt": "integer",
    "owner": "text",
    "started_ms": "bigint",
    "took_ms": "integer",
    "outcome": "text",
    "code": "text",
    "http_status": "integer",
    "retry_after_ms": "bigint",
    "error_text": "text",
}
_CLAIMED = (
    "id, attempt, attempts_used, target, platform, account, chat_id, thread_id, text, metadata, "
    "reply_to, silent, source, lane, policy, expires_ms, created_ms, maybe_duplicate"
)


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


@dataclass(frozen=True, slots=True)
class Claimed:
    """A delivery that this process holds by lease.

    Attributes:
        attempt: The fence.
        send_by: Until when it may be sent, on this process's monotonic clock in seconds.
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
    lane: str
    policy: str
    expires_ms: int | None
    created_ms: int
    maybe_duplicate: bool
    send_by: float


def insert(connection: Connection, deliveries: Sequence[NewDelivery]) -> list[Accepted]:
    """Store deliveries in the caller's transaction, idempotent by key, in the order given.

    Raises:
        KeyConflict: A key was used before for another body; the caller rolls back.

    """
    if not deliveries:
        return []
    rows = [_insert_row(d) for d in deliveries]
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


def _insert_row(delivery: NewDelivery) -> dict[str, object]:
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
        "lane": delivery.lane,
        "policy": delivery.policy,
        "at_ms": delivery.at_ms,
        "expires_ms": delivery.expires_ms,
    }


@cache
def _insert_statement(dialect: str) -> TextClause:
    now = NOW_MS[dialect]
    return text(
        f"""
        INSERT INTO delivery (id, key, body_hash, target, platform, account, chat_id, thread_id,
            text, metadata, reply_to, silent, source, lane, policy, state, due_ms, expires_ms,
            created_ms, attempt, attempts_used, published_ms, maybe_duplicate)
        SELECT id, key, body_hash, target, platform, account, chat_id, thread_id, text, metadata,
            reply_to, silent, source, lane, policy,
            CASE WHEN at_ms > {now} THEN 'scheduled' ELSE 'queued' END,
            COALESCE(at_ms, {now}), expires_ms, {now}, 0, 0, {now}, false
        FROM ({rows_from_json(dialect, _INSERT)}) AS r WHERE true
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


def claim(
    connection: Connection,
    *,
    owner: str,
    lease_ms: int,
    send_by: float,
    limit: int,
    ids: Sequence[str] = (),
) -> list[Claimed]:
    """Take up to `limit` queued deliveries by lease, those named or else whatever is queued.

    Gives them in the order in which they should leave. Bumps the fence of each.
    """
    statement = _claim_statement(connection.dialect.name, named=bool(ids))
    parameters: dict[str, object] = {"owner": owner, "lease_ms": lease_ms, "limit": limit}
    if ids:
        sqlite = connection.dialect.name == "sqlite"
        parameters["ids"] = orjson.dumps(list(ids)).decode() if sqlite else list(ids)
    rows = connection.execute(statement, parameters).all()
    claimed = [_claimed(row, send_by) for row in rows]
    claimed.sort(key=lambda c: c.id)
    claimed.sort(key=lambda c: c.lane, reverse=True)
    return claimed


def _claimed(row: Sequence[object], send_by: float) -> Claimed:
    values = list(row)
    # A textual statement on SQLite gives JSON as text and booleans as integers.
    if isinstance(values[9], str):
        values[9] = orjson.loads(values[9])
    values[11], values[17] = bool(values[11]), bool(values[17])
    values.append(send_by)
    return Claimed(*values)  # type: ignore[arg-type]  # the columns of _CLAIMED in their order


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
    return text(
        f"""
        UPDATE delivery SET state = 'sending', attempt = attempt + 1, owner = :owner,
            lease_until_ms = {NOW_MS[dialect]} + :lease_ms
        WHERE id IN (
            SELECT id FROM delivery WHERE {wanted}
            ORDER BY lane DESC, due_ms, id LIMIT :limit {lock})
        RETURNING {_CLAIMED}
        """
    )


def settle(connection: Connection, settlements: Sequence[Settlement], *, owner: str) -> set[str]:
    """Write what came of claimed deliveries and their attempts.

    Gives the ids that were settled; one that is missing was fenced: its lease ran out and
    somebody else holds it or ended it, and only the attempt is recorded.
    """
    if not settlements:
        return set()
    for settlement in settlements:
        if settlement.state not in TRANSITIONS[State.SENDING]:
            raise AssertionError(f"{settlement.state} does not follow sending")
    rows = orjson.dumps(
        [s.as_row(owner) for s in settlements], option=orjson.OPT_PASSTHROUGH_SUBCLASS
    ).decode()
    dialect = connection.dialect.name
    settled = connection.execute(_settle_statement(dialect), {"rows": rows}).scalars().all()
    if dialect == "sqlite":
        connection.execute(_attempt_statement(), {"rows": rows})
    return set(settled)


@cache
def _settle_statement(dialect: str) -> TextClause:
    now = NOW_MS[dialect]
    if dialect == "sqlite":
        return text(_update(now, f"({rows_from_json(dialect, _SETTLE)}) AS r"))
    # One round trip for both: a statement on PostgreSQL costs more waiting than work.
    return text(
        f"""
        WITH r AS MATERIALIZED ({rows_from_json(dialect, {**_SETTLE, **_ATTEMPT})}),
        tried AS ({_record("r")}),
        settled AS ({_update(now, "r")})
        SELECT id FROM settled
        """
    )


def _update(now: str, rows: str) -> str:
    # The state is spelled so for the same reason as in a claim by ids.
    return f"""
        UPDATE delivery SET state = r.state,
            due_ms = CASE WHEN r.delay_ms IS NULL THEN delivery.due_ms
                     ELSE {now} + r.delay_ms END,
            attempts_used = delivery.attempts_used + r.cost,
            error_kind = r.error_kind, error_text = r.error_text,
            credential_print = r.credential_print, maybe_duplicate = r.maybe_duplicate,
            receipt = r.receipt, platform = r.platform, account = r.account,
            chat_id = r.chat_id, thread_id = r.thread_id, unified_user = r.unified_user,
            mirror = r.mirror, lease_until_ms = NULL, owner = NULL,
            ended_ms = CASE WHEN r.state IN ('sent', 'failed', 'expired', 'suppressed', 'unknown')
                       THEN {now} END
        FROM {rows}
        WHERE delivery.id = r.id AND delivery.attempt = r.attempt
            AND delivery.state || '' = 'sending'
        RETURNING delivery.id
        """


@cache
def _attempt_statement() -> TextClause:
    return text(_record(f"({rows_from_json('sqlite', _ATTEMPT)}) AS r"))


def _record(rows: str) -> str:
    return f"""
        INSERT INTO attempt (delivery_id, attempt, owner, started_ms, took_ms, outcome, code,
            http_status, retry_after_ms, text)
        SELECT id, attempt, owner, started_ms, took_ms, outcome, code, http_status,
            retry_after_ms, error_text
        FROM {rows} WHERE outcome IS NOT NULL
        ON CONFLICT (delivery_id, attempt) DO NOTHING
        """


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


def mark_mirror_failed(connection: Connection, delivery_ids: Sequence[str]) -> None:
    """Note that what was sent is not in the history yet."""
    connection.execute(
        text("UPDATE delivery SET mirror = 'failed' WHERE id = :id"),
        [{"id": id_} for id_ in delivery_ids],
    )


def mark_mirrored(connection: Connection, delivery_id: str, unified_user: str) -> None:
    """Note that a delivery is in its person's history now."""
    connection.execute(
        text("UPDATE delivery SET mirror = 'done', unified_user = :user WHERE id = :id"),
        {"id": delivery_id, "user": unified_user},
    )


def release_held(
    connection: Connection, *, platform: str, account: str, credential_print: str
) -> int:
    """Queue what waits for another credential than the one that is there now."""
    return connection.execute(
        text(
            "UPDATE delivery SET state = 'queued', published_ms = 0 WHERE state = 'held' "
            "AND platform = :platform AND account = :account AND error_kind = 'auth' "
            "AND COALESCE(credential_print, '') <> :print"
        ),
        {"platform": platform, "account": account, "print": credential_print},
    ).rowcount


def held_accounts(connection: Connection) -> list[tuple[str, str]]:
    """Give the platforms and accounts for which something waits."""
    rows = connection.execute(
        text(
            "SELECT DISTINCT platform, account FROM delivery "
            "WHERE state = 'held' AND platform IS NOT NULL"
        )
    )
    return [(row.platform, row.account) for row in rows]
