"""The record of fires: one row an occurrence, whose key makes it fire once.

Written by the fire pass and by people's own `run` and `resume`, in their transactions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import orjson
from sqlalchemy import Connection, TextClause, text

from scheduler.tables import FireOutcome
from worker.json_rows import rows_from_json

_COLUMNS = {
    "schedule_id": "text",
    "fire_ms": "bigint",
    "outcome": "text",
    "missed": "bigint",
    "missed_since_ms": "bigint",
    "delivery_ids": "jsonb",
}


@dataclass(frozen=True, slots=True)
class NewFire:
    """A row of `scheduler.tables.Fire`."""

    schedule_id: str
    fire_ms: int
    outcome: FireOutcome
    missed: int = 0
    missed_since_ms: int | None = None
    delivery_ids: tuple[str, ...] = ()


def record(connection: Connection, fires: Sequence[NewFire], *, now_ms: int, by: str) -> None:
    """Write fires; an occurrence that has one fails the transaction, and so fires once.

    Args:
        by: The process.
    """
    if fires:
        connection.execute(
            _record_statement(connection.dialect.name),
            {"rows": orjson.dumps(fires).decode(), "now": now_ms, "by": by},
        )


@cache
def _record_statement(dialect: str) -> TextClause:
    columns = ", ".join(_COLUMNS)
    return text(
        f"""
        INSERT INTO fire ({columns}, fired_at_ms, fired_by)
        SELECT {columns}, CAST(:now AS BIGINT), CAST(:by AS TEXT)
        FROM ({rows_from_json(dialect, _COLUMNS)}) AS r
        """
    )


def recorded(
    connection: Connection, occurrences: Sequence[tuple[str, int]]
) -> set[tuple[str, int]]:
    """Give those pairs of schedule id and fire time that have a fire."""
    if not occurrences:
        return set()
    rows = [{"schedule_id": id_, "fire_ms": fire_ms} for id_, fire_ms in occurrences]
    found = connection.execute(
        _recorded_statement(connection.dialect.name), {"rows": orjson.dumps(rows).decode()}
    )
    return {(row.schedule_id, row.fire_ms) for row in found}


@cache
def _recorded_statement(dialect: str) -> TextClause:
    wanted = rows_from_json(dialect, {"schedule_id": "text", "fire_ms": "bigint"})
    return text(
        f"SELECT f.schedule_id, f.fire_ms FROM ({wanted}) AS w "
        "JOIN fire AS f ON f.schedule_id = w.schedule_id AND f.fire_ms = w.fire_ms"
    )
