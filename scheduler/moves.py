"""Moves: where a chat lives on under another id, its links and schedules follow it.

One pass; ticked by the clock. Deliveries find the new id by themselves, from the note of the
move; this keeps what people see and edit true. Two at once do no harm: each step is the same
whoever does it, and a schedule is locked while it is rewritten.
"""

import orjson
import structlog
from sqlalchemy import Connection, Engine, Row, text

from resolvers import IdentityResolverProtocol, ResolverError
from resolvers.protocol import unlinked
from scheduler.documents import loads
from worker.database import reading
from worker.errors import Refused
from worker.targets import Target, parse_target

_log = structlog.get_logger(__name__)

#: Moves of one pass.
_BATCH = 100

#: Index: ix_dead_target_moved.
_MOVED = text(
    "SELECT platform, account, chat_id, moved_to FROM dead_target "
    "WHERE moved_to IS NOT NULL AND NOT followed LIMIT :limit"
)
#: Read in full, once for each move, which a group makes once in its life. A broken row is left
#: alone: an edit would call it mended.
_SCHEDULES = (
    "SELECT id, CAST(message AS TEXT) AS message FROM schedule WHERE state <> 'broken' "
    "AND CAST(message AS TEXT) LIKE :holds ORDER BY id"
)
_FOLLOWED = text(
    "UPDATE dead_target SET followed = true WHERE platform = :platform AND account = :account "
    "AND chat_id = :chat_id AND thread_id = '' AND moved_to = :moved_to"
)


def follow_moves(engine: Engine, resolver: IdentityResolverProtocol) -> int:
    """Let links and schedules follow chats to their new ids; give how many chats had moved."""
    with reading(engine) as connection:
        moves = connection.execute(_MOVED, {"limit": _BATCH}).all()
    followed = 0
    for move in moves:
        try:
            _link(resolver, move)
        except ResolverError as error:
            _log.warning("move_not_followed", platform=move.platform, error=type(error).__name__)
            continue
        with engine.begin() as connection:
            schedules = _rewrite(connection, move)
            connection.execute(_FOLLOWED, dict(move._mapping))
        followed += 1
        _log.info("move_followed", platform=move.platform, schedules=schedules)
    return followed


def _link(resolver: IdentityResolverProtocol, move: Row[tuple[object, ...]]) -> None:
    """Make the new id whoever's the old one is, so that one history goes on.

    The old link stays, for what still names the old id; a link that the new id has already
    is somebody's own.
    """
    if resolver.resolve(move.platform, move.moved_to) == unlinked(move.platform, move.moved_to):
        user = resolver.resolve(move.platform, move.chat_id)
        resolver.link(move.platform, move.moved_to, user)


def _rewrite(connection: Connection, move: Row[tuple[object, ...]]) -> int:
    """Let schedules name the new id, with their account and thread; give how many did not."""
    lock = "FOR UPDATE" if connection.dialect.name == "postgresql" else ""
    json = "CAST(:message AS jsonb)" if lock else ":message"
    found = connection.execute(text(f"{_SCHEDULES} {lock}"), {"holds": f"%{move.chat_id}%"}).all()
    rewritten = 0
    for row in found:
        message = _moved(row.message, move)
        if message is not None:
            connection.execute(
                text(f"UPDATE schedule SET message = {json} WHERE id = :id"),
                {"id": row.id, "message": orjson.dumps(message).decode()},
            )
            rewritten += 1
    return rewritten


def _moved(column: str, move: Row[tuple[object, ...]]) -> dict[str, object] | None:
    """Give the message with the new id, `None` where it is for another chat."""
    try:
        message = loads("message", column)
        if not isinstance(message, dict):
            return None
        target = parse_target(message["to"])
    except (Refused, KeyError, TypeError):
        # Not a message: the clock parks it.
        return None
    moved_from = (move.platform, move.account, move.chat_id)
    if (target.platform, target.account, target.chat_id) != moved_from:
        return None
    to = Target(target.platform, move.moved_to, target.account, target.thread)
    return {**message, "to": str(to)}
