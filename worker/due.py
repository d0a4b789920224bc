"""What the relay asks of the outbox: due rows, lost leases, unpublished rows, expired ones.

Part of the outbox: writes the state by `worker.states`. Cheap when nothing is to be done:
`next_duty` is five look-ups at the edge of an index.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import Connection, Row, TextClause, text

from worker.backoff import MAX_ATTEMPTS, SCHEDULE_S
from worker.database import NOW_MS
from worker.lanes import Lane
from worker.order import queue, release
from worker.tables import WAITS_FOR_TIME

#: Milliseconds after which a published row that did not move may be published again.
STALE_MS = 5_000
#: Rows of one pass.
BATCH = 2_000
_IN_TIME = "state IN ('scheduled', 'retrying')"


#: SQL for a number that differs from row to row.
_DIGITS = {
    "sqlite": "unicode(substr(id, -1)) * 7 + unicode(substr(id, -2))",
    "postgresql": "ascii(right(id, 1)) * 7 + ascii(right(id, 2))",
}


@dataclass(frozen=True, slots=True)
class ToPublish:
    """A queued delivery that a worker should hear of."""

    id: str
    lane: Lane


@dataclass(frozen=True, slots=True)
class Duty:
    """When the relay has something to do; `next_ms` and `now_ms` by the database's clock."""

    now_ms: int
    next_ms: int | None


@cache
def _duty(dialect: str) -> TextClause:
    return text(
        f"""
        SELECT {NOW_MS[dialect]},
          (SELECT min(due_ms) FROM delivery WHERE state IN ('scheduled', 'retrying')),
          (SELECT min(due_ms) FROM delivery WHERE {WAITS_FOR_TIME}),
          (SELECT min(lease_until_ms) FROM delivery WHERE state = 'sending'),
          (SELECT min(published_ms) FROM delivery WHERE state = 'queued' AND published_ms = 0),
          (SELECT min(expires_ms) FROM delivery WHERE expires_ms IS NOT NULL
             AND state IN ('scheduled', 'queued', 'retrying', 'held'))
        """
    )


def next_duty(connection: Connection) -> Duty:
    """Tell when the relay has something to do; never later than the truth."""
    now, *times = connection.execute(_duty(connection.dialect.name)).one()
    return Duty(now, min((t for t in times if t is not None), default=None))


def expire(connection: Connection) -> int:
    """End what is past its time, and let go what waited behind it; give how many ended."""
    now = NOW_MS[connection.dialect.name]
    keys = (
        connection.execute(
            text(
                f"UPDATE delivery SET state = 'expired', ended_ms = {now} "
                f"WHERE expires_ms IS NOT NULL AND expires_ms <= {now} "
                "AND state IN ('scheduled', 'queued', 'retrying', 'held') RETURNING order_key"
            )
        )
        .scalars()
        .all()
    )
    release(connection, {key for key in keys if key is not None})
    return len(keys)


def queue_due(connection: Connection) -> list[ToPublish]:
    """Queue what is due; give it for publishing."""
    return _in_turn(connection.execute(_queue_due(connection.dialect.name, _IN_TIME)).all())


def queue_waiting(connection: Connection) -> list[ToPublish]:
    """Queue what was held until now; give it for publishing."""
    return _in_turn(connection.execute(_queue_due(connection.dialect.name, WAITS_FOR_TIME)).all())


@cache
def _queue_due(dialect: str, which: str) -> TextClause:
    now = NOW_MS[dialect]
    return text(
        queue(
            dialect,
            f"{which} AND due_ms <= {now}",
            limit=f"LIMIT {BATCH}",
            changes=f"published_ms = {now}",
            returning="id, lane",
        )
    )


def queue_unpublished(connection: Connection) -> list[ToPublish]:
    """Give what is queued and was not published, because the broker was away."""
    return _published(connection, "published_ms = 0 ORDER BY id")


def stale_before(connection: Connection) -> int | None:
    """Give the time before which what was published is stale; `None` when nothing is."""
    cutoff, oldest = connection.execute(
        text(
            f"SELECT {NOW_MS[connection.dialect.name]} - {STALE_MS}, "
            "(SELECT min(published_ms) FROM delivery WHERE state = 'queued')"
        )
    ).one()
    return None if oldest is None or oldest > cutoff else int(cutoff)


def correct_times(connection: Connection, *, lease_ms: int) -> int:
    """Correct what was noted by a clock that ran ahead and was set back; give how many rows.

    On SQLite the clock is the machine's. A row that counts as published until two hours from now
    would wait for them; a lease as well, if its worker is gone and does not renew it.
    """
    now = NOW_MS[connection.dialect.name]
    return sum(
        connection.execute(text(statement), {"lease_ms": lease_ms}).rowcount
        for statement in (
            "UPDATE delivery SET published_ms = 0 "
            f"WHERE state = 'queued' AND published_ms > {now} + :lease_ms",
            f"UPDATE delivery SET lease_until_ms = {now} + :lease_ms "
            f"WHERE state = 'sending' AND lease_until_ms > {now} + 2 * :lease_ms",
        )
    )


def queue_stale(connection: Connection, lane: Lane, before_ms: int) -> list[ToPublish]:
    """Give a lane's rows that were published before a time and did not move."""
    return _published(
        connection,
        f"lane = '{lane.value}' AND published_ms <= {int(before_ms)} ORDER BY published_ms",
    )


def _published(connection: Connection, which: str) -> list[ToPublish]:
    dialect = connection.dialect.name
    lock = "" if dialect == "sqlite" else "FOR UPDATE SKIP LOCKED"
    rows = connection.execute(
        text(
            f"UPDATE delivery SET published_ms = {NOW_MS[dialect]} WHERE id IN "
            f"(SELECT id FROM delivery WHERE state = 'queued' AND {which} "
            f"LIMIT {BATCH} {lock}) RETURNING id, lane"
        )
    ).all()
    return _in_turn(rows)


def _in_turn(rows: Sequence[Row[Any]]) -> list[ToPublish]:
    return sorted((ToPublish(row.id, Lane(row.lane)) for row in rows), key=lambda p: p.id)


def rescue(
    connection: Connection,
    *,
    keyed: Sequence[str],
    asked: Sequence[str],
    min_age_ms: int = 0,
    at_ms: int | None = None,
) -> list[ToPublish]:
    """Take up deliveries whose worker is gone: its lease ran out and nobody settled.

    Whether they were sent, nobody can know. On a platform that deduplicates (`keyed`) or can
    be `asked` they are tried again, in doubt. Elsewhere by their policy: sent again, marked as
    a possible duplicate, or `unknown`, unless their worker noted that it had not begun. The
    attempt counts, so that a delivery which kills its worker comes to an end; and from its
    second death on it waits, so that it takes none of its neighbours along. What edits or
    retracts is never in doubt: it is tried again, and fails in the end.

    Args:
        min_age_ms: Milliseconds since the first claim for which none is given up.
        at_ms: The database's time by which a lease has run out; now where not given.
    """
    dialect = connection.dialect.name
    lock = "" if dialect == "sqlite" else "FOR UPDATE SKIP LOCKED"
    names = {f"k{n}": name for n, name in enumerate(keyed)}
    names |= {f"a{n}": name for n, name in enumerate(asked)}
    # PostgreSQL knows no empty list; nothing is in one of NULL.
    listed = ", ".join(f":{n}" for n in names) or "NULL"
    safe = f"(action <> 'send' OR COALESCE(platform IN ({listed}), false))"
    values: dict[str, object] = {**names, "min_age_ms": min_age_ms, "at_ms": at_ms}
    rows = connection.execute(_rescue(dialect, safe, lock), values).all()
    if rows:
        connection.execute(
            text(
                "INSERT INTO attempt (delivery_id, attempt, owner, started_ms, took_ms, outcome, "
                f"text) VALUES (:id, :attempt, '', {NOW_MS[dialect]}, 0, 'ambiguous', "
                "'the worker ended while it was sending') "
                "ON CONFLICT (delivery_id, attempt) DO NOTHING"
            ),
            [{"id": row.id, "attempt": row.attempt} for row in rows],
        )
        ended = {row.order_key for row in rows if row.ended_ms is not None}
        release(connection, ended - {None})
    return [ToPublish(row.id, Lane(row.lane)) for row in rows if row.state == "queued"]


@cache
def _rescue(dialect: str, safe: str, lock: str) -> TextClause:
    now = NOW_MS[dialect]
    spent = (
        f"(attempts_used + 1 >= {MAX_ATTEMPTS} AND COALESCE(begun_ms, 0) <= {now} - :min_age_ms)"
    )
    not_begun = f"(NOT {safe} AND policy = 'hold' AND doubt_ms IS NULL)"
    waits = " ".join(
        f"WHEN attempts_used = {used} THEN {int(wait * 1000)}"
        for used, wait in enumerate(SCHEDULE_S)
    )
    # Spread like the schedule of retries, by the last digits of the id.
    longest = int(SCHEDULE_S[-1] * 1000)
    spread = f"CASE {waits} ELSE {longest} END * (80 + ({_DIGITS[dialect]}) % 40) / 100"
    return text(
        f"""
        UPDATE delivery SET
          state = CASE
            WHEN {spent} AND action <> 'send' THEN 'failed'
            WHEN {spent} THEN 'unknown'
            WHEN NOT {safe} AND policy = 'hold' AND doubt_ms IS NOT NULL THEN 'unknown'
            WHEN attempts_used = 0 THEN 'queued' ELSE 'retrying' END,
          ended_ms = CASE
            WHEN {spent} OR NOT {safe} AND policy = 'hold' AND doubt_ms IS NOT NULL THEN {now} END,
          due_ms = CASE WHEN attempts_used = 0 THEN due_ms ELSE {now} + {spread} END,
          maybe_duplicate = maybe_duplicate OR NOT ({safe} OR {not_begun}),
          doubt_ms = CASE WHEN {not_begun} OR action <> 'send' THEN NULL
                     ELSE COALESCE(doubt_ms, begun_ms) END,
          attempts_used = attempts_used + 1, published_ms = {now},
          error_kind = 'ambiguous', error_text = 'the worker ended while it was sending',
          lease_until_ms = NULL, owner = NULL
        WHERE id IN (
          SELECT id FROM delivery WHERE state = 'sending'
            AND lease_until_ms < COALESCE(CAST(:at_ms AS BIGINT), {now})
          LIMIT {BATCH} {lock})
        RETURNING id, lane, state, attempt, order_key, ended_ms
        """
    )


def mark_unpublished(connection: Connection, ids: Sequence[str]) -> None:
    """Note that the broker did not take these; the relay publishes them."""
    connection.execute(
        text("UPDATE delivery SET published_ms = 0 WHERE id = :id AND state = 'queued'"),
        [{"id": id_} for id_ in ids],
    )
