"""Retention: what ended long ago is deleted, in small batches; the history is kept.

One pass; ticked by the clock. Ids are ordered by time, so a batch is the beginning of the
primary key. A deleted delivery's key may be used again.
"""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import cache

import structlog
from sqlalchemy import Connection, Engine, TextClause, text

from scheduler.deliveries import first_id
from scheduler.when import to_ms
from worker.states import ENDS

_log = structlog.get_logger(__name__)

#: Rows of one transaction: a few milliseconds in which a sender of SQLite waits.
BATCH = 500
#: Seconds between batches while there is something to delete, and when there is nothing.
_BUSY_S = 1.0
_IDLE_S = 600.0

_ENDED = ", ".join(f"'{state}'" for state in sorted(ENDS))


class Retention:
    """When to delete next, and what."""

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

    def run(self) -> int:
        """Delete one batch of each when it is time for it; give how many rows."""
        if self._clock() < self._again:
            return 0
        now = datetime.now(UTC)
        with self._engine.begin() as connection:
            gone = (
                delete_deliveries(connection, before=now - self._keep_deliveries)
                + delete_attempts(connection, before=now - self._keep_attempts)
                + delete_rejected(connection, before=now - self._keep_deliveries)
            )
        self._again = self._clock() + (_BUSY_S if gone else _IDLE_S)
        if gone:
            _log.info("retention_deleted", rows=gone)
        return gone


def delete_deliveries(connection: Connection, *, before: datetime) -> int:
    """Delete a batch of deliveries that ended before a time, with their attempts.

    What is not mirrored yet is kept, and so is what was asked for long ago and ended lately.
    """
    values = {"first": first_id(before), "before": to_ms(before), "limit": BATCH}
    ids = connection.execute(_ended(connection.dialect.name), values).scalars().all()
    for statement in (
        "DELETE FROM attempt WHERE delivery_id = :id",
        "DELETE FROM delivery WHERE id = :id",
    ):
        if ids:
            connection.execute(text(statement), [{"id": id_} for id_ in ids])
    return len(ids)


@cache
def _ended(dialect: str) -> TextClause:
    lock = "" if dialect == "sqlite" else "FOR UPDATE SKIP LOCKED"
    return text(
        f"SELECT id FROM delivery WHERE id < :first AND state IN ({_ENDED}) "
        "AND ended_ms < :before AND COALESCE(mirror, '') <> 'failed' "
        f"ORDER BY id LIMIT :limit {lock}"
    )


def delete_attempts(connection: Connection, *, before: datetime) -> int:
    """Delete a batch of attempts that began before a time, of deliveries asked for before it."""
    lock = "" if connection.dialect.name == "sqlite" else "FOR UPDATE SKIP LOCKED"
    return connection.execute(
        text(
            "DELETE FROM attempt WHERE (delivery_id, attempt) IN (SELECT delivery_id, attempt "
            "FROM attempt WHERE delivery_id < :first AND started_ms < :before "
            f"ORDER BY delivery_id LIMIT :limit {lock})"
        ),
        {"first": first_id(before), "before": to_ms(before), "limit": BATCH},
    ).rowcount


def delete_rejected(connection: Connection, *, before: datetime) -> int:
    """Delete a batch of refused messages that came before a time."""
    return connection.execute(
        text(
            "DELETE FROM rejected WHERE id IN (SELECT id FROM rejected "
            "WHERE received_ms < :before ORDER BY id LIMIT :limit)"
        ),
        {"before": to_ms(before), "limit": BATCH},
    ).rowcount
