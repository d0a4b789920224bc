"""Broadcasts as the preflight and the fan-out leave them, made directly."""

import uuid
from collections.abc import Sequence

from sqlalchemy import Engine, text
from sqlmodel import Session

from scheduler.broadcasts.tables import BroadcastRow, RecipientRow
from worker import outbox
from worker.database import NOW_MS
from worker.intake import check
from worker.lanes import Lane
from worker.order import WAITS_FOR_BROADCAST
from worker.states import ENDS, State


def telegram(count: int, first: int = 1) -> list[str]:
    """Give the targets of so many people on Telegram."""
    return [f"telegram:{first + n}" for n in range(count)]


def make(
    engine: Engine,
    targets: Sequence[str],
    *,
    name: str = "news",
    state: str = "running",
    text_: str = "to all",
    fanned_out: int | None = None,
    **columns: object,
) -> str:
    """Store a broadcast with its recipients and their deliveries, which wait; give its id.

    Args:
        fanned_out: How many of the recipients have a delivery, all of them by default.
    """
    id_ = uuid.uuid4().hex
    done = len(targets) if fanned_out is None else fanned_out
    with Session(engine) as session:
        session.add(
            BroadcastRow(
                **{
                    "id": id_,
                    "name": name,
                    # Until it has its deliveries, so that no scheduler finds it without.
                    "state": "checked",
                    "audience": "everybody",
                    "body": text_,
                    "created_ms": 1,
                    "started_ms": 1,
                    "recipients": len(targets),
                    "fanned_out": done,
                    **columns,
                }
            )
        )
        for n, target in enumerate(targets, 1):
            platform = target.partition(":")[0]
            session.add(
                RecipientRow(
                    broadcast_id=id_,
                    person=target,
                    n=n,
                    target=target,
                    platform=None if platform == "user" else platform,
                )
            )
        session.commit()
    fan_out(engine, id_, targets[:done], text_)
    with engine.begin() as connection:
        connection.execute(
            text("UPDATE broadcast SET state = :state WHERE id = :id"), {"state": state, "id": id_}
        )
    return id_


def fan_out(engine: Engine, id_: str, targets: Sequence[str], text_: str = "to all") -> None:
    """Give recipients their deliveries."""
    new = [
        check(to=t, text=text_, lane=Lane.BROADCAST, key=f"broadcast:{id_}:{t}") for t in targets
    ]
    with engine.begin() as connection:
        outbox.insert(connection, new)
        connection.execute(
            text(
                "UPDATE delivery SET state = 'held', error_kind = :kind, broadcast_id = :id, "
                "order_key = NULL WHERE key LIKE :keys AND broadcast_id IS NULL"
            ),
            {"kind": WAITS_FOR_BROADCAST, "id": id_, "keys": f"broadcast:{id_}:%"},
        )


def states(engine: Engine, id_: str) -> dict[str, int]:
    """Count a broadcast's deliveries by state."""
    query = "SELECT state, count(*) FROM delivery WHERE broadcast_id = :id GROUP BY state"
    with engine.begin() as connection:
        found = connection.execute(text(query), {"id": id_}).all()
    return {row[0]: row[1] for row in found}


def stored(engine: Engine, id_: str) -> BroadcastRow:
    """Give a broadcast's row."""
    with Session(engine) as session:
        row = session.get(BroadcastRow, id_)
    assert row is not None
    return row


def end(engine: Engine, id_: str, state: str, count: int, kind: str | None = None) -> None:
    """Give some deliveries that were let go a state, as a worker would."""
    at = NOW_MS[engine.dialect.name] if State(state) in ENDS else "NULL"
    with engine.begin() as connection:
        connection.execute(
            text(
                f"UPDATE delivery SET state = :state, ended_ms = {at}, "
                "error_kind = :kind WHERE id IN (SELECT id FROM delivery WHERE broadcast_id = :id "
                "AND state = 'queued' ORDER BY id LIMIT :count)"
            ),
            {"state": state, "id": id_, "count": count, "kind": kind},
        )
