"""Publish: tell the workers of committed rows, as Celery tasks that carry ids.

Called after the commit. A broker that is down is no error of the caller's: the rows are
marked and the relay publishes them later.
"""

from collections import defaultdict
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Protocol

import structlog
from kombu.exceptions import KombuError
from redis.exceptions import RedisError
from sqlalchemy import Engine

from worker.due import mark_unpublished
from worker.failpoints import reach
from worker.lanes import Lane

if TYPE_CHECKING:
    from celery import Celery

_log = structlog.get_logger(__name__)

#: Ids of one task of a bulk.
_IDS_A_TASK = 500
#: Deliveries at once that are a bulk on any lane: a task each would cost a millisecond each.
_BULK = 100


class Publishable(Protocol):
    """A queued delivery."""

    @property
    def id(self) -> str: ...  # noqa: D102 - a field
    @property
    def lane(self) -> Lane: ...  # noqa: D102 - a field


@cache
def _app() -> "Celery":
    # Imported late: a producer's process pays for Celery only when it publishes.
    from worker.celery import app

    # Without this a producer waits 4 s and more for a broker that is away.
    app.conf.broker_transport_options["max_retries"] = 0
    return app


def waiting(lane: Lane) -> int | None:
    """Give how many tasks of a lane wait at the broker, `None` while it cannot be asked."""
    try:
        with _app().connection_for_write() as connection:
            try:
                with connection.channel() as channel:
                    return int(channel.queue_declare(lane.queue, passive=True).message_count)
            except connection.channel_errors:
                # There is no such queue yet, or no longer.
                return 0
    except (KombuError, RedisError, OSError) as error:
        _log.warning("broker_unreachable", error=type(error).__name__)
        return None


def publish(engine: Engine, deliveries: Sequence[Publishable]) -> int:
    """Publish deliveries: a task with one id each for replies, reminders and fires; bulk in bulk.

    Gives how many the broker took; never raises for a broker that is away.
    """
    by_lane: defaultdict[Lane, list[str]] = defaultdict(list)
    for delivery in deliveries:
        by_lane[delivery.lane].append(delivery.id)
    taken = 0
    for lane, ids in by_lane.items():
        size = _IDS_A_TASK if lane is Lane.BROADCAST or len(ids) >= _BULK else 1
        chunks = [ids[at : at + size] for at in range(0, len(ids), size)]
        done = _publish(lane, chunks)
        taken += sum(len(chunk) for chunk in chunks[:done])
        lost = [id_ for chunk in chunks[done:] for id_ in chunk]
        if lost:
            with engine.begin() as connection:
                mark_unpublished(connection, lost)
    reach("after_publish")
    return taken


def _publish(lane: Lane, chunks: Sequence[Sequence[str]]) -> int:
    """Publish until the broker fails; give how many chunks it took."""
    app = _app()
    try:
        with app.producer_or_acquire() as producer:
            for done, ids in enumerate(chunks):
                try:
                    app.send_task(
                        "mirrorpost.send", args=[ids], queue=lane.queue, producer=producer
                    )
                except (KombuError, RedisError, OSError) as error:
                    _log.warning("broker_unreachable", error=type(error).__name__)
                    return done
    except (KombuError, RedisError, OSError) as error:
        _log.warning("broker_unreachable", error=type(error).__name__)
        return 0
    return len(chunks)
