"""Mirror repair: what was sent and is not in the history yet is written there from its row.

One pass; ticked by the clock. The mirror gets the time at which it was sent, and the
delivery's id keeps it from being written twice.
"""

from collections.abc import Sequence
from typing import Any

import structlog
from sqlalchemy import JSON, Engine, Row, text
from sqlalchemy.exc import SQLAlchemyError

from resolvers import IdentityResolverProtocol, ResolverError
from worker.database import reading
from worker.outbox import mark_mirrored
from worker.sessions.append import Mirror, insert_mirrors

_log = structlog.get_logger(__name__)

#: Rows of one query, and queries of one pass: rows that cannot be written are passed by.
_BATCH = 100
_BATCHES = 50

_UNMIRRORED = text(
    "SELECT id, platform, chat_id, unified_user, text, metadata, source, receipt, ended_ms "
    "FROM delivery WHERE mirror = 'failed' AND id > :after ORDER BY id LIMIT :limit"
).columns(metadata=JSON(), receipt=JSON())


def repair_mirrors(engine: Engine, resolver: IdentityResolverProtocol) -> int:
    """Write missing mirrors; give how many were written."""
    written, after = 0, ""
    for _ in range(_BATCHES):
        with reading(engine) as connection:
            rows = connection.execute(_UNMIRRORED, {"limit": _BATCH, "after": after}).all()
        if not rows:
            break
        written, after = written + _repair(engine, resolver, rows), rows[-1].id
    if written:
        _log.info("mirrors_repaired", deliveries=written)
    return written


def _repair(engine: Engine, resolver: IdentityResolverProtocol, rows: Sequence[Row[Any]]) -> int:
    written = 0
    for row in rows:
        try:
            user = row.unified_user or resolver.resolve(row.platform, row.chat_id)
            with engine.begin() as connection:
                insert_mirrors(
                    connection,
                    [
                        Mirror(
                            session_key=user,
                            content=row.text,
                            timestamp_ms=row.ended_ms,
                            platform=row.platform,
                            chat=row.chat_id,
                            source=row.source or "delivery",
                            delivery_id=row.id,
                            platform_message_ids=row.receipt or (),
                            metadata=row.metadata or {},
                        )
                    ],
                )
                mark_mirrored(connection, row.id, user)
        except (SQLAlchemyError, ResolverError) as error:
            _log.warning("mirror_repair_failed", delivery=row.id, error=type(error).__name__)
            continue
        written += 1
    return written
