"""Show people: what is known of one, and of all of whom anything is known."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import orjson
from sqlalchemy import Connection, Row, TextClause, text


@dataclass(frozen=True, slots=True)
class PersonView:
    """What is known of one person; `opted_out` are topics, `""` is everything."""

    unified_user: str
    attributes: Mapping[str, Any]
    timezone: str | None
    tags: Sequence[str]
    opted_out: Sequence[str]

    def as_json(self) -> dict[str, object]:
        """Give it as the command line shows it; `None` among the topics is everything."""
        return {
            "user": self.unified_user,
            "timezone": self.timezone,
            "attributes": dict(self.attributes),
            "tags": list(self.tags),
            "opted_out": [topic or None for topic in self.opted_out],
        }


def view(connection: Connection, user: str) -> PersonView | None:
    """Give what is known of a person, `None` for nothing."""
    query = _views(connection.dialect.name, "SELECT CAST(:user AS text) AS name")
    row = connection.execute(query, {"user": user}).one()
    seen = _view(row)
    known = row.known or seen.tags or seen.opted_out
    return seen if known else None


def list_people(connection: Connection, *, tag: str | None, limit: int) -> list[PersonView]:
    """Give people by name, all or those with a tag."""
    if tag is None:
        # Each side by its own index, and only as far as the limit.
        who = " UNION ".join(
            f"SELECT * FROM (SELECT DISTINCT unified_user AS name FROM {table} "
            "ORDER BY unified_user LIMIT :limit) AS these"
            for table in ("person", "person_tag", "opt_out")
        )
    else:
        who = "SELECT unified_user AS name FROM person_tag WHERE tag = :tag"
    some = f"SELECT name FROM ({who}) AS all_of_them ORDER BY name LIMIT :limit"
    query = _views(connection.dialect.name, some)
    values = {"limit": limit} | ({} if tag is None else {"tag": tag})
    return [_view(row) for row in connection.execute(query, values)]


@cache
def _views(dialect: str, who: str) -> TextClause:
    collect = "json_group_array" if dialect == "sqlite" else "json_agg"
    return text(
        f"""
        SELECT w.name, p.unified_user IS NOT NULL AS known, p.attributes, p.timezone,
            (SELECT {collect}(t.tag) FROM person_tag t WHERE t.unified_user = w.name) AS tags,
            (SELECT {collect}(o.topic) FROM opt_out o WHERE o.unified_user = w.name) AS topics
        FROM ({who}) AS w LEFT JOIN person p ON p.unified_user = w.name
        ORDER BY w.name
        """
    )


def _view(row: Row[Any]) -> PersonView:
    return PersonView(
        row.name,
        _loaded(row.attributes) or {},
        row.timezone,
        sorted(_loaded(row.tags) or ()),
        sorted(_loaded(row.topics) or ()),
    )


def _loaded(value: Any) -> Any:
    return orjson.loads(value) if isinstance(value, str) else value
