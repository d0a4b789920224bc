"""Fan-out: the next recipients of a running broadcast become deliveries, chunk by chunk.

A chunk is one transaction with the cursor `fanned_out`, so whoever dies in it leaves nothing of
it, and two schedulers never do the same one. The deliveries are held until the broadcast is fed.
On PostgreSQL a plain text never leaves the database; a template is filled here.
"""

from functools import cache
from typing import Any

import orjson
from jinja2 import Template
from sqlalchemy import Connection, Engine, Row, TextClause, text

from scheduler.broadcasts.attributes import values_for
from scheduler.broadcasts.canary import canary_size
from scheduler.broadcasts.states import BroadcastState
from scheduler.broadcasts.steer import halt
from scheduler.broadcasts.template import NotFillable, compile_template, fill
from worker.database import NOW_MS, reading
from worker.failpoints import reach
from worker.intake import body_hash, new_id
from worker.json_rows import rows_from_json
from worker.order import SEQ_OF_NEW, WAITS_FOR_BROADCAST

#: Recipients of one chunk.
CHUNK = 2_000


def waiting(engine: Engine) -> list[str]:
    """Give the ids of the running broadcasts that have recipients to fan out, the oldest first."""
    with reading(engine) as connection:
        rows = connection.execute(
            text(
                "SELECT id, recipients, fanned_out, canary_percent, canary_done FROM broadcast "
                "WHERE state = 'running' ORDER BY started_ms, id"
            )
        )
        return [row.id for row in rows if row.fanned_out < _last(row)]


def _last(row: "Row[Any]") -> int:
    """Give the `n` of the last recipient that is to have a delivery now."""
    if row.canary_percent is None or row.canary_done:
        return int(row.recipients)
    return canary_size(row.recipients, row.canary_percent)


def fan_out(engine: Engine, broadcast_id: str, limit: int = CHUNK) -> int:
    """Make deliveries for the next recipients of a running broadcast; give for how many.

    0 when it does not run, everybody has one, or another process is just at it. One whose
    template has no text for somebody halts: the others go on.
    """
    try:
        return _fan_out(engine, broadcast_id, limit)
    except NotFillable as error:
        reason = f"the template has no text for a recipient any more: {error}"
        with engine.begin() as connection:
            halt(connection, broadcast_id, BroadcastState.HALTED, reason)
        return 0


def _fan_out(engine: Engine, broadcast_id: str, limit: int) -> int:
    with engine.begin() as connection:
        row = connection.execute(_claim(connection.dialect.name), {"id": broadcast_id}).first()
        if row is None:
            return 0
        first, last = row.fanned_out, min(row.fanned_out + limit, _last(row))
        if last <= first:
            return 0
        connection.execute(
            text("UPDATE broadcast SET fanned_out = :last WHERE id = :id"),
            {"id": broadcast_id, "last": last},
        )
        reach("in_fan_out", row.name)
        if connection.dialect.name == "postgresql" and not row.templated:
            _insert_plain(connection, row, first, last)
        else:
            _insert_filled(connection, row, first, last)
    reach("after_fan_out", row.name)
    return int(last - first)


@cache
def _claim(dialect: str) -> TextClause:
    # Its row is the lock: of two schedulers one goes on to another broadcast. Whoever feeds it
    # meanwhile does not wait.
    lock = "" if dialect == "sqlite" else "FOR NO KEY UPDATE SKIP LOCKED"
    return text(
        "SELECT id, name, body, templated, topic, source, silent, recipients, fanned_out, "
        "canary_percent, canary_done FROM broadcast WHERE id = :id AND state = 'running' " + lock
    )


#: The columns of a delivery that differ from one recipient to the other.
_OWN = {
    "id": "text",
    "key": "text",
    "body_hash": "text",
    "target": "text",
    "platform": "text",
    "account": "text",
    "chat_id": "text",
    "thread_id": "text",
    "text": "text",
    "n": "bigint",
}


def _insert(dialect: str, rows: str) -> str:
    """Give SQL that stores held deliveries of rows with the columns of `_OWN`."""
    own = ", ".join(name for name in _OWN if name != "n")
    # PostgreSQL would read the clock for each row.
    once = "" if dialect == "sqlite" else " OFFSET 0"
    return f"""
        INSERT INTO delivery ({own}, broadcast_id, topic, silent, source, lane, policy, seq, state,
            error_kind, due_ms, created_ms, attempt, attempts_used, published_ms, maybe_duplicate)
        SELECT {own}, :id, :topic, :silent, :source, 'broadcast', 'resend', {SEQ_OF_NEW[dialect]},
            'held', '{WAITS_FOR_BROADCAST}', now.ms, now.ms, 0, 0, now.ms, false
        FROM ({rows}) AS r, (SELECT {NOW_MS[dialect]} AS ms{once}) AS now
        WHERE true ORDER BY n ON CONFLICT (key) DO NOTHING
        """


def _common(row: "Row[Any]") -> dict[str, object]:
    return {"id": row.id, "topic": row.topic, "silent": row.silent, "source": row.source}


def _insert_plain(connection: Connection, row: "Row[Any]", first: int, last: int) -> None:
    # What the hash is of behind the target.
    rest = orjson.dumps([row.body, None, bool(row.silent), None]).decode().replace("[", ",", 1)
    values = {"body": row.body, "rest": rest}
    connection.execute(_plain(), {**_common(row), **values, "first": first, "last": last})


@cache
def _plain() -> TextClause:
    # An id is a UUID of version 7, as the door makes it: the time, the version, and of a random
    # one what stands behind its own version. The hash is the door's too.
    now = NOW_MS["postgresql"]
    rows = f"""
        SELECT lpad(to_hex({now}), 12, '0') || '7'
                || substr(replace(CAST(gen_random_uuid() AS text), '-', ''), 14) AS id,
            'broadcast:' || broadcast_id || ':' || person AS key,
            encode(sha256(convert_to('[' || CAST(to_json(target) AS text) || :rest, 'UTF8')), 'hex')
                AS body_hash,
            target, platform, account, chat_id, thread_id, CAST(:body AS text) AS text, n
        FROM recipient WHERE broadcast_id = :id AND n > :first AND n <= :last
        """
    return text(_insert("postgresql", rows))


def _insert_filled(connection: Connection, row: "Row[Any]", first: int, last: int) -> None:
    template = compile_template(row.body) if row.templated else None
    recipients = connection.execute(_RECIPIENTS, {"id": row.id, "first": first, "last": last})
    rows = [_filled_row(row, template, each) for each in recipients]
    connection.execute(
        _filled(connection.dialect.name), {**_common(row), "rows": orjson.dumps(rows).decode()}
    )


def _filled_row(row: "Row[Any]", template: Template | None, to: "Row[Any]") -> dict[str, object]:
    words: str = row.body
    if template is not None:
        words = fill(template, values_for(to.person, to.platform, to.attributes))
    return {
        "id": new_id(),
        "key": f"broadcast:{row.id}:{to.person}",
        "body_hash": body_hash(to.target, words, silent=bool(row.silent)),
        "target": to.target,
        "platform": to.platform,
        "account": to.account,
        "chat_id": to.chat_id,
        "thread_id": to.thread_id,
        "text": words,
        "n": to.n,
    }


_RECIPIENTS = text(
    "SELECT person, target, platform, account, chat_id, thread_id, n - :first AS n, "
    "CAST(attributes AS text) AS attributes "
    "FROM recipient WHERE broadcast_id = :id AND n > :first AND n <= :last ORDER BY n"
)


@cache
def _filled(dialect: str) -> TextClause:
    return text(_insert(dialect, rows_from_json(dialect, _OWN)))
