"""Putting a sent message into a session history, whoever keeps that history.

For managers of this shape, ours and other people's, called from wherever their callers are. The
delivery pipeline writes its own mirrors with `append.insert_mirrors`.
"""

import asyncio
import contextvars
from collections.abc import Mapping
from datetime import UTC, datetime

import structlog

from worker.errors import Refused
from worker.sessions import keys, turns
from worker.sessions.carry import Begun, Job, SessionManagerLike, begin
from worker.sessions.entries import Entry, plain_json, storable
from worker.sessions.history import SessionManager
from worker.sessions.turns import TurnLock

_log = structlog.get_logger(__name__)


def mirror_to_session(  # noqa: PLR0917 - the shape that callers know
    session_mgr: SessionManagerLike,
    user_id: str,
    message_text: str,
    source_label: str = "delivery",
    metadata: Mapping[str, object] | None = None,
    lock: TurnLock | None = None,
) -> bool:
    """Append a sent message to a person's history, marked as a mirror; never raise.

    True means that it is stored, or accepted: it will be stored, in order, without the caller.
    False means that nothing was written and nothing will be; the reason is in the log.

    From a thread without a loop the answer is about what is stored, unless somebody's turn holds
    the history for longer than `TURN_WAIT_S`: then the mirror is accepted and written after it.
    On a running loop the answer is waited for `LOOP_WAIT_S` at most, and not at all behind
    mirrors that are still on their way. An accepted mirror that fails is tried three times more,
    and lost with the log line `mirror_lost`. The interpreter's exit waits for accepted ones;
    `flush_mirrors` does it earlier, `mirror_to_session_async` awaits the outcome of one.

    Args:
        session_mgr: Ours, or anything with `_storage_key`, `_load_history` and `_save_history`.
            Its `_add_mirror_entry_async` (on the loop of its turns) or `_add_mirror_entry_sync`
            is used where it has one.
        user_id: The unified id. A raw id of the manager's own platform is resolved. A manager of
            somebody else's with a resolver is given the person's account on its platform, the
            only kind of id it knows; for a person without one the mirror is refused.
        message_text: Not empty.
        source_label: What made the message (`cron`, `cross_platform`, ...).
        metadata: A JSON object, merged into the entry; reserved keys of it are ignored.
        lock: What turns of this history hold: an `asyncio.Lock`, a `threading` lock, or any
            context manager. Without one, the manager's own lock of that user if it has one
            (`_get_lock`), else one of ours. Not used where the manager adds mirror entries
            itself, since that is under locks of its own.
    """
    begun = _start(
        session_mgr, user_id, message_text, source=source_label, metadata=metadata, lock=lock
    )
    return False if begun is None else begun.write.outcome(begun.wait_s)


async def mirror_to_session_async(  # noqa: PLR0917 - the shape that callers know
    session_mgr: SessionManagerLike,
    user_id: str,
    message_text: str,
    source_label: str = "delivery",
    metadata: Mapping[str, object] | None = None,
    lock: TurnLock | None = None,
) -> bool:
    """Do what `mirror_to_session` does and return whether it is stored, however long that takes.

    Do not await it while holding the turn's lock: it waits for the end of the turn.
    """
    begun = _start(
        session_mgr, user_id, message_text, source=source_label, metadata=metadata, lock=lock
    )
    if begun is None:
        return False
    return await asyncio.shield(asyncio.wrap_future(begun.write.done))


def _start(
    manager: SessionManagerLike,
    user_id: str,
    text: str,
    *,
    source: str,
    metadata: Mapping[str, object] | None,
    lock: TurnLock | None,
) -> Begun | None:
    """Begin a write; `None` when it is refused."""
    try:
        return begin(_admit(manager, user_id, _entry(text, source, metadata), lock))
    except Exception as error:  # noqa: BLE001 - a foreign manager may raise anything
        reason = str(error) if isinstance(error, Refused) else type(error).__name__
        _log.warning("mirror_refused", reason=reason)
        return None


def _entry(text: str, source: str, metadata: Mapping[str, object] | None) -> Entry:
    return plain_json(metadata) | {
        "role": "assistant",
        "content": storable("the text", text),
        "timestamp": datetime.now(UTC).isoformat(),
        "mirror": True,
        "mirror_source": storable("the source label", source),
    }


def _admit(manager: SessionManagerLike, user_id: str, entry: Entry, lock: TurnLock | None) -> Job:
    storable("the user id", user_id)
    if not turns.is_lock(lock):
        raise Refused(f"the lock is {type(lock).__name__}: give a lock of asyncio or threading")
    if not isinstance(manager, SessionManager):
        user_id = _address(manager, user_id)
        manager._storage_key(user_id)
    if callable(getattr(manager, "_add_mirror_entry_sync", None)):
        lock = None
    elif lock is None:
        lock = _lock_of(manager, user_id)
    home = turns.running_loop()
    return Job(manager, user_id, entry, lock, home, contextvars.copy_context())


def _address(manager: SessionManagerLike, user_id: str) -> str:
    """Return the id by which a manager that takes accounts finds the person's history."""
    platform = getattr(manager, "_platform", "")
    resolver = getattr(manager, "_identity_resolver", None)
    if not isinstance(platform, str):
        return user_id
    account = keys.account_on(resolver, platform, user_id)
    if account is None:
        raise Refused(f"{user_id} has no account on {platform}: use a manager of another platform")
    return account


def _lock_of(manager: SessionManagerLike, user_id: str) -> TurnLock | None:
    """Return the lock that a manager keeps for a user's turns, where it shows one."""
    get_lock = getattr(manager, "_get_lock", None)
    if not callable(get_lock):
        return None
    try:
        lock: TurnLock | None = get_lock(user_id)
    except RuntimeError:
        # Locks of asyncio are made on the loop of the turns, and this thread has none.
        return None
    return lock if turns.is_lock(lock) else None
