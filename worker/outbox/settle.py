"""Settle: what came of claimed deliveries is written, with their attempts.

Part of the outbox. A settle that does not hold the fence changes nothing but the record of
its attempt, which is marked as fenced.
"""

from collections.abc import Sequence
from functools import cache

import orjson
from sqlalchemy import Connection, TextClause, text

from worker.database import NOW_MS
from worker.json_rows import rows_from_json
from worker.states import TRANSITIONS, State
from worker.verdict import Settlement

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
    "doubt": "boolean",
    "took_ms": "integer",
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
    "part": "integer",
}


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
    settled = set(connection.execute(_settle_statement(dialect), {"rows": rows}).scalars())
    if dialect == "sqlite":
        done = orjson.dumps(list(settled)).decode()
        connection.execute(_attempt_statement(), {"rows": rows, "settled": done})
    return settled


@cache
def _settle_statement(dialect: str) -> TextClause:
    now = NOW_MS[dialect]
    if dialect == "sqlite":
        return text(_update(now, f"({rows_from_json(dialect, _SETTLE)}) AS r"))
    # One round trip for both: a statement on PostgreSQL costs more waiting than work.
    return text(
        f"""
        WITH r AS MATERIALIZED ({rows_from_json(dialect, {**_SETTLE, **_ATTEMPT})}),
        settled AS ({_update(now, "r")}),
        tried AS ({_record("r", "SELECT id FROM settled")})
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
            doubt_ms = CASE WHEN r.doubt IS NULL THEN delivery.doubt_ms
                       WHEN r.doubt THEN COALESCE(delivery.doubt_ms, {now} - r.took_ms) END,
            published_ms = CASE WHEN r.state = 'queued' THEN 0 ELSE delivery.published_ms END,
            ended_ms = CASE WHEN r.state IN ('sent', 'failed', 'expired', 'suppressed', 'unknown')
                       THEN {now} END
        FROM {rows}
        WHERE delivery.id = r.id AND delivery.attempt = r.attempt
            AND delivery.state || '' = 'sending'
        RETURNING delivery.id
        """


@cache
def _attempt_statement() -> TextClause:
    rows = f"({rows_from_json('sqlite', _ATTEMPT)}) AS r"
    return text(_record(rows, "SELECT value FROM json_each(:settled)"))


def _record(rows: str, settled: str) -> str:
    # Whoever took up the lost lease has written an attempt of this number that knew less.
    return f"""
        INSERT INTO attempt (delivery_id, attempt, owner, started_ms, took_ms, outcome, code,
            http_status, retry_after_ms, text, part, fenced)
        SELECT id, attempt, owner, started_ms, took_ms, outcome, code, http_status,
            retry_after_ms, error_text, part, id NOT IN ({settled})
        FROM {rows} WHERE outcome IS NOT NULL
        ON CONFLICT (delivery_id, attempt) DO UPDATE SET owner = excluded.owner,
            started_ms = excluded.started_ms, took_ms = excluded.took_ms,
            outcome = excluded.outcome, code = excluded.code,
            http_status = excluded.http_status, text = excluded.text, fenced = excluded.fenced
        """
