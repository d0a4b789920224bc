"""Retention: what ended long ago is deleted, in small batches; the history is kept.

One pass; ticked by the clock. Ids are ordered by time, so what is old is the beginning of the
primary key, which is gone through batch by batch. A deleted delivery's key may be used again.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache

import structlog
from sqlalchemy import Engine, TextClause, text

from scheduler.deliveries import first_id
from scheduler.when import to_ms
from worker.database import reading
from worker.states import ENDS

_log = structlog.get_logger(__name__)

#: Rows that one transaction looks at: a few milliseconds in which a sender of SQLite waits.
BATCH = 500
#: Seconds between batches, and when all that is old was looked at.
_BUSY_S = 1.0
_IDLE_S = 600.0

_ENDED = ", ".join(f"'{state}'" for state in sorted(ENDS))


@dataclass(frozen=True, slots=True)
class Batch:
    """What one batch did.

    Attributes:
        last: The last id that it looked at; `None` when there was none.
    """

    gone: int
    last: str | None


class Retention:
    """When to delete next, and where."""

    def __init__(
        self,
        engine: Engine,
        *,
        deliveries: timedelta,
        attempts: timedelta,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._keep_deliveries = deliveries
        self._keep_attempts = attempts
        self._clock = clock
        self._again = 0.0
        self._delivery = self._attempt = ""

    def run(self) -> int:
        """Delete one batch of each when it is time for it; give how many rows."""
        if self._clock() < self._again:
            return 0
        now = datetime.now(UTC)
        long_ago = now - self._keep_deliveries
        deliveries = delete_deliveries(self._engine, before=long_ago, after=self._delivery)
        attempts = delete_attempts(
            self._engine, before=now - self._keep_attempts, after=self._attempt
        )
        rejected = delete_rejected(self._engine, before=long_ago)
        self._delivery, self._attempt = deliveries.last or "", attempts.last or ""
        busy = self._delivery or self._attempt or rejected
        self._again = self._clock() + (_BUSY_S if busy else _IDLE_S)
        gone = deliveries.gone + attempts.gone + rejected
        if gone:
            _log.info("retention_deleted", rows=gone)
        return gone


def delete_deliveries(engine: Engine, *, before: datetime, after: str = "") -> Batch:
    """Delete what ended before a time of the batch behind an id, with its attempts.

    What is not mirrored yet is kept, and so is what was asked for long ago and ended lately.
    """
    last = _last(engine, "delivery", "id", before=before, after=after)
    if last is None:
        return Batch(0, None)
    values = {"after": after, "last": last, "before": to_ms(before)}
    with engine.begin() as connection:
        ids = connection.execute(ended(engine.dialect.name), values).scalars().all()
        if ids:
            rows = [{"id": id_} for id_ in ids]
            connection.execute(text("DELETE FROM attempt WHERE delivery_id = :id"), rows)
            connection.execute(text("DELETE FROM delivery WHERE id = :id"), rows)
    return Batch(len(ids), last)


@cache
def ended(dialect: str) -> TextClause:
    """Give the query for what may go of a batch; locked, so that nobody retries it meanwhile."""
    lock = "" if dialect == "sqlite" else "FOR UPDATE SKIP LOCKED"
    return text(
        f"SELECT id FROM delivery WHERE id > :after AND id <= :last AND state IN ({_ENDED}) "
        f"AND ended_ms < :before AND COALESCE(mirror, '') <> 'failed' ORDER BY id {lock}"
    )


def delete_attempts(engine: Engine, *, before: datetime, after: str = "") -> Batch:
    """Delete what began before a time of the batch of attempts behind a delivery's id."""
    last = _last(engine, "attempt", "delivery_id", before=before, after=after)
    if last is None:
        return Batch(0, None)
    values = {"after": after, "last": last, "before": to_ms(before)}
    with engine.begin() as connection:
        return Batch(connection.execute(BEGUN, values).rowcount, last)


BEGUN = text(
    "DELETE FROM attempt WHERE delivery_id > :after AND delivery_id <= :last "
    "AND started_ms < :before"
)


def delete_rejected(engine: Engine, *, before: datetime) -> int:
    """Delete what was refused before a time, of the oldest; give how many."""
    oldest = "SELECT id, received_ms FROM rejected ORDER BY id LIMIT :limit"
    values = {"before": to_ms(before), "limit": BATCH}
    with reading(engine) as connection:
        ids = connection.execute(
            text(f"SELECT id FROM ({oldest}) AS r WHERE received_ms < :before"), values
        )
        rows = [{"id": id_} for id_ in ids.scalars()]
    if rows:
        with engine.begin() as connection:
            connection.execute(text("DELETE FROM rejected WHERE id = :id"), rows)
    return len(rows)


def _last(engine: Engine, table: str, key: str, *, before: datetime, after: str) -> str | None:
    """Give the last id of the batch behind an id, of what was asked for before a time."""
    with reading(engine) as connection:
        last: str | None = connection.execute(
            batch(table, key), {"after": after, "first": first_id(before), "limit": BATCH}
        ).scalar()
    return last


def batch(table: str, key: str) -> TextClause:
    """Give the query for where a batch ends."""
    return text(
        f"SELECT max({key}) FROM (SELECT {key} FROM {table} WHERE {key} > :after "
        f"AND {key} < :first ORDER BY {key} LIMIT :limit) AS b"
    )
