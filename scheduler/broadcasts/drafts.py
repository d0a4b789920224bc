"""Drafts: a broadcast is written down under a name; and how it is found again."""

from dataclasses import dataclass, fields
from typing import Any

import orjson
from sqlalchemy import Connection, Engine, text

from scheduler.broadcasts.audiences import check_name, lookup
from scheduler.broadcasts.states import BroadcastState
from scheduler.broadcasts.template import check_plain, compile_template
from worker.database import NOW_MS, reading
from worker.errors import NotFound, Refused
from worker.intake import new_id

#: What may follow a canary.
CANARY_THEN = ("wait", "go")


@dataclass(frozen=True, slots=True)
class Broadcast:
    """A row of `broadcast`; times in epoch milliseconds."""

    id: str
    name: str
    state: BroadcastState
    audience: str
    body: str
    templated: bool
    topic: str
    source: str
    silent: bool
    tenant: str
    created_ms: int
    checked_ms: int | None
    started_ms: int | None
    ended_ms: int | None
    reason: str | None
    canary_percent: float | None
    canary_then: str
    canary_done: bool
    recipients: int
    fanned_out: int
    report: dict[str, Any] | None


_COLUMNS = ", ".join(
    "CAST(report AS text) AS report" if f.name == "report" else f.name for f in fields(Broadcast)
)


def create(
    engine: Engine,
    name: str,
    *,
    audience: str,
    body: str,
    templated: bool = False,
    topic: str = "",
    silent: bool = False,
    tenant: str = "",
    canary_percent: float | None = None,
    canary_then: str = "wait",
) -> Broadcast:
    """Write a broadcast down as a draft.

    Args:
        canary_percent: Share of the recipients that get it first.
        canary_then: `wait` for a person, or `go` on while failures are few.

    Raises:
        Refused: Bad input, or the name is taken; nothing was stored.
    """
    check_name("the broadcast's name", name)
    for what, value in (("the topic", topic), ("the tenant", tenant)):
        if value:
            check_name(what, value)
    (compile_template if templated else check_plain)(body)
    if canary_percent is not None and not 0 < canary_percent < 100:  # noqa: PLR2004 - per cent
        raise Refused(f"a canary of {canary_percent:g}% is none: name more than 0% and below 100%")
    if canary_then not in CANARY_THEN:
        raise Refused(f"{canary_then!r} is none of {', '.join(CANARY_THEN)}")
    with engine.begin() as connection:
        lookup(connection, audience)
        inserted = connection.execute(
            text(
                f"""
                INSERT INTO broadcast (id, name, state, audience, body, templated, topic, source,
                    silent, tenant, created_ms, canary_percent, canary_then, recipients, fanned_out)
                VALUES (:id, :name, 'draft', :audience, :body, :templated, :topic, 'broadcast',
                    :silent, :tenant, {NOW_MS[connection.dialect.name]}, :percent, :then, 0, 0)
                ON CONFLICT (name) DO NOTHING
                """
            ),
            {
                "id": new_id(),
                "name": name,
                "audience": audience,
                "body": body,
                "templated": templated,
                "topic": topic,
                "silent": silent,
                "tenant": tenant,
                "percent": canary_percent,
                "then": canary_then,
            },
        ).rowcount
        if not inserted:
            raise Refused(f"there is a broadcast {name!r} already: name this one otherwise")
        return find(connection, name)


def parse_percent(share: str | None) -> float | None:
    """Read a share such as `1%` or `0.5`.

    Raises:
        Refused: It is none.
    """
    if share is None:
        return None
    try:
        return float(share.strip().removesuffix("%"))
    except ValueError:
        raise Refused(f"{share!r} is no share: write 1%") from None


def find(connection: Connection, name: str) -> Broadcast:
    """Give a broadcast by its name or id in the caller's transaction.

    Raises:
        NotFound: There is none.
    """
    found = _rows(connection, "WHERE name = :name OR id = :name", {"name": name})
    if not found:
        raise NotFound(f"there is no broadcast {name!r}: mirrorpost broadcast list")
    # A name comes before an id that reads the same.
    return next((each for each in found if each.name == name), found[0])


def get(engine: Engine, name: str) -> Broadcast:
    """Give a broadcast by its name or id.

    Raises:
        NotFound: There is none.
    """
    with reading(engine) as connection:
        return find(connection, name)


def list_(engine: Engine) -> list[Broadcast]:
    """Give all broadcasts, the latest first."""
    with reading(engine) as connection:
        return _rows(connection, "ORDER BY created_ms DESC, id DESC", {})


def _rows(connection: Connection, which: str, values: dict[str, object]) -> list[Broadcast]:
    rows = connection.execute(text(f"SELECT {_COLUMNS} FROM broadcast {which}"), values)
    return [
        Broadcast(
            **{
                **row,
                "state": BroadcastState(row["state"]),
                "templated": bool(row["templated"]),
                "silent": bool(row["silent"]),
                "canary_done": bool(row["canary_done"]),
                "report": orjson.loads(row["report"]) if row["report"] else None,
            }
        )
        for row in rows.mappings()
    ]
