"""What the relay asks of the outbox: due rows, lost leases, unpublished rows, expired ones.

Part of the outbox: writes the state by `worker.states`. Cheap when nothing is to be done:
`next_duty` is four look-ups at the edge of an index.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from sqlalchemy import Connection, TextClause, text

from worker.backoff import MAX_ATTEMPTS
from worker.database import NOW_MS
from worker.lanes import Lane

#: Milliseconds after which a published row that did not move may be published again.
STALE_MS = 5_000
#: Rows of one pass.
BATCH = 2_000


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
    """End what is past its time; give how many."""
    now = NOW_MS[connection.dialect.name]
    return connection.execute(
        text(
            f"UPDATE delivery SET state = 'expired', ended_ms = {now} "
            f"WHERE expires_ms IS NOT NULL AND expires_ms <= {now} "
            "AND state IN ('scheduled', 'queued', 'retrying', 'held')"
        )
    ).rowcount


def queue_due(connection: Connection) -> list[ToPublish]:
    """Queue what is due; give it for publishing."""
    return _queued(
        connection,
        "state IN ('scheduled', 'retrying') AND due_ms <= {now} ORDER BY due_ms",
        "state = 'queued'",
    )


def queue_unpublished(connection: Connection) -> list[ToPublish]:
    """Give what is queued and was not published, because the broker was away."""
    return _queued(connection, "state = 'queued' AND published_ms = 0 ORDER BY id", "")


def is_stale(connection: Connection) -> bool:
    """Tell whether something was published a while ago and did not move."""
    now = NOW_MS[connection.dialect.name]
    return bool(
        connection.execute(
            text(
                "SELECT (SELECT min(published_ms) FROM delivery WHERE state = 'queued') "
                f"<= {now} - {STALE_MS}"
            )
        ).scalar()
    )


def queue_stale(connection: Connection, lane: Lane) -> list[ToPublish]:
    """Give a lane's rows that were published a while ago and did not move."""
    return _queued(
        connection,
        f"state = 'queued' AND lane = '{lane.value}' AND published_ms <= {{now}} - {STALE_MS} "
        "ORDER BY due_ms, id",
        "",
    )


def _queued(connection: Connection, which: str, change: str) -> list[ToPublish]:
    dialect = connection.dialect.name
    now = NOW_MS[dialect]
    lock = "" if dialect == "sqlite" else "FOR UPDATE SKIP LOCKED"
    rows = connection.execute(
        text(
            f"UPDATE delivery SET {change}{',' if change else ''} published_ms = {now} "
            f"WHERE id IN (SELECT id FROM delivery WHERE {which.format(now=now)} "
            f"LIMIT {BATCH} {lock}) RETURNING id, lane"
        )
    ).all()
    return sorted((ToPublish(row.id, Lane(row.lane)) for row in rows), key=lambda p: p.id)


def rescue(connection: Connection, *, deduplicating: Sequence[str]) -> list[ToPublish]:
    """Take up deliveries whose worker is gone: its lease ran out and nobody settled.

    Whether they were sent, nobody can know. On a `deduplicating` platform they are sent again
    under the same key; elsewhere by their policy, marked as a possible duplicate, or `unknown`.
    The attempt counts, so that a delivery which kills its worker comes to an end.
    """
    dialect = connection.dialect.name
    now = NOW_MS[dialect]
    lock = "" if dialect == "sqlite" else "FOR UPDATE SKIP LOCKED"
    safe = ", ".join(f":p{n}" for n in range(len(deduplicating)))
    lost = (
        f"SELECT id FROM delivery WHERE state = 'sending' AND lease_until_ms < {now} "
        f"LIMIT {BATCH} {lock}"
    )
    known = f"platform IN ({safe})"
    rows = connection.execute(
        text(
            f"""
            UPDATE delivery SET
              state = CASE
                WHEN {known} AND attempts_used + 1 < {MAX_ATTEMPTS} THEN 'queued'
                WHEN {known} THEN 'failed'
                WHEN policy = 'hold' OR attempts_used + 1 >= {MAX_ATTEMPTS} THEN 'unknown'
                ELSE 'queued' END,
              ended_ms = CASE
                WHEN attempts_used + 1 >= {MAX_ATTEMPTS} THEN {now}
                WHEN NOT COALESCE({known}, false) AND policy = 'hold' THEN {now} END,
              maybe_duplicate = maybe_duplicate OR NOT COALESCE({known}, false),
              attempts_used = attempts_used + 1, published_ms = {now},
              error_kind = 'ambiguous', error_text = 'the worker ended while it was sending',
              lease_until_ms = NULL, owner = NULL
            WHERE id IN ({lost}) RETURNING id, lane, state, attempt
            """
        ),
        {f"p{n}": name for n, name in enumerate(deduplicating)},
    ).all()
    if rows:
        connection.execute(
            text(
                "INSERT INTO attempt (delivery_id, attempt, owner, started_ms, took_ms, outcome, "
                f"text) VALUES (:id, :attempt, '', {now}, 0, 'ambiguous', "
                "'the worker ended while it was sending') "
                "ON CONFLICT (delivery_id, attempt) DO NOTHING"
            ),
            [{"id": row.id, "attempt": row.attempt} for row in rows],
        )
    return [ToPublish(row.id, Lane(row.lane)) for row in rows if row.state == "queued"]


def mark_unpublished(connection: Connection, ids: Sequence[str]) -> None:
    """Note that the broker did not take these; the relay publishes them."""
    connection.execute(
        text("UPDATE delivery SET published_ms = 0 WHERE id = :id AND state = 'queued'"),
        [{"id": id_} for id_ in ids],
    )
