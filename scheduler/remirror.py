"""Remirror: what was sent and is in no history any more is written there from its row again.

For a history that was lost. Deliveries keep their texts as long as the retention keeps them.
"""

from collections.abc import Iterator
from datetime import datetime

from sqlalchemy import Engine, text

from resolvers import IdentityResolverProtocol
from scheduler.forget import FORGOTTEN
from scheduler.mirror_repair import repair_all
from scheduler.when import to_ms
from worker.database import reading
from worker.outbox import mark_mirror_failed

_BATCH = 500

#: By the primary key from its beginning: what was sent lately may have been asked for long ago.
_MISSING = text(
    "SELECT id FROM delivery WHERE id > :after AND state = 'sent' AND ended_ms >= :since "
    "AND text <> :forgotten "
    # What was changed is written into the mirror of what it changed.
    "AND NOT EXISTS (SELECT 1 FROM message m "
    "WHERE m.delivery_id = COALESCE(delivery.refers_to, delivery.id)) "
    "ORDER BY id LIMIT :limit"
)


def mark(engine: Engine, *, since: datetime, dry_run: bool = False) -> Iterator[int]:
    """Mark what was sent since then and has no mirror; give how many, in batches.

    Two at once do no harm: a delivery is mirrored once.
    """
    values = {"after": "", "since": to_ms(since), "forgotten": FORGOTTEN, "limit": _BATCH}
    while True:
        with reading(engine) as connection:
            ids = connection.execute(_MISSING, values).scalars().all()
        if ids and not dry_run:
            with engine.begin() as connection:
                mark_mirror_failed(connection, ids)
        if not ids:
            return
        values["after"] = ids[-1]
        yield len(ids)


def write(engine: Engine, resolver: IdentityResolverProtocol) -> Iterator[int]:
    """Write what is marked, at its right place in time; give how many, in batches."""
    yield from repair_all(engine, resolver)
