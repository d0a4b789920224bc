"""Rejected: messages from the broker that were refused at the door, shown and tried again."""

import inspect
from collections.abc import Sequence

import orjson
from sqlalchemy import Engine, text
from sqlmodel import Session, col, select

from scheduler.publish import publish
from worker import outbox
from worker.database import reading
from worker.errors import NotFound, Refused
from worker.intake import check
from worker.outbox import Accepted
from worker.tables import RejectedRow

#: What a producer may say; how late it may come is not for it to say.
_FIELDS = frozenset(inspect.signature(check).parameters) - {"late_ms"}


def newest(engine: Engine, *, limit: int = 100) -> Sequence[RejectedRow]:
    """Give what was refused, the newest first."""
    query = select(RejectedRow).order_by(col(RejectedRow.id).desc()).limit(limit)
    with reading(engine) as connection, Session(connection) as session:
        return session.exec(query).all()


def find(engine: Engine, id_: int) -> RejectedRow:
    """Give one refused message.

    Raises:
        NotFound: There is none of this number.
    """
    with reading(engine) as connection, Session(connection) as session:
        row = session.get(RejectedRow, id_)
    if row is None:
        raise NotFound(f"nothing refused has the number {id_}: see mirrorpost rejected list")
    return row


def retry(engine: Engine, id_: int) -> Accepted:
    """Let a refused message through the door again, under the key of its task.

    Tried twice it is one delivery.

    Raises:
        NotFound: There is none of this number.
        Refused: It is still not acceptable; nothing was changed.
    """
    row = find(engine, id_)
    fields = dict(row.payload)
    if fields.pop("arguments", None):
        raise Refused("arguments must be named: to=, text=, ...; send it anew")
    if unknown := sorted(fields.keys() - _FIELDS):
        raise Refused(f"unknown field {', '.join(unknown)}; known are {', '.join(sorted(_FIELDS))}")
    if missing := sorted({"to", "text"} - fields.keys()):
        raise Refused(f"{' and '.join(missing)} must be given")
    key = fields.pop("key", None) or f"task:{row.task_id}"
    new = check(key=key, **fields)
    with engine.begin() as connection:
        accepted = outbox.insert(connection, [new])[0]
        connection.execute(
            text("UPDATE rejected SET delivery_id = :delivery WHERE id = :id"),
            {"delivery": accepted.id, "id": id_},
        )
    if accepted.due_now:
        publish(engine, [accepted])
    return accepted


def payload_line(row: RejectedRow) -> str:
    """Give what was asked for in one line."""
    return orjson.dumps(row.payload).decode()
