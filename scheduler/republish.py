"""Republish: what the broker lost is told to the workers again.

One pass; ticked by the clock. A row that was published and did not move is either lost or
waits behind others. Only where the lane's queue is empty is it lost: while workers are down,
nothing piles up at the broker.
"""

import structlog
from sqlalchemy import Engine

from scheduler.publish import publish, waiting
from worker.database import reading
from worker.due import BATCH, correct_times, queue_stale, stale_before
from worker.lanes import Lane
from worker.settings import settings

_log = structlog.get_logger(__name__)


def republish(engine: Engine) -> int:
    """Publish again what was lost; give how many deliveries."""
    with engine.begin() as connection:
        corrected = correct_times(connection, lease_ms=int(settings().lease_s * 1000))
    if corrected:
        _log.warning("clock_was_set_back", deliveries=corrected)
    with reading(engine) as connection:
        before_ms = stale_before(connection)
    if before_ms is None:
        return 0
    lost = sum(_republish(engine, lane, before_ms) for lane in Lane if waiting(lane) == 0)
    if lost:
        _log.info("published_again", deliveries=lost)
    return lost


def _republish(engine: Engine, lane: Lane, before_ms: int) -> int:
    lost = 0
    while True:
        with engine.begin() as connection:
            rows = queue_stale(connection, lane, before_ms)
        lost += publish(engine, rows)
        if len(rows) < BATCH:
            return lost
