"""Schedules and their fires, read for people.

Called by the command line and by what changes schedules. A row that another process broke is
shown as it is, never an error.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice

import orjson
from sqlalchemy import Connection, Engine, Row, text

from scheduler.cron import Cron
from scheduler.documents import loads, read_spec
from scheduler.occurrences import Spec, upcoming
from scheduler.tables import FireOutcome, ScheduleState
from scheduler.when import from_ms
from worker.database import now_ms, reading
from worker.errors import NotFound, Refused

#: What `view` reads.
COLUMNS = (
    "id, name, CAST(spec AS TEXT) AS spec, CAST(message AS TEXT) AS message, "
    "CAST(policy AS TEXT) AS policy, state, note, error, next_fire_ms, created_ms, updated_ms"
)


@dataclass(frozen=True, slots=True)
class ScheduleView:
    """A schedule as it stands.

    Attributes:
        spec: The document of the column, see `scheduler.tables`; its text where another
            process left something that is not JSON. The same for `message` and `policy`.
        next_fire: In UTC; `None` until the clock has planned it and after the end.
        note: Why it is paused.
        error: Why it is broken.
    """

    id: str
    name: str
    state: ScheduleState
    spec: object
    message: object
    policy: object
    next_fire: datetime | None
    note: str | None
    error: str | None
    created: datetime

    def as_json(self) -> dict[str, object]:
        """Give the fields as JSON has them, times in ISO 8601."""
        return {
            "id": self.id,
            "name": self.name,
            "state": self.state.value,
            "spec": self.spec,
            "message": self.message,
            "policy": self.policy,
            "next_fire": _iso(self.next_fire),
            "note": self.note,
            "error": self.error,
            "created": _iso(self.created),
        }


@dataclass(frozen=True, slots=True)
class FireView:
    """What came of one occurrence; the fields are those of `scheduler.tables.Fire`."""

    at: datetime
    fired_at: datetime
    outcome: FireOutcome
    missed: int
    missed_since: datetime | None
    delivery_ids: tuple[str, ...]
    fired_by: str

    def as_json(self) -> dict[str, object]:
        """Give the fields as JSON has them, times in ISO 8601."""
        return {
            "at": _iso(self.at),
            "fired_at": _iso(self.fired_at),
            "outcome": self.outcome.value,
            "missed": self.missed,
            "missed_since": _iso(self.missed_since),
            "delivery_ids": list(self.delivery_ids),
            "fired_by": self.fired_by,
        }


def get(engine: Engine, name: str) -> ScheduleView:
    """Give a schedule by its name or id.

    Raises:
        NotFound: There is none.
    """
    with reading(engine) as connection:
        return view(find(connection, name))


def list_(engine: Engine) -> list[ScheduleView]:
    """Give all schedules by name."""
    with reading(engine) as connection:
        rows = connection.execute(text(f"SELECT {COLUMNS} FROM schedule ORDER BY name"))
        return [view(row) for row in rows]


def fires(engine: Engine, name: str, limit: int = 10) -> list[FireView]:
    """Give what came of a schedule's occurrences, the latest first."""
    with reading(engine) as connection:
        schedule_id = find(connection, name).id
        rows = connection.execute(
            text(
                "SELECT fire_ms, fired_at_ms, outcome, missed, missed_since_ms, "
                "CAST(delivery_ids AS TEXT) AS delivery_ids, fired_by "
                "FROM fire WHERE schedule_id = :id ORDER BY fire_ms DESC LIMIT :limit"
            ),
            {"id": schedule_id, "limit": limit},
        ).all()
    return [
        FireView(
            at=from_ms(row.fire_ms),
            fired_at=from_ms(row.fired_at_ms),
            outcome=FireOutcome(row.outcome),
            missed=row.missed,
            missed_since=None if row.missed_since_ms is None else from_ms(row.missed_since_ms),
            delivery_ids=tuple(orjson.loads(row.delivery_ids)),
            fired_by=row.fired_by,
        )
        for row in rows
    ]


def preview(spec: Spec, n: int, *, after: datetime) -> list[dict[str, str]]:
    """Give the next `n` occurrences as `utc` and `local` (in the schedule's zone), in ISO 8601."""
    zone = spec.zone if isinstance(spec, Cron) else UTC
    return [
        {"utc": at.isoformat(), "local": at.astimezone(zone).isoformat()}
        for at in islice(upcoming(spec, after), n)
    ]


def preview_of(engine: Engine, name: str, n: int) -> list[dict[str, str]]:
    """Give the next `n` occurrences of a schedule, as `preview` does.

    Raises:
        Refused: There is none of that name, or its spec cannot be read.
    """
    with reading(engine) as connection:
        row = find(connection, name)
        return preview(read_spec(row.spec), n, after=from_ms(now_ms(connection)))


def lookup(
    connection: Connection, name: str, *, lock: bool = False
) -> Row[tuple[object, ...]] | None:
    """Give the row of a name or id, `None` for none; with `lock`, others wait to change it."""
    locked = "FOR UPDATE" if lock and connection.dialect.name == "postgresql" else ""
    return connection.execute(
        text(
            f"SELECT {COLUMNS} FROM schedule WHERE name = :name OR id = :name "
            f"ORDER BY CASE WHEN name = :name THEN 0 ELSE 1 END LIMIT 1 {locked}"
        ),
        {"name": name},
    ).first()


def find(connection: Connection, name: str, *, lock: bool = False) -> Row[tuple[object, ...]]:
    """Give the row of a name or id, as `lookup` does.

    Raises:
        NotFound: There is none.
    """
    row = lookup(connection, name, lock=lock)
    if row is None:
        raise NotFound(f"there is no schedule {name!r}: see mirrorpost schedule list")
    return row


def view(row: Row[tuple[object, ...]]) -> ScheduleView:
    """Give a row as people see it."""
    return ScheduleView(
        id=row.id,
        name=row.name,
        state=ScheduleState(row.state),
        spec=_shown(row.spec),
        message=_shown(row.message),
        policy=_shown(row.policy),
        next_fire=None if row.next_fire_ms is None else from_ms(row.next_fire_ms),
        note=row.note,
        error=row.error,
        created=from_ms(row.created_ms),
    )


def _shown(column: str) -> object:
    try:
        return loads("column", column)
    except Refused:
        return column


def _iso(instant: datetime | None) -> str | None:
    return None if instant is None else instant.isoformat()
