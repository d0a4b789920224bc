"""The fire pass: what is due becomes fires and deliveries, in one transaction.

Ticked by the clock of every scheduler process. Any number of them may run: a due row is
locked, `fire` has one row an occurrence, and the deliveries' keys are made of it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

import orjson
import structlog
from sqlalchemy import Connection, Engine, TextClause, text

from scheduler.plan import Planned, Row, plan
from scheduler.publish import publish
from scheduler.record import NewFire, record, recorded
from scheduler.tables import FireOutcome
from scheduler.when import to_ms
from worker import outbox
from worker.database import NOW_MS, reading
from worker.errors import KeyConflict
from worker.failpoints import reach
from worker.json_rows import rows_from_json
from worker.outbox import Accepted

_log = structlog.get_logger(__name__)

#: Schedules of one pass: a bound on the length of the transaction.
BATCH = 500

_MOVE = {
    "id": "text",
    "was_ms": "bigint",
    "next_ms": "bigint",
    "state": "text",
    "error": "text",
}


@dataclass(frozen=True, slots=True)
class FirePass:
    """What a pass did; times by the database's clock.

    Attributes:
        taken: Schedules that were planned or due, and not in another pass's hands.
        left_out: Occurrences that the misfire policies kept back.
        broken: Schedules that cannot be read and were parked.
        next_due_ms: When the next schedule is due; in the past when there is more to do.
    """

    now_ms: int
    next_due_ms: int | None
    taken: int = 0
    fired: int = 0
    left_out: int = 0
    broken: int = 0


def fire_due(engine: Engine, *, by: str) -> FirePass:
    """Fire what is due, plan what is not planned yet, park what cannot be read.

    Args:
        by: The process, for the record.
    """
    with reading(engine) as connection:
        now, due = look(connection)
    if due is None or due > now:
        return FirePass(now, due)
    with engine.begin() as connection:
        rows = _take(connection)
        now, _ = look(connection)
        plans = _unfired(connection, [plan(row, now) for row in rows])
        plans, accepted = _deliver(connection, plans)
        if accepted:
            reach("in_fire")
        record(connection, _fires(plans, accepted), now_ms=now, by=by)
        _move(connection, plans)
        now, due = look(connection)
    if accepted:
        reach("after_fire")
    publish(engine, [each for each in accepted.values() if each.due_now])
    return _told(FirePass(now, due), plans)


def _told(done: FirePass, plans: Sequence[Planned]) -> FirePass:
    fired = left_out = broken = 0
    for each in plans:
        if each.error is not None:
            broken += 1
            _log.warning(
                "schedule_broken", schedule=each.row.id, name=each.row.name, error=each.error
            )
        for occurrence, _ in each.occurrences:
            fired += occurrence.outcome is FireOutcome.FIRED
            left_out += occurrence.missed
    if left_out:
        # One line: after a long downtime it is every schedule. The fires say which.
        _log.warning("occurrences_left_out", occurrences=left_out)
    if fired:
        _log.info("fired", occurrences=fired)
    return FirePass(done.now_ms, done.next_due_ms, len(plans), fired, left_out, broken)


def look(connection: Connection) -> tuple[int, int | None]:
    """Give the database's clock and when a schedule is due next, `None` for never."""
    now, unplanned, due = connection.execute(_look(connection.dialect.name)).one()
    return now, now if unplanned else due


@cache
def _look(dialect: str) -> TextClause:
    return text(
        f"""
        SELECT {NOW_MS[dialect]},
          EXISTS (SELECT 1 FROM schedule WHERE state = 'active' AND next_fire_ms IS NULL),
          (SELECT next_fire_ms FROM schedule WHERE state = 'active' AND next_fire_ms IS NOT NULL
           ORDER BY next_fire_ms LIMIT 1)
        """
    )


def _take(connection: Connection) -> list[Row]:
    rows = connection.execute(_take_statement(connection.dialect.name), {"limit": BATCH})
    return [Row(*row) for row in rows]


@cache
def _take_statement(dialect: str) -> TextClause:
    # SQLite has no row locks and needs none: the transaction began as IMMEDIATE. The documents
    # are read as text, because one that is not JSON must not fail the others.
    lock = "" if dialect == "sqlite" else "FOR UPDATE SKIP LOCKED"
    return text(
        f"""
        SELECT id, name, CAST(spec AS TEXT), CAST(message AS TEXT), CAST(policy AS TEXT),
          next_fire_ms, updated_ms
        FROM schedule
        WHERE state = 'active' AND (next_fire_ms IS NULL OR next_fire_ms <= {NOW_MS[dialect]})
        ORDER BY next_fire_ms NULLS FIRST LIMIT :limit {lock}
        """
    )


def _unfired(connection: Connection, plans: Sequence[Planned]) -> list[Planned]:
    """Drop the occurrences that have fired, as after a clock that was set back."""
    fired = recorded(
        connection,
        [
            (each.row.id, to_ms(occurrence.at))
            for each in plans
            for occurrence, _ in each.occurrences
        ],
    )
    if not fired:
        return list(plans)
    return [
        replace(
            each,
            occurrences=tuple(
                pair for pair in each.occurrences if (each.row.id, to_ms(pair[0].at)) not in fired
            ),
        )
        for each in plans
    ]


def _deliver(
    connection: Connection, plans: Sequence[Planned]
) -> tuple[list[Planned], dict[str, Accepted]]:
    """Store the deliveries; give the plans as they stand, and what was stored by asked id."""
    try:
        with connection.begin_nested():
            return list(plans), _insert(connection, plans)
    except KeyConflict:
        # Somebody used one of our keys. One by one, so that only that schedule is parked.
        kept: list[Planned] = []
        accepted: dict[str, Accepted] = {}
        for each in plans:
            try:
                with connection.begin_nested():
                    accepted |= _insert(connection, [each])
                kept.append(each)
            except KeyConflict as conflict:
                kept.append(Planned(each.row, (), each.row.next_fire_ms, error=str(conflict)))
        return kept, accepted


def _insert(connection: Connection, plans: Iterable[Planned]) -> dict[str, Accepted]:
    new = [delivery for each in plans for _, delivery in each.occurrences if delivery is not None]
    return {asked.id: got for asked, got in zip(new, outbox.insert(connection, new), strict=True)}


def _fires(plans: Iterable[Planned], accepted: Mapping[str, Accepted]) -> list[NewFire]:
    return [
        NewFire(
            schedule_id=each.row.id,
            fire_ms=to_ms(occurrence.at),
            outcome=occurrence.outcome,
            missed=occurrence.missed,
            missed_since_ms=None
            if occurrence.missed_since is None
            else to_ms(occurrence.missed_since),
            delivery_ids=() if delivery is None else (accepted[delivery.id].id,),
        )
        for each in plans
        for occurrence, delivery in each.occurrences
    ]


def _move(connection: Connection, plans: Iterable[Planned]) -> None:
    rows = [
        {
            "id": each.row.id,
            "was_ms": each.row.next_fire_ms,
            "next_ms": each.next_ms,
            "state": each.state,
            "error": each.error,
        }
        for each in plans
    ]
    if rows:
        connection.execute(
            _move_statement(connection.dialect.name), {"rows": orjson.dumps(rows).decode()}
        )


@cache
def _move_statement(dialect: str) -> TextClause:
    return text(
        f"""
        UPDATE schedule SET next_fire_ms = r.next_ms, state = r.state, error = r.error
        FROM ({rows_from_json(dialect, _MOVE)}) AS r
        WHERE schedule.id = r.id AND schedule.state = 'active'
          AND COALESCE(schedule.next_fire_ms, -1) = COALESCE(r.was_ms, -1)
        """
    )
