"""Mirror: what was sent, or changed, into the histories of those it was sent to.

Called inside the settling transaction: a mirror that fails is logged and marked on its row,
and never undoes what was settled.
"""

from collections.abc import Sequence
from typing import Protocol

import structlog
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from worker.actions import Action
from worker.failpoints import reach
from worker.outbox import Claimed, mark_mirror_failed
from worker.sessions.amend import Change, change_mirrors
from worker.sessions.append import Mirror, insert_mirrors
from worker.verdict import Settlement

_log = structlog.get_logger(__name__)


class MirrorRefusedError(Exception):
    """A mirror of the batch cannot be written; nothing of the transaction may be kept."""


def mirror_sent(
    connection: Connection, sent: Sequence[tuple[Claimed, Settlement]], *, singly: bool
) -> None:
    """Append the sent messages to their histories; change there what was edited or retracted.

    At first all at once, which is two round trips cheaper than behind a savepoint. When that
    raises, the caller rolls back and comes again with `singly`: then each stands behind a
    savepoint of its own, and what cannot be written is marked on its row.

    Raises:
        MirrorRefusedError: Not with `singly`.
    """
    known = [(c, s) for c, s in sent if s.place.unified_user is not None]
    rows = [_mirror(c, s) for c, s in known if c.action == Action.SEND]
    changes = [change_of(c) for c, _ in known if c.action != Action.SEND]
    if not known:
        return
    if not singly:
        try:
            insert_mirrors(connection, rows)
            failed = change_mirrors(connection, changes)
        except SQLAlchemyError as error:
            raise MirrorRefusedError from error
        reach("in_mirror")
    else:
        failed = {row.delivery_id or "" for row in rows if not _inserted(connection, row)}
        failed |= {change.id for change in changes if not _changed(connection, change)}
    if failed:
        mark_mirror_failed(connection, sorted(failed))


def _inserted(connection: Connection, row: Mirror) -> bool:
    try:
        with connection.begin_nested():
            insert_mirrors(connection, [row])
    except SQLAlchemyError as error:
        _log.warning("mirror_failed", delivery=row.delivery_id, error=type(error).__name__)
        return False
    return True


def _changed(connection: Connection, change: Change) -> bool:
    try:
        with connection.begin_nested():
            return not change_mirrors(connection, [change])
    except SQLAlchemyError as error:
        _log.warning("mirror_failed", delivery=change.id, error=type(error).__name__)
        return False


class _Amendment(Protocol):
    """What is known of a delivery that changes another one."""

    @property
    def id(self) -> str: ...
    @property
    def refers_to(self) -> str | None: ...
    @property
    def action(self) -> str: ...
    @property
    def text(self) -> str: ...


def change_of(amendment: _Amendment) -> Change:
    """Give what a delivery that edits or retracts has changed."""
    content = amendment.text if amendment.action == Action.EDIT else None
    return Change(amendment.id, amendment.refers_to or "", content)


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
