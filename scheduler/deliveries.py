"""What the outbox says of deliveries, for people: found by id, listed, with their attempts.

Called by the command line. Reads only.
"""

import re
from collections.abc import Sequence

from sqlalchemy import Engine
from sqlmodel import Session, col, select

from worker.database import reading
from worker.errors import NotFound, Refused
from worker.states import State
from worker.tables import AttemptRow, DeadTargetRow, DeliveryRow

_ID = re.compile(r"[0-9a-f]{1,32}", re.ASCII)
#: Sorts after every hexadecimal digit in every collation.
_AFTER_DIGITS = "g"


def find(engine: Engine, id_: str) -> DeliveryRow:
    """Give the delivery of an id, or of an id's beginning that only one has.

    Raises:
        NotFound: None has it, or several.
    """
    prefix = id_.strip().lower().replace("-", "")
    rows: Sequence[DeliveryRow] = ()
    if _ID.fullmatch(prefix):
        query = (
            select(DeliveryRow)
            .where(col(DeliveryRow.id) >= prefix, col(DeliveryRow.id) < prefix + _AFTER_DIGITS)
            .limit(2)
        )
        with reading(engine) as connection, Session(connection) as session:
            rows = session.exec(query).all()
    if not rows:
        raise NotFound(f"no delivery has the id {id_!r}: see mirrorpost deliveries list")
    if len(rows) > 1:
        raise NotFound(f"several deliveries have ids that begin with {id_!r}: give more of it")
    return rows[0]


def newest(
    engine: Engine, *, status: str | None = None, target: str | None = None, limit: int = 50
) -> Sequence[DeliveryRow]:
    """Give the newest deliveries, newest first.

    Raises:
        Refused: There is no such status.
    """
    query = select(DeliveryRow).order_by(col(DeliveryRow.id).desc()).limit(limit)
    if status is not None:
        if status not in set(State):
            raise Refused(f"status {status!r} is not known: {', '.join(State)}")
        query = query.where(DeliveryRow.state == status)
    if target is not None:
        query = query.where(DeliveryRow.target == target)
    with reading(engine) as connection, Session(connection) as session:
        return session.exec(query).all()


def attempts_of(engine: Engine, delivery_id: str) -> Sequence[AttemptRow]:
    """Give a delivery's attempts, oldest first."""
    query = (
        select(AttemptRow)
        .where(AttemptRow.delivery_id == delivery_id)
        .order_by(col(AttemptRow.attempt))
    )
    with reading(engine) as connection, Session(connection) as session:
        return session.exec(query).all()


def noted_of(engine: Engine, delivery: DeliveryRow) -> DeadTargetRow | None:
    """Give what is noted now of a delivery's chat, `None` while it counts as alive."""
    query = (
        select(DeadTargetRow)
        .where(
            DeadTargetRow.platform == delivery.platform,
            DeadTargetRow.account == delivery.account,
            DeadTargetRow.chat_id == delivery.chat_id,
            col(DeadTargetRow.thread_id).in_(["", delivery.thread_id or ""]),
            col(DeadTargetRow.moved_to).is_(None),
        )
        .order_by(DeadTargetRow.thread_id)
        .limit(1)
    )
    with reading(engine) as connection, Session(connection) as session:
        return session.exec(query).one_or_none()
