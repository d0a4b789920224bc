"""Mirror repair: what was sent and is not in the history yet is written there from its row.

One pass; ticked by the clock. The mirror gets the time at which it was sent, and the
delivery's id keeps it from being written twice.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import structlog
from sqlalchemy import JSON, Connection, Engine, Row, text
from sqlalchemy.exc import SQLAlchemyError

from resolvers import IdentityResolverProtocol
from scheduler.forget import FORGOTTEN
from worker.actions import Action
from worker.database import reading
from worker.mirror_batch import change_of
from worker.outbox import mark_mirrored
from worker.sessions.amend import change_mirrors
from worker.sessions.append import Mirror, insert_mirrors
from worker.targets import parse_target

_log = structlog.get_logger(__name__)

#: Rows of one transaction, and transactions of one pass.
_BATCH = 100
_BATCHES = 50
#: Ids in a line of the log.
_SHOWN = 10

_UNMIRRORED = text(
    "SELECT id, target, platform, chat_id, unified_user, text, metadata, source, receipt, "
    "ended_ms, action, refers_to FROM delivery WHERE mirror = 'failed' AND id > :after "
    "ORDER BY id LIMIT :limit"
).columns(metadata=JSON(), receipt=JSON())

_UNWANTED = text("UPDATE delivery SET mirror = NULL WHERE id = :id AND text = :text")

#: A row and whose history it belongs to.
_Placed = tuple[Row[Any], str]


class MirrorRepair:
    """The pass; what cannot be written is passed by, and tried again when it comes round."""

    def __init__(self, engine: Engine, resolver: IdentityResolverProtocol) -> None:
        self._engine = engine
        self._resolver = resolver
        self._after = ""

    def run(self) -> int:
        """Go on where the last pass ended; give how many mirrors were written."""
        written = 0
        for _ in range(_BATCHES):
            rows = _next(self._engine, self._after)
            self._after = rows[-1].id if rows else ""
            if not rows:
                break
            written += _write(self._engine, self._resolver, rows)
        if written:
            _log.info("mirrors_repaired", deliveries=written)
        return written


def repair_all(engine: Engine, resolver: IdentityResolverProtocol) -> Iterator[int]:
    """Write all missing mirrors that can be written; give how many, in batches."""
    after = ""
    while rows := _next(engine, after):
        after = rows[-1].id
        yield _write(engine, resolver, rows)


def _next(engine: Engine, after: str) -> Sequence[Row[Any]]:
    with reading(engine) as connection:
        return connection.execute(_UNMIRRORED, {"limit": _BATCH, "after": after}).all()


def _write(engine: Engine, resolver: IdentityResolverProtocol, rows: Sequence[Row[Any]]) -> int:
    """Write a batch at once, or one by one when the database refuses one of them."""
    placed = list(_place(resolver, rows))
    try:
        with engine.begin() as connection:
            return _insert(connection, placed)
    except SQLAlchemyError as error:
        if len(placed) == 1:
            _log.warning(
                "mirror_repair_failed", deliveries=[placed[0][0].id], error=type(error).__name__
            )
            return 0
    return sum(_write(engine, resolver, [row]) for row, _ in placed)


def _place(resolver: IdentityResolverProtocol, rows: Sequence[Row[Any]]) -> Iterator[_Placed]:
    failed: dict[str, str] = {}
    for row in rows:
        try:
            user = row.unified_user or _person_of(row, resolver)
        except Exception as error:  # noqa: BLE001 - a resolver may be anybody's; it keeps no other mirror waiting
            failed[row.id] = type(error).__name__
            continue
        yield row, user
    if failed:
        _log.warning(
            "mirror_repair_failed",
            deliveries=list(failed)[:_SHOWN],
            count=len(failed),
            error=", ".join(sorted(set(failed.values()))),
        )


def _person_of(row: Row[Any], resolver: IdentityResolverProtocol) -> str:
    """Find whose it is by what was asked for: a chat may have moved, or been opened for them."""
    target = parse_target(row.target)
    return target.chat_id if target.is_person else resolver.resolve(target.platform, target.chat_id)


def _insert(connection: Connection, placed: Sequence[_Placed]) -> int:
    """Write mirrors, then what was changed in them; give how many rows are done with."""
    kept = [(row, user) for row, user in placed if row.text != FORGOTTEN]
    sends = [(row, user) for row, user in kept if row.action == Action.SEND]
    insert_mirrors(connection, [_mirror(row, user) for row, user in sends])
    for row, user in sends:
        mark_mirrored(connection, row.id, user)
    others = [(row, user) for row, user in kept if row.action != Action.SEND]
    waiting = change_mirrors(connection, [change_of(row) for row, _ in others])
    for row, user in others:
        if row.id not in waiting:
            mark_mirrored(connection, row.id, user)
    if len(kept) < len(placed):
        # Sent while its person was being forgotten.
        connection.execute(_UNWANTED, [{"id": row.id, "text": FORGOTTEN} for row, _ in placed])
    return len(placed) - len(waiting)


def _mirror(row: Row[Any], user: str) -> Mirror:
    return Mirror(
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
