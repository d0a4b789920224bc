"""Preflight: a broadcast's recipients are drawn, numbered and reported, before anything is sent.

Drawing takes its time in temporary tables (`draw`, `attributes`); what it found is stored in one
transaction together with the state `checked`. Whatever happens before that leaves the broadcast
as it was, and a second preflight draws anew.
"""

import hashlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import orjson
from jinja2 import Template
from sqlalchemy import Connection, Engine, TextClause, text

from resolvers import IdentityResolverProtocol
from scheduler.broadcasts import report
from scheduler.broadcasts.attributes import MERGED, Lack, leave_out_lacking
from scheduler.broadcasts.audiences import Audience, Kind, check_links, lookup
from scheduler.broadcasts.drafts import Broadcast, find
from scheduler.broadcasts.draw import draw, ways
from scheduler.broadcasts.members import generator, read_generated
from scheduler.broadcasts.staging import stage, staging, writing
from scheduler.broadcasts.states import TRANSITIONS, BroadcastState
from scheduler.broadcasts.template import compile_template
from worker.database import NOW_MS
from worker.errors import Refused
from worker.failpoints import reach

Progress = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]

#: Lines of a generator, and recipients, that an error names.
_NAMED = 3
_CHECKABLE = frozenset(s for s in BroadcastState if BroadcastState.CHECKED in TRANSITIONS[s])


def preflight(
    engine: Engine,
    resolver: IdentityResolverProtocol,
    name: str,
    *,
    skip_missing: bool = False,
    progress: Progress = lambda _what, _total: nullcontext(lambda _: None),
) -> Broadcast:
    """Draw the recipients of a broadcast and let it be started; its `report` says what was found.

    Args:
        skip_missing: Leave out for whom the template has no text.
        progress: Shows how far long work is, given what and how much it is.

    Raises:
        Refused: It was started already, nobody is left, or a template lacks attributes of
            somebody; the broadcast stays as it was.
    """
    with staging(engine) as connection:
        broadcast = find(connection, name)
        _check_state(broadcast)
        audience = lookup(connection, broadcast.audience)
        if audience.kind in (Kind.EVERYBODY, Kind.PLATFORM):
            check_links(resolver)
        template = compile_template(broadcast.body) if broadcast.templated else None
        _stage_generated(connection, audience)
        by = ways(connection)
        duplicates = draw(connection, audience, broadcast.topic, by, resolver)
        lacking, lacks = 0, list[Lack]()
        if template is not None:
            with progress("filling", report.recipients(connection)) as advance:
                lacking, lacks = leave_out_lacking(connection, template, advance)
            if lacking and not skip_missing:
                raise _lacking(lacking, lacks)
        found = report.summary(connection, by, duplicates=duplicates, lacking=lacking, lacks=lacks)
        if not found["recipients"]:
            raise Refused(_nobody(audience, found))
        with writing(connection):
            _store(connection, broadcast, template, found)
        return find(connection, broadcast.id)


def _check_state(broadcast: Broadcast) -> None:
    if broadcast.state not in _CHECKABLE:
        raise Refused(
            f"{broadcast.name} is {broadcast.state} already: only a draft, or what was checked "
            "and not started, can be checked"
        )


def _stage_generated(connection: Connection, audience: Audience) -> None:
    if audience.kind is not Kind.GENERATOR:
        return
    lines = read_generated(generator(audience.value)())
    used, unusable, shown = stage(connection, lines, lambda _: None)
    if unusable:
        named = "; ".join(f"{b.line}: {b.why}" for b in shown[:_NAMED])
        raise Refused(
            f"{unusable} of {used + unusable} that the generator {audience.value} gave cannot be "
            f"used ({named}): let it give targets, or pairs of a target and a dict"
        )


def _lacking(lacking: int, lacks: Sequence[Lack]) -> Refused:
    named = "; ".join(f"{lack.person}: {lack.why}" for lack in lacks[:_NAMED])
    return Refused(
        f"the template has no text for {lacking} recipients ({named}): give them what it needs, "
        "write it with a default, or leave them out with --skip-missing"
    )


def _nobody(audience: Audience, found: dict[str, Any]) -> str:
    reasons = ", ".join(f"{count} {why}" for why, count in found["left_out"].items())
    return f"nobody of {audience.name} is left to write to: {reasons or 'nobody is in it'}"


def _store(
    connection: Connection,
    broadcast: Broadcast,
    template: Template | None,
    found: dict[str, Any],
) -> None:
    dialect = connection.dialect.name
    # First of all, so that a second preflight beside this one waits here and draws over it.
    checkable = ", ".join(f"'{state}'" for state in sorted(_CHECKABLE))
    checked = connection.execute(
        text(
            f"UPDATE broadcast SET state = 'checked', checked_ms = {NOW_MS[dialect]}, "
            f"recipients = :recipients, fanned_out = 0 WHERE id = :id AND state IN ({checkable})"
        ),
        {"id": broadcast.id, "recipients": found["recipients"]},
    ).rowcount
    if not checked:
        _check_state(find(connection, broadcast.id))
    connection.execute(text("DELETE FROM recipient WHERE broadcast_id = :id"), {"id": broadcast.id})
    reach("in_preflight", broadcast.name)
    if dialect == "sqlite":
        # SQLite has none of its own.
        raw = connection.connection.dbapi_connection
        raw.create_function("md5", 1, _md5, deterministic=True)  # type: ignore[union-attr]  # the DBAPI has no types
    connection.execute(_number(dialect, templated=template is not None), {"id": broadcast.id})
    found["sample"] = report.sample(connection, broadcast.id, broadcast.body, template)
    connection.execute(
        text("UPDATE broadcast SET report = CAST(:report AS json) WHERE id = :id")
        if dialect == "postgresql"
        else text("UPDATE broadcast SET report = :report WHERE id = :id"),
        {"id": broadcast.id, "report": orjson.dumps(found).decode()},
    )


def _md5(value: str) -> str:
    return hashlib.md5(value.encode(), usedforsecurity=False).hexdigest()


@cache
def _number(dialect: str, *, templated: bool) -> TextClause:
    """Give SQL that stores what was drawn, in an order that is by chance and always the same.

    So the first per cent is a fair sample, and another one for each broadcast.
    """
    attributes = MERGED[dialect] if templated else "NULL"
    person = "LEFT JOIN person p ON p.unified_user = d.person" if templated else ""
    return text(
        f"""
        INSERT INTO recipient (broadcast_id, person, n, target, platform, account, chat_id,
            thread_id, excluded, attributes)
        SELECT CAST(:id AS text), d.person, CASE WHEN d.excluded IS NULL THEN row_number() OVER (
                PARTITION BY CASE WHEN d.excluded IS NULL THEN 0 ELSE 1 END
                ORDER BY md5(CAST(:id AS text) || d.person), d.person) END,
            d.target, d.platform, d.account, d.chat_id, d.thread_id, d.excluded, {attributes}
        FROM drawn d {person}
        """
    )
