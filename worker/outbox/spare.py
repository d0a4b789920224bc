"""Spare: claimed deliveries that their person should not get now are held or end.

Part of the outbox, for `worker.etiquette`. What is held until a time has no place in the
order meanwhile, and is as fresh as if nobody had claimed it.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache

import orjson
from sqlalchemy import Connection, TextClause, text

from worker.database import NOW_MS
from worker.json_rows import rows_from_json
from worker.states import State

#: The error kinds of what its person should not get, or not now.
OPTED_OUT = "opted_out"
QUIET_HOURS = "quiet_hours"
FREQUENCY_CAP = "frequency_cap"

_STOP = {
    "id": "text",
    "attempt": "integer",
    "state": "text",
    "due_ms": "bigint",
    "error_kind": "text",
    "error_text": "text",
    "unified_user": "text",
}
_LET = {
    "id": "text",
    "attempt": "integer",
    "unified_user": "text",
    "text": "text",
    "silent": "boolean",
}
_FOLD = {"id": "text", "leader": "text"}
_NAME = {"name": "text"}
#: The words of the index `ix_delivery_person`.
_OF_PERSON = "d.unified_user IS NOT NULL AND d.state IN ('queued', 'sending', 'held')"


@dataclass(frozen=True, slots=True)
class Stopped:
    """A claimed delivery that does not go out now.

    Attributes:
        state: `held` until `due_ms`, in epoch milliseconds, or `suppressed`.
    """

    id: str
    attempt: int
    state: State
    error_kind: str
    error_text: str
    unified_user: str | None
    due_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Let:
    """A claimed delivery that goes out; `text` is a new one, `silent` makes it so."""

    id: str
    attempt: int
    unified_user: str | None
    text: str | None = None
    silent: bool = False


@dataclass(frozen=True, slots=True)
class Waiting:
    """A delivery that may go out as a part of another one of its person."""

    id: str
    target: str
    topic: str
    text: str


def stop(connection: Connection, stops: Sequence[Stopped]) -> list[str]:
    """Hold or end claimed deliveries; give the order keys in which they were."""
    if not stops:
        return []
    return _keys(connection, _stop(connection.dialect.name), [asdict(each) for each in stops])


def let(connection: Connection, lets: Sequence[Let]) -> set[str]:
    """Note whose these deliveries are and how they go out; give the ids that are still ours."""
    if not lets:
        return set()
    rows = orjson.dumps([asdict(each) for each in lets]).decode()
    return set(connection.execute(_let(connection.dialect.name), {"rows": rows}).scalars())


def fold(connection: Connection, leaders: Mapping[str, str]) -> list[str]:
    """End deliveries whose text leaves with a leader's, given by id; give their order keys."""
    if not leaders:
        return []
    rows = [{"id": id_, "leader": leader} for id_, leader in leaders.items()]
    return _keys(connection, _fold(connection.dialect.name), rows)


def under_way(
    connection: Connection, names: Collection[str], *, but: Collection[str]
) -> dict[str, int]:
    """Count what is being sent unasked to each name, without the deliveries `but`."""
    values = {**_named(names), "but": orjson.dumps(list(but)).decode()}
    rows = connection.execute(_under_way(connection.dialect.name), values)
    return {row.unified_user: row.under_way for row in rows}


def waiting(connection: Connection, names: Collection[str]) -> dict[str, list[Waiting]]:
    """Give and lock what waits for a person's frequency cap, by name, in order of creation."""
    found: dict[str, list[Waiting]] = {}
    for row in connection.execute(_waiting(connection.dialect.name), _named(names)):
        waits = Waiting(row.id, row.target, row.topic, row.text)
        found.setdefault(row.unified_user, []).append(waits)
    return found


def one_at_a_time(connection: Connection) -> None:
    """Wait until no other worker counts, so that two do not both take the last room.

    On SQLite the transaction is the only writer as it is.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(_LOCK)


#: Any constant will do.
_LOCK = text("SELECT pg_advisory_xact_lock(hashtext('mirrorpost frequency cap'))")


def _named(names: Collection[str]) -> dict[str, object]:
    return {"rows": orjson.dumps([{"name": name} for name in sorted(names)]).decode()}


def _keys(connection: Connection, statement: TextClause, rows: Sequence[object]) -> list[str]:
    keys = connection.execute(statement, {"rows": orjson.dumps(rows).decode()}).scalars()
    return [key for key in keys if key is not None]


@cache
def _stop(dialect: str) -> TextClause:
    return text(
        f"""
        UPDATE delivery SET state = r.state, error_kind = r.error_kind,
            error_text = r.error_text, due_ms = COALESCE(r.due_ms, delivery.due_ms),
            unified_user = COALESCE(r.unified_user, delivery.unified_user),
            seq = CASE WHEN r.state = 'held' THEN NULL ELSE delivery.seq END,
            begun_ms = CASE WHEN r.state = 'held' THEN NULL ELSE delivery.begun_ms END,
            ended_ms = CASE WHEN r.state = 'suppressed' THEN {NOW_MS[dialect]} END,
            lease_until_ms = NULL, owner = NULL
        FROM ({rows_from_json(dialect, _STOP)}) AS r
        WHERE delivery.id = r.id AND delivery.attempt = r.attempt
            AND delivery.state || '' = 'sending'
        RETURNING delivery.order_key
        """
    )


@cache
def _let(dialect: str) -> TextClause:
    return text(
        f"""
        UPDATE delivery SET unified_user = COALESCE(r.unified_user, delivery.unified_user),
            text = COALESCE(r.text, delivery.text), silent = delivery.silent OR r.silent,
            error_kind = NULLIF(delivery.error_kind, '{FREQUENCY_CAP}')
        FROM ({rows_from_json(dialect, _LET)}) AS r
        WHERE delivery.id = r.id AND delivery.attempt = r.attempt
            AND delivery.state || '' = 'sending'
        RETURNING delivery.id
        """
    )


@cache
def _fold(dialect: str) -> TextClause:
    return text(
        f"""
        UPDATE delivery SET state = 'suppressed', error_kind = '{FREQUENCY_CAP}',
            error_text = 'in the digest of ' || r.leader, ended_ms = {NOW_MS[dialect]},
            lease_until_ms = NULL, owner = NULL
        FROM ({rows_from_json(dialect, _FOLD)}) AS r
        WHERE delivery.id = r.id AND delivery.state || '' IN ('held', 'queued', 'sending')
        RETURNING delivery.order_key
        """
    )


@cache
def _under_way(dialect: str) -> TextClause:
    own = (
        "SELECT value FROM json_each(:but)"
        if dialect == "sqlite"
        else "SELECT json_array_elements_text(CAST(:but AS json))"
    )
    return text(
        f"""
        SELECT d.unified_user, count(*) AS under_way
        FROM ({rows_from_json(dialect, _NAME)}) AS n JOIN delivery d ON d.unified_user = n.name
        WHERE {_OF_PERSON} AND d.state = 'sending' AND d.lane <> 'reply' AND d.action = 'send'
            AND COALESCE(d.error_kind, '') <> '{FREQUENCY_CAP}' AND d.id NOT IN ({own})
        GROUP BY d.unified_user
        """
    )


@cache
def _waiting(dialect: str) -> TextClause:
    lock = "" if dialect == "sqlite" else "FOR UPDATE OF d SKIP LOCKED"
    # Behind one of its chat, it lost the mark that it waits for the cap.
    return text(
        f"""
        SELECT d.id, d.unified_user, d.target, d.topic, d.text
        FROM ({rows_from_json(dialect, _NAME)}) AS n JOIN delivery d ON d.unified_user = n.name
        WHERE {_OF_PERSON} AND d.error_kind IN ('{FREQUENCY_CAP}', 'order')
            AND d.lane <> 'reply' AND d.action = 'send' AND d.receipt IS NULL
            AND d.doubt_ms IS NULL
            AND (d.expires_ms IS NULL OR d.expires_ms > {NOW_MS[dialect]})
        ORDER BY d.id {lock}
        """
    )
