"""What was edited or taken back after it was sent, in the histories that have it.

Called by the delivery pipeline and the mirror repair, inside their transactions; never commits.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Final

import orjson
from sqlalchemy import Connection, TextClause, text

from worker.json_rows import rows_from_json
from worker.sessions.entries import mended

#: What a message says that was taken back: a language model is given the content alone, and
#: some refuse an empty one.
RETRACTED: Final = "[retracted]"

_ROW = {"id": "text", "refers_to": "text", "content": "text", "extra": "text"}
_MERGED = {
    "sqlite": "json_patch(message.metadata, r.extra)",
    "postgresql": "CAST(CAST(message.metadata AS jsonb) || CAST(r.extra AS jsonb) AS json)",
}


@dataclass(frozen=True, slots=True)
class Change:
    """A change that was made to the messages of a delivery.

    Attributes:
        id: The delivery that made it.
        refers_to: The delivery whose mirror it changes.
        content: What the messages say now; `None` when they were taken back.
    """

    id: str
    refers_to: str
    content: str | None


def change_mirrors(connection: Connection, changes: Sequence[Change]) -> set[str]:
    """Let the histories say what the messages say; give the ids of the changes still to be made.

    Those are of mirrors that are not written yet. Of several changes to one message the last in
    its order counts, whichever is written last. What is in no history any more stays away.
    """
    if not changes:
        return set()
    rows = orjson.dumps([asdict(each) | _said(each) for each in changes]).decode()
    dialect = connection.dialect.name
    # First: what is mirrored meanwhile by somebody else is then there to be changed.
    waiting = set(connection.execute(_waiting(dialect), {"rows": rows}).scalars())
    connection.execute(_change(dialect), {"rows": rows})
    return waiting


def _said(change: Change) -> dict[str, object]:
    if change.content is None:
        return {"content": RETRACTED, "extra": '{"retracted": true}'}
    return {"content": mended(change.content), "extra": '{"edited": true}'}


@cache
def _waiting(dialect: str) -> TextClause:
    return text(
        f"SELECT r.id FROM ({rows_from_json(dialect, _ROW)}) AS r "
        "JOIN delivery o ON o.id = r.refers_to WHERE o.mirror = 'failed'"
    )


@cache
def _change(dialect: str) -> TextClause:
    return text(
        f"UPDATE message SET content = r.content, metadata = {_MERGED[dialect]} "
        f"FROM ({rows_from_json(dialect, _ROW)}) AS r "
        "WHERE message.delivery_id = r.refers_to AND NOT EXISTS (SELECT 1 FROM delivery l "
        "JOIN delivery a ON a.id = r.id WHERE l.refers_to = r.refers_to AND l.state = 'sent' "
        "AND l.seq > a.seq)"
    )
