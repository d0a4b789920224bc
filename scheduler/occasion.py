"""The occasion of a delivery: the occurrence of a schedule that made it.

Called by `scheduler.explain`. Reads only.
"""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Engine
from sqlmodel import Session, select

from scheduler.tables import Fire, Schedule
from scheduler.when import to_ms
from worker.database import reading


@dataclass(frozen=True, slots=True)
class Occasion:
    """The occurrence of a schedule that made a delivery.

    Attributes:
        schedule: The schedule's name, or its id when it is gone.
        missed: Occurrences that it stands for, which passed while no clock ran.
    """

    schedule: str
    occurrence_ms: int
    fired_at_ms: int
    missed: int = 0
    missed_since_ms: int | None = None


def occasion_of(engine: Engine, key: str | None) -> Occasion | None:
    """Give the occurrence that a key names as `scheduler.fire` makes keys, `None` for others."""
    kind, _, rest = (key or "").partition(":")
    schedule_id, _, instant = rest.partition(":")
    if kind != "schedule":
        return None
    try:
        occurrence_ms = to_ms(datetime.fromisoformat(instant))
    except (ValueError, TypeError):
        # Not an occurrence: somebody's own key, or a run that was asked for by hand.
        return None
    query = select(Fire).where(Fire.schedule_id == schedule_id, Fire.fire_ms == occurrence_ms)
    with reading(engine) as connection, Session(connection) as session:
        fire = session.exec(query).one_or_none()
        schedule = session.get(Schedule, schedule_id)
    if fire is None:
        return None
    return Occasion(
        schedule.name if schedule is not None else schedule_id,
        fire.fire_ms,
        fire.fired_at_ms,
        fire.missed,
        fire.missed_since_ms,
    )
