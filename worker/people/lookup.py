"""Look up what is known of many people in one statement each; on the path of every chunk.

A person has several names: the unified user, and each account as `platform:user_id`, under
which something may have been stored before it was linked.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping
from functools import cache

import orjson
from sqlalchemy import Connection, TextClause, text

from worker.json_rows import rows_from_json

#: What a name opted out of, the empty topic for everything.
Topics = Mapping[str, Collection[str]]

_ANY = text("SELECT EXISTS (SELECT 1 FROM opt_out)")
_NAME = {"name": "text"}


def is_any_opted_out(connection: Connection) -> bool:
    """Tell whether anybody opted out of anything."""
    return bool(connection.execute(_ANY).scalar())


def opt_outs(connection: Connection, names: Collection[str]) -> Topics:
    """Give the topics of which these names want nothing more; of most of them none."""
    found: dict[str, set[str]] = defaultdict(set)
    for name, topic in connection.execute(_opt_outs(connection.dialect.name), _rows(names)):
        found[name].add(topic)
    return found


def time_zones(connection: Connection, names: Collection[str]) -> dict[str, str]:
    """Give the time zones of those names whose own is known."""
    rows = connection.execute(_zones(connection.dialect.name), _rows(names))
    return {row.unified_user: row.timezone for row in rows}


def sent_times(
    connection: Connection, names: Collection[str], *, since_ms: int, limit: int
) -> dict[str, list[int]]:
    """Give when each name was sent something unasked since a time: the `limit` last, newest first.

    Counted from the histories, where mirrors are whoever made them; answers do not count.
    """
    values = {**_rows(names), "since": since_ms, "limit": limit}
    rows = connection.execute(_sent(connection.dialect.name), values)
    return {
        name: orjson.loads(times) if isinstance(times, str) else times
        for name, times in rows
        if times
    }


def _rows(names: Collection[str]) -> dict[str, object]:
    return {"rows": orjson.dumps([{"name": name} for name in sorted(names)]).decode()}


@cache
def _opt_outs(dialect: str) -> TextClause:
    return text(_by_name(dialect, "unified_user, topic", "opt_out"))


@cache
def _zones(dialect: str) -> TextClause:
    return text(f"{_by_name(dialect, 'unified_user, timezone', 'person')} AND timezone IS NOT NULL")


def _by_name(dialect: str, columns: str, table: str) -> str:
    if dialect == "sqlite":
        return (
            f"SELECT {columns} FROM {table} WHERE unified_user IN "
            f"(SELECT name FROM ({rows_from_json(dialect, _NAME)}))"
        )
    # PostgreSQL would read the whole table rather than look up a chunk's names; spelled so, it
    # goes by the key.
    return (
        f"SELECT t.* FROM ({rows_from_json(dialect, _NAME)}) AS n CROSS JOIN LATERAL "
        f"(SELECT {columns} FROM {table} WHERE unified_user = n.name OFFSET 0) AS t WHERE true"
    )


@cache
def _sent(dialect: str) -> TextClause:
    collect = "json_group_array(t)" if dialect == "sqlite" else "json_agg(t)"
    # Not joined: PostgreSQL would read all deliveries for it.
    asked = (
        "(SELECT CASE WHEN d.action = 'send' THEN d.lane ELSE 'reply' END "
        "FROM delivery d WHERE d.id = m.delivery_id)"
    )
    return text(
        f"""
        SELECT n.name, (
            SELECT {collect} FROM (
                SELECT m.timestamp_ms AS t
                FROM message m
                WHERE m.session_key = n.name AND m.timestamp_ms > :since AND m.mirror
                    AND COALESCE({asked}, '') <> 'reply'
                ORDER BY m.timestamp_ms DESC, m.id DESC LIMIT :limit) AS s) AS times
        FROM ({rows_from_json(dialect, _NAME)}) AS n
        """
    )
