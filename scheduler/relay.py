"""The relay: what is due, lost or unpublished is told to the workers again.

One pass; ticked by the clock of every scheduler process. Two at once do no harm: rows are
taken with locks, and a task whose row is somebody else's does nothing.
"""

import structlog
from sqlalchemy import Engine

from scheduler.publish import publish
from scheduler.steps import Steps
from worker.database import reading
from worker.due import (
    BATCH,
    ToPublish,
    expire,
    next_duty,
    queue_due,
    queue_unpublished,
    queue_waiting,
    rescue,
)
from worker.failpoints import reach
from worker.platforms import platforms
from worker.platforms.base import Dedup
from worker.settings import settings

_log = structlog.get_logger(__name__)


def relay(engine: Engine, steps: Steps | None = None) -> int | None:
    """Publish what is due; give the next due time in epoch milliseconds, `None` for none known.

    Args:
        steps: Notices a clock that was set, after which leases are not trusted for a while.
    """
    with reading(engine) as connection:
        duty = next_duty(connection)
    rescues = steps is None or steps.is_steady(duty.now_ms, settings().lease_s)
    if duty.next_ms is None or duty.next_ms > duty.now_ms:
        return duty.next_ms
    found = BATCH
    while found >= BATCH:
        found = _pass(engine, duty.now_ms if rescues else None)
    with reading(engine) as connection:
        return next_duty(connection).next_ms


def _pass(engine: Engine, rescues_at_ms: int | None) -> int:
    can = {name: p.capability.dedup for name, p in platforms().items()}
    keyed = [name for name, dedup in can.items() if dedup is Dedup.KEY]
    asked = [name for name, dedup in can.items() if dedup is Dedup.ASK]
    with engine.begin() as connection:
        expired = expire(connection)
        rescued = (
            rescue(
                connection,
                keyed=keyed,
                asked=asked,
                min_age_ms=int(settings().dead_letter_age_h * 3_600_000),
                # Not by the time of this moment: the clock may have been set since it was read.
                at_ms=rescues_at_ms,
            )
            if rescues_at_ms is not None
            else []
        )
        unpublished = queue_unpublished(connection)
        due = queue_due(connection)
        waited = queue_waiting(connection)
    if rescued or unpublished or due or waited:
        reach("in_relay")
    if expired:
        _log.info("expired", deliveries=expired)
    if rescued:
        _log.warning("lease_expired", deliveries=len(rescued))
    rows: list[ToPublish] = [*rescued, *unpublished, *due, *waited]
    if rows and publish(engine, rows) < len(rows):
        # The broker is away: the rows are marked, the next tick tries again.
        return 0
    return max(len(rescued), len(unpublished), len(due), len(waited))
