"""What becomes of one schedule row now: pure, apart from the check at the delivery's door.

Called by the fire pass for rows that are due or not planned yet. A row that cannot be read
is parked with the reason, whoever wrote it.
"""

from dataclasses import dataclass

from scheduler.documents import delivery_for, loads, read_policy, read_spec
from scheduler.misfire import Occurrence, judge
from scheduler.occurrences import first
from scheduler.tables import FireOutcome, ScheduleState
from scheduler.when import from_ms, to_ms
from worker.errors import Refused
from worker.intake import NewDelivery


@dataclass(frozen=True, slots=True)
class Row:
    """A schedule that is due or not planned yet, its documents as text."""

    id: str
    name: str
    spec: str
    message: str
    policy: str
    next_fire_ms: int | None
    updated_ms: int


@dataclass(frozen=True, slots=True)
class Planned:
    """What becomes of one row: occurrences with their deliveries, and its next time."""

    row: Row
    occurrences: tuple[tuple[Occurrence, NewDelivery | None], ...]
    next_ms: int | None
    error: str | None = None

    @property
    def state(self) -> ScheduleState:
        """Give the row's state from now on."""
        if self.error is not None:
            return ScheduleState.BROKEN
        return ScheduleState.ENDED if self.next_ms is None else ScheduleState.ACTIVE


def plan(row: Row, now_ms: int) -> Planned:
    """Decide what becomes of a row at `now_ms`."""
    due_ms = row.next_fire_ms
    try:
        spec, policy = read_spec(row.spec), read_policy(row.policy)
        message = loads("message", row.message)
        if due_ms is None:
            beginning = first(spec, from_ms(row.updated_ms))
            due_ms = None if beginning is None else to_ms(beginning)
        if due_ms is None or due_ms > now_ms:
            # Only planned now; a message that could not be sent is shown before it is due.
            delivery_for(message, spec, name=row.name, key=row.id)
            return Planned(row, (), due_ms)
        verdict = judge(spec, policy, due=from_ms(due_ms), now=from_ms(now_ms))
        return Planned(
            row,
            tuple(
                (
                    occurrence,
                    delivery_for(
                        message,
                        spec,
                        name=row.name,
                        key=f"schedule:{row.id}:{occurrence.at.isoformat()}",
                    )
                    if occurrence.outcome is FireOutcome.FIRED
                    else None,
                )
                for occurrence in verdict.occurrences
            ),
            None if verdict.next is None else to_ms(verdict.next),
        )
    except Refused as refused:
        # The time stays: when the row is mended, the policy judges what was missed.
        return Planned(row, (), due_ms, error=str(refused))
    except (TypeError, ValueError, OverflowError) as error:
        # Any process writes these columns, and SQLite keeps whatever it is given.
        return Planned(row, (), None, error=f"a time of this row cannot be: {error}")
