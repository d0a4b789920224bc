"""Look up what is noted of many places in one statement; on the hot path of every turn."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from sqlalchemy import Connection, TextClause, text

from worker.database import NOW_MS
from worker.dead.keys import KEY, Dead, Place, packed
from worker.json_rows import rows_from_json
from worker.taxonomy import ErrorKind

_PLACE = {"n": "integer", **KEY, "credential_print": "text"}


@dataclass(frozen=True, slots=True)
class Note:
    """What a platform said about a chat or a credential, and when it said so first.

    Attributes:
        since_ms: Epoch milliseconds.
        due: One delivery may try the chat, if `take_probes` grants it.
    """

    kind: ErrorKind
    reason: str
    since_ms: int
    due: bool = False


@dataclass(frozen=True, slots=True)
class Standing:
    """What is noted of one place.

    Attributes:
        moved_to: The chat id under which the chat lives on.
        dead: The key of the note `gone`.
        gone: About the chat, or the one that it lives on as.
        refused: About the bot's credential.
    """

    moved_to: str | None = None
    dead: Dead | None = None
    gone: Note | None = None
    refused: Note | None = None

    @property
    def is_alive(self) -> bool:
        """Tell whether a message can go there now."""
        return self.gone is None and self.refused is None


def is_any_noted(connection: Connection) -> bool:
    """Tell whether anything is noted of any place."""
    return bool(connection.execute(_ANY).scalar())


def look_up(connection: Connection, places: Iterable[Place]) -> dict[Place, Standing]:
    """Give what is noted of these places; of most of them nothing."""
    asked = list(dict.fromkeys(places))
    if not asked:
        return {}
    rows = packed({"n": n, **place._asdict()} for n, place in enumerate(asked))
    standings: dict[Place, Standing] = {}
    for row in connection.execute(_look_up(connection.dialect.name), {"rows": rows}):
        place, dead, gone, refused = asked[row.n], None, None, None
        if row.kind is not None:
            chat = row.moved_to or place.chat_id
            dead = Dead(place.platform, place.account, chat, row.thread_id)
            gone = Note(ErrorKind(row.kind), row.reason, row.since_ms, bool(row.due))
        if row.refused is not None:
            refused = Note(ErrorKind.AUTH, row.refused, row.refused_ms)
        # A note about the whole chat comes before the one about its thread.
        standings.setdefault(place, Standing(row.moved_to, dead, gone, refused))
    return standings


_ANY = text("SELECT EXISTS (SELECT 1 FROM dead_target) OR EXISTS (SELECT 1 FROM dead_credential)")


@cache
def _look_up(dialect: str) -> TextClause:
    moved = """m.platform = r.platform AND m.account = r.account AND m.chat_id = r.chat_id
        AND m.thread_id = '' AND m.moved_to IS NOT NULL"""
    gone = """d.platform = r.platform AND d.account = r.account
        AND d.chat_id = COALESCE(m.moved_to, r.chat_id) AND d.thread_id IN ('', r.thread_id)
        AND d.moved_to IS NULL"""
    refused = """c.platform = r.platform AND c.account = r.account
        AND c.credential_print = r.credential_print"""
    return text(
        f"""
        SELECT r.n, m.moved_to, d.thread_id, d.kind, d.reason, d.since_ms,
            d.probe_ms <= {NOW_MS[dialect]} AS due, c.reason AS refused, c.since_ms AS refused_ms
        FROM ({rows_from_json(dialect, _PLACE)}) AS r
        {_left_join(dialect, "dead_target m", moved)}
        {_left_join(dialect, "dead_target d", gone)}
        {_left_join(dialect, "dead_credential c", refused)}
        WHERE m.moved_to IS NOT NULL OR d.kind IS NOT NULL OR c.reason IS NOT NULL
        ORDER BY d.thread_id
        """
    )


def _left_join(dialect: str, table: str, condition: str) -> str:
    if dialect == "sqlite":
        return f"LEFT JOIN {table} ON {condition}"
    # PostgreSQL would read thousands of notes rather than look up a chunk's places; spelled
    # so, it goes by the key.
    alias = table.partition(" ")[2]
    return f"LEFT JOIN LATERAL (SELECT * FROM {table} WHERE {condition} OFFSET 0) {alias} ON true"
