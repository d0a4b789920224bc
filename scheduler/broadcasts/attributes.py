"""Attributes: what a template is filled with, and for whom something is missing.

The person's own attributes, under them those of the list's line, and beside them `user` and
`platform`. Found for every recipient before anything is sent, in chunks.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import orjson
from jinja2 import Template
from sqlalchemy import Connection, TextClause, text

from scheduler.broadcasts.template import NotFillable, fill

#: Recipients of one round trip.
_CHUNK = 5_000
#: Recipients without an attribute that are named.
SHOWN = 20

#: SQL for the attributes of a row `d` of `drawn` and a row `p` of `person`, as one object.
MERGED = {
    "sqlite": "json_patch(COALESCE(d.attributes, '{}'), COALESCE(p.attributes, '{}'))",
    "postgresql": "CAST(COALESCE(CAST(d.attributes AS jsonb), '{}') "
    "|| COALESCE(CAST(p.attributes AS jsonb), '{}') AS json)",
}


@dataclass(frozen=True, slots=True)
class Lack:
    """A recipient for whom the template has no text, and why."""

    person: str
    why: str


def values_for(person: str, platform: str | None, attributes: str | None) -> Mapping[str, Any]:
    """Give what a template is filled with, of attributes as JSON."""
    known: dict[str, Any] = orjson.loads(attributes) if attributes else {}
    return {**known, "user": person, "platform": platform}


def leave_out_lacking(
    connection: Connection, template: Template, advance: Callable[[int], None]
) -> tuple[int, list[Lack]]:
    """Fill the template for everybody drawn; mark, count and name those whose text it lacks."""
    statement, mark = _next(connection.dialect.name), _mark(connection.dialect.name)
    lacking, shown, last = 0, list[Lack](), ""
    while True:
        rows = connection.execute(statement, {"last": last, "limit": _CHUNK}).all()
        if not rows:
            return lacking, shown
        lacks = []
        for person, platform, attributes in rows:
            try:
                fill(template, values_for(person, platform, attributes))
            except NotFillable as error:
                lacks.append(Lack(person, str(error)))
        if lacks:
            persons = orjson.dumps([lack.person for lack in lacks]).decode()
            connection.execute(mark, {"persons": persons})
            lacking += len(lacks)
            shown.extend(lacks[: SHOWN - len(shown)])
        last = rows[-1].person
        advance(len(rows))


@cache
def _next(dialect: str) -> TextClause:
    return text(
        f"SELECT d.person, d.platform, CAST({MERGED[dialect]} AS text) AS attributes "
        "FROM drawn d LEFT JOIN person p ON p.unified_user = d.person "
        "WHERE d.person > :last AND d.excluded IS NULL ORDER BY d.person LIMIT :limit"
    )


@cache
def _mark(dialect: str) -> TextClause:
    persons = (
        "SELECT value FROM json_each(:persons)"
        if dialect == "sqlite"
        else "SELECT json_array_elements_text(CAST(:persons AS json))"
    )
    return text(f"UPDATE drawn SET excluded = 'missing_attribute' WHERE person IN ({persons})")
