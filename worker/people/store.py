"""Store what is known of people: attributes, time zone, tags, opt-outs.

Each function is one statement, in the caller's transaction, for many people at once where many
come. Whoever is named need not be linked yet.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import orjson
from sqlalchemy import Connection, TextClause, text

from worker.database import NOW_MS
from worker.errors import Refused
from worker.intake import check_topic
from worker.json_rows import rows_from_json
from worker.zones import parse_zone

#: Characters of a name or a tag.
_LONGEST = 500
_NAMES = {
    "sqlite": "(SELECT value FROM json_each(:names))",
    "postgresql": "(SELECT json_array_elements_text(CAST(:names AS json)))",
}


@dataclass(frozen=True, slots=True)
class OptOut:
    """That a person wants nothing more of a topic, the empty one for everything."""

    unified_user: str
    topic: str
    since_ms: int


@dataclass(frozen=True, slots=True)
class NewPerson:
    """Attributes to add to a person's; a zone of `None` leaves theirs as it is."""

    unified_user: str
    attributes: Mapping[str, Any]
    timezone: str | None = None


def check_name(what: str, name: str) -> str:
    """Give a name or tag as it is stored; raise `Refused` for what cannot be one."""
    if not 0 < len(name) <= _LONGEST or not name.isprintable() or name != name.strip():
        raise Refused(
            f"{what} {name!r} cannot be: write 1 to {_LONGEST} printable characters, without "
            "spaces around them"
        )
    return name


def save(
    connection: Connection,
    user: str,
    *,
    attributes: Mapping[str, Any] | None = None,
    zone: str | None = None,
) -> None:
    """Add attributes to a person's own, and set their time zone where one is given."""
    save_many(connection, [NewPerson(user, attributes or {}, zone)])


def save_many(connection: Connection, people: Sequence[NewPerson]) -> None:
    """Add attributes to people's own; of the same person twice, the later ones win.

    Raises:
        Refused: A name or a time zone cannot be; the caller rolls back.
    """
    merged: dict[str, NewPerson] = {}
    for each in people:
        before = merged.get(check_name("person", each.unified_user))
        if each.timezone is not None:
            parse_zone(each.timezone)
        attributes = {**(before.attributes if before else {}), **each.attributes}
        zone = each.timezone or (before.timezone if before else None)
        merged[each.unified_user] = NewPerson(each.unified_user, attributes, zone)
    names = {"names": orjson.dumps(list(merged)).decode()}
    known = connection.execute(_attributes(connection.dialect.name), names)
    for user, attributes in known:
        own = orjson.loads(attributes) if isinstance(attributes, str) else attributes
        merged[user] = replace(merged[user], attributes={**own, **merged[user].attributes})
    rows = orjson.dumps(list(merged.values())).decode()
    connection.execute(_save(connection.dialect.name), {"rows": rows})


@cache
def _attributes(dialect: str) -> TextClause:
    lock = "" if dialect == "sqlite" else " FOR UPDATE"
    query = f"SELECT unified_user, attributes FROM person WHERE unified_user IN {_NAMES[dialect]}"
    return text(query + lock)


@cache
def _save(dialect: str) -> TextClause:
    columns = {"unified_user": "text", "attributes": "json", "timezone": "text"}
    return text(
        f"""
        INSERT INTO person (unified_user, attributes, timezone)
        SELECT unified_user, attributes, timezone FROM ({rows_from_json(dialect, columns)}) AS r
        WHERE true
        ON CONFLICT (unified_user) DO UPDATE SET attributes = excluded.attributes,
            timezone = COALESCE(excluded.timezone, person.timezone)
        """
    )


def opt_out(connection: Connection, user: str, topic: str = "") -> None:
    """Note that a person wants nothing more of a topic, or of anything."""
    connection.execute(
        text(
            "INSERT INTO opt_out (unified_user, topic, since_ms) "
            f"VALUES (:user, :topic, {NOW_MS[connection.dialect.name]}) "
            "ON CONFLICT (unified_user, topic) DO NOTHING"
        ),
        {"user": check_name("person", user), "topic": check_topic(topic)},
    )


def opt_in(connection: Connection, names: Sequence[str], topic: str = "") -> bool:
    """Take an opt-out back under every name of a person; give whether there was one."""
    which = f"unified_user IN {_NAMES[connection.dialect.name]}"
    gone = connection.execute(
        text(f"DELETE FROM opt_out WHERE {which} AND topic = :topic"),
        {"names": orjson.dumps(list(names)).decode(), "topic": check_topic(topic)},
    )
    return gone.rowcount > 0


def list_opt_outs(
    connection: Connection, names: Sequence[str] | None, *, limit: int
) -> list[OptOut]:
    """Give opt-outs, under the names of one person or of all, by name and topic."""
    which = "" if names is None else f"WHERE unified_user IN {_NAMES[connection.dialect.name]} "
    rows = connection.execute(
        text(
            f"SELECT unified_user, topic, since_ms FROM opt_out {which}"
            "ORDER BY unified_user, topic LIMIT :limit"
        ),
        {"limit": limit, "names": orjson.dumps(list(names or ())).decode()}
        if names is not None
        else {"limit": limit},
    )
    return [OptOut(*row) for row in rows]


def tag_many(connection: Connection, tags: Sequence[tuple[str, str]]) -> None:
    """Give people tags, as pairs of person and tag."""
    rows = [{"name": check_name("person", u), "tag": check_name("tag", t)} for u, t in tags]
    if rows:
        connection.execute(_tag(connection.dialect.name), {"rows": orjson.dumps(rows).decode()})


@cache
def _tag(dialect: str) -> TextClause:
    columns = {"tag": "text", "name": "text"}
    return text(
        f"""
        INSERT INTO person_tag (tag, unified_user)
        SELECT tag, name FROM ({rows_from_json(dialect, columns)}) AS r WHERE true
        ON CONFLICT (tag, unified_user) DO NOTHING
        """
    )


def untag(connection: Connection, names: Sequence[str], tag: str) -> bool:
    """Take a tag away under every name of a person; give whether it was there."""
    which = f"unified_user IN {_NAMES[connection.dialect.name]}"
    gone = connection.execute(
        text(f"DELETE FROM person_tag WHERE tag = :tag AND {which}"),
        {"tag": tag, "names": orjson.dumps(list(names)).decode()},
    )
    return gone.rowcount > 0


def remove(connection: Connection, names: Sequence[str]) -> tuple[int, int, int]:
    """Remove all that is known under these names; give how many rows.

    In this order: of attributes and zones, of tags, of opt-outs.
    """
    given = {"names": orjson.dumps(list(names)).decode()}
    which = f"WHERE unified_user IN {_NAMES[connection.dialect.name]}"
    persons, tags, topics = (
        connection.execute(text(f"DELETE FROM {table} {which}"), given).rowcount
        for table in ("person", "person_tag", "opt_out")
    )
    return persons, tags, topics
