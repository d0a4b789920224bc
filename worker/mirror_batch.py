"""Mirror: what was sent, into the histories of those it was sent to.

Called inside the settling transaction: a mirror that fails is logged and marked on its row,
and never undoes what was settled.
"""

from collections.abc import Sequence

import structlog
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from worker.failpoints import reach
from worker.outbox import Claimed, mark_mirror_failed
from worker.sessions.append import Mirror, insert_mirrors
from worker.verdict import Settlement

_log = structlog.get_logger(__name__)


class MirrorRefusedError(Exception):
    """A mirror of the batch cannot be written; nothing of the transaction may be kept."""


def mirror_sent(
    connection: Connection, sent: Sequence[tuple[Claimed, Settlement]], *, singly: bool
) -> None:
    """Append the sent messages to their histories.

    At first all at once, which is two round trips cheaper than behind a savepoint. When that
    raises, the caller rolls back and comes again with `singly`: then each stands behind a
    savepoint of its own, and what cannot be written is marked on its row.

    Raises:
        MirrorRefusedError: Not with `singly`.
    """
    rows = [_mirror(c, s) for c, s in sent if s.place.unified_user is not None]
    if not rows:
        return
    if not singly:
        try:
            insert_mirrors(connection, rows)
        except SQLAlchemyError as error:
            raise MirrorRefusedError from error
        reach("in_mirror")
        return
    failed = [row.delivery_id for row in rows if not _inserted(connection, row)]
    if failed:
        mark_mirror_failed(connection, [id_ for id_ in failed if id_ is not None])


def _inserted(connection: Connection, row: Mirror) -> bool:
    try:
        with connection.begin_nested():
            insert_mirrors(connection, [row])
    except SQLAlchemyError as error:
        _log.warning("mirror_failed", delivery=row.delivery_id, error=type(error).__name__)
        return False
    return True


def _mirror(claim: Claimed, settlement: Settlement) -> Mirror:
    place = settlement.place
    return Mirror(
        session_key=place.unified_user or "",
        content=claim.text,
        timestamp_ms=settlement.started_ms + settlement.took_ms,
        platform=place.platform,
        chat=place.chat_id,
        source=claim.source or "delivery",
        delivery_id=claim.id,
        platform_message_ids=settlement.receipt or (),
        metadata=claim.metadata or {},
    )
