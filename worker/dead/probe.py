"""Probe: one delivery an hour tries a dead chat, and what shows it alive takes the note back."""

from collections.abc import Collection, Mapping
from functools import cache

from sqlalchemy import Connection, TextClause, text

from worker.database import NOW_MS
from worker.dead.keys import KEY, Dead, packed, same
from worker.dead.note import PROBE_EVERY_MS
from worker.json_rows import rows_from_json


def take_probes(connection: Connection, due: Collection[Dead]) -> set[Dead]:
    """Give those that this worker alone may try now; the next try is an hour later."""
    if not due:
        return set()
    statement = _take_probes(connection.dialect.name)
    rows = packed(key._asdict() for key in due)
    return {Dead(*row) for row in connection.execute(statement, {"rows": rows})}


@cache
def _take_probes(dialect: str) -> TextClause:
    now, rows = NOW_MS[dialect], rows_from_json(dialect, KEY)
    key = ", ".join(f"dead_target.{name}" for name in KEY)
    # Who finds a row locked finds its hour taken.
    lock = "" if dialect == "sqlite" else "FOR UPDATE OF dead_target SKIP LOCKED"
    return text(
        f"""
        UPDATE dead_target SET probe_ms = {now} + {PROBE_EVERY_MS}
        FROM (SELECT {key} FROM ({rows}) AS q JOIN dead_target ON {same("q")}
              WHERE dead_target.probe_ms <= {now} AND dead_target.moved_to IS NULL {lock}) AS r
        WHERE {same("r")} RETURNING {key}
        """
    )


def delay_probes(connection: Connection, delays_ms: Mapping[Dead, int]) -> None:
    """Give back the right to try these chats, for so much later."""
    if delays_ms:
        rows = packed({**key._asdict(), "delay_ms": ms} for key, ms in delays_ms.items())
        connection.execute(_delay_probes(connection.dialect.name), {"rows": rows})


@cache
def _delay_probes(dialect: str) -> TextClause:
    rows = rows_from_json(dialect, {**KEY, "delay_ms": "bigint"})
    return text(
        f"UPDATE dead_target SET probe_ms = {NOW_MS[dialect]} + r.delay_ms "
        f"FROM ({rows}) AS r WHERE {same('r')}"
    )


def forget(connection: Connection, alive: Collection[Dead]) -> None:
    """Take back the notes about chats that took a message."""
    if alive:
        rows = packed(key._asdict() for key in alive)
        connection.execute(_forget(connection.dialect.name), {"rows": rows})


@cache
def _forget(dialect: str) -> TextClause:
    key = ", ".join(KEY)
    return text(
        f"DELETE FROM dead_target WHERE ({key}) IN "
        f"(SELECT {key} FROM ({rows_from_json(dialect, KEY)}) AS r) AND moved_to IS NULL"
    )


#: Index: ix_dead_target_chat.
_REVIVE = (
    "DELETE FROM dead_target WHERE chat_id = :chat AND platform = :platform AND moved_to IS NULL"
)
_REVIVE_ALL = text(_REVIVE)
_REVIVE_ONE = text(f"{_REVIVE} AND account = :account")


def revive(connection: Connection, platform: str, account: str | None, chat_id: str) -> None:
    """Take back every note about a chat, and its threads, from which something came.

    Args:
        account: Only what this bot noted; `None` what any bot of the platform did.
    """
    values = {"platform": platform, "chat": chat_id}
    if account is None:
        connection.execute(_REVIVE_ALL, values)
    else:
        connection.execute(_REVIVE_ONE, {**values, "account": account})
