"""What the outbox says of deliveries, for people: found by id, listed, with their attempts.

Called by the command line. Reads only.
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from sqlalchemy import Engine, text
from sqlmodel import Session, col, select
from sqlmodel.sql.expression import SelectOfScalar

from scheduler.broadcasts.tables import BroadcastRow
from scheduler.when import to_ms
from worker.database import reading
from worker.errors import NotFound, Refused
from worker.order import WAITS, WAITS_FOR_BROADCAST
from worker.states import State
from worker.tables import IN_ORDER, AttemptRow, DeadTargetRow, DeliveryRow
from worker.taxonomy import ErrorKind

T = TypeVar("T")

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


@dataclass(frozen=True, slots=True)
class Filter:
    """Which deliveries; what is `None` leaves all of them.

    Attributes:
        since: Asked for at this time or later.
        error_kind: Of the last error, see `worker.taxonomy.ErrorKind`.
        broadcast: The id of the broadcast that they are a part of.
    """

    status: str | None = None
    target: str | None = None
    platform: str | None = None
    since: datetime | None = None
    error_kind: str | None = None
    broadcast: str | None = None


def newest(engine: Engine, which: Filter, *, limit: int = 50) -> Sequence[DeliveryRow]:
    """Give the newest deliveries, newest first.

    Raises:
        Refused: There is no such status or kind of error.
    """
    query = _where(select(DeliveryRow), which).order_by(col(DeliveryRow.id).desc()).limit(limit)
    with reading(engine) as connection, Session(connection) as session:
        return session.exec(query).all()


def oldest_ids(
    engine: Engine,
    which: Filter,
    *,
    states: Collection[State],
    also: str,
    limit: int,
    after: str = "",
) -> list[str]:
    """Give the ids of the oldest deliveries in one of the states, behind the id `after`.

    Args:
        also: SQL that is true of them.

    Raises:
        Refused: There is no such status or kind of error.
    """
    query = (
        _where(select(DeliveryRow.id), which)
        .where(col(DeliveryRow.state).in_(states), col(DeliveryRow.id) > after, text(also))
        .order_by(col(DeliveryRow.id))
        .limit(limit)
    )
    with reading(engine) as connection, Session(connection) as session:
        return list(session.exec(query).all())


def _where(query: SelectOfScalar[T], which: Filter) -> SelectOfScalar[T]:
    if which.status is not None:
        if which.status not in set(State):
            raise Refused(f"status {which.status!r} is not known: {', '.join(State)}")
        query = query.where(DeliveryRow.state == which.status)
    if which.error_kind is not None:
        if which.error_kind not in {*ErrorKind, WAITS, WAITS_FOR_BROADCAST}:
            raise Refused(f"error kind {which.error_kind!r} is not known: {', '.join(ErrorKind)}")
        query = query.where(DeliveryRow.error_kind == which.error_kind)
    if which.target is not None:
        query = query.where(DeliveryRow.target == which.target)
    if which.platform is not None:
        query = query.where(DeliveryRow.platform == which.platform)
    if which.broadcast is not None:
        query = query.where(DeliveryRow.broadcast_id == which.broadcast)
    if which.since is not None:
        query = query.where(col(DeliveryRow.id) >= first_id(which.since))
    return query


def first_id(moment: datetime) -> str:
    """Give the lowest id that a delivery asked for at this time can have: ids are UUIDv7."""
    return f"{max(0, to_ms(moment)):012x}{'0' * 20}"


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


def head_of(engine: Engine, delivery: DeliveryRow) -> str | None:
    """Give the id of the first of those before a delivery in the order of its chat."""
    query = text(
        f"SELECT id FROM delivery WHERE order_key = :key AND seq < :seq AND {IN_ORDER} "
        "ORDER BY seq LIMIT 1"
    )
    with reading(engine) as connection:
        found = connection.execute(query, {"key": delivery.order_key, "seq": delivery.seq})
        return found.scalar_one_or_none()


def broadcast_of(engine: Engine, delivery: DeliveryRow) -> BroadcastRow | None:
    """Give the broadcast that a delivery is a part of."""
    if delivery.broadcast_id is None:
        return None
    with reading(engine) as connection, Session(connection) as session:
        return session.get(BroadcastRow, delivery.broadcast_id)
