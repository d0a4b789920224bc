"""Carrying one mirror into one manager: on the loop of its turns, in this thread, in another.

`mirror` admits what is carried here. Nothing in this file is the caller's concern but for how
long it may be held up.
"""

import asyncio
import atexit
import contextvars
import inspect
import os
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol, cast
from weakref import WeakKeyDictionary

import structlog

from worker.sessions import turns
from worker.sessions.entries import Entry
from worker.sessions.turns import TurnLock
from worker.sessions.writers import Write, expect, hand_over, idle

#: Seconds for which a running loop is held up to learn the outcome: enough for a manager that
#: fails at once (0.3 ms with the thread's start) or keeps its histories in memory, and less than
#: a commit takes, whatever the disk does.
LOOP_WAIT_S: Final = 0.001
#: Seconds for which a thread waits for somebody's turn to end. The caller may itself be part of
#: that turn (a tool that the model calls), which then ends only after we have answered.
TURN_WAIT_S: Final = 1.0

_log = structlog.get_logger(__name__)


class SessionManagerLike(Protocol):
    """What a session manager must have for a mirror to be written into its history."""

    def _storage_key(self, user_id: str) -> str: ...

    def _load_history(self, user_id: str) -> list[Entry]: ...

    def _save_history(self, user_id: str, history: list[Entry]) -> object: ...


@dataclass(frozen=True, slots=True)
class Job:
    """One mirror on its way into one manager.

    `lock` is what the write itself has to hold, `home` the loop which that lock is used on,
    `context` the caller's context variables, by which a manager may choose a tenant.
    """

    manager: SessionManagerLike
    user_id: str
    entry: Entry
    lock: TurnLock | None
    home: asyncio.AbstractEventLoop | None
    context: contextvars.Context


@dataclass(frozen=True, slots=True)
class Begun:
    """A write that was begun, and for how many seconds its caller may wait for the outcome."""

    write: Write
    wait_s: float


class _AddsOnLoop(Protocol):
    def _add_mirror_entry_async(
        self, user_id: str, entry: Entry
    ) -> Coroutine[object, object, bool]: ...


#: What the loops of managers were asked to add and have not yet.
_adding: set[Future[bool]] = set()
_write_locks: WeakKeyDictionary[SessionManagerLike, AbstractContextManager[object]] = (
    WeakKeyDictionary()
)
_write_locks_lock = threading.Lock()
_common_write_lock = threading.RLock()


def begin(job: Job) -> Begun:
    """Begin a write, where it is right for this manager and this thread."""
    loop = _loop_that_adds(job.manager)
    if loop is not None:
        return _begin_on_loop(job, loop)
    return _begin_here(job) if job.home is None else _begin_behind(job)


def _loop_that_adds(manager: SessionManagerLike) -> asyncio.AbstractEventLoop | None:
    """Return the loop on which the manager adds mirrors between its turns, if it does."""
    if not inspect.iscoroutinefunction(getattr(manager, "_add_mirror_entry_async", None)):
        return None
    return turns.turn_loop(manager) or turns.running_loop()


def _begin_on_loop(job: Job, loop: asyncio.AbstractEventLoop) -> Begun:
    """Let the manager add the entry itself, under the lock of its turns."""
    write = Write(partial(_attempt, job, False))
    add = cast(_AddsOnLoop, job.manager)._add_mirror_entry_async
    entry = add(job.user_id, job.entry)
    try:
        adding = asyncio.run_coroutine_threadsafe(entry, loop)
    except RuntimeError:
        # The loop was closed since we looked.
        entry.close()
        raise
    busy = expect(job.manager, write)
    _adding.add(adding)
    adding.add_done_callback(_adding.discard)
    adding.add_done_callback(partial(_added, job.manager, write))
    if loop is job.home:
        return Begun(write, 0)
    return Begun(write, TURN_WAIT_S if job.home is None else _loop_wait(busy))


def _added(manager: SessionManagerLike, write: Write, adding: Future[bool]) -> None:
    # Cancelled when its loop ended: then there are no turns any more, and a thread may write.
    stored = not adding.cancelled() and adding.exception() is None and bool(adding.result())
    if write.settle(stored):
        hand_over(manager, write)


def _begin_here(job: Job) -> Begun:
    """Write in this thread, or leave it to another when somebody's turn takes too long."""
    if turns.take(job.lock, None, TURN_WAIT_S):
        write = Write(partial(_attempt, job, True))
        write.settle(write.attempt(False))
    else:
        write = Write(partial(_attempt, job, False))
        hand_over(job.lock, write)
    return Begun(write, 0)


def _begin_behind(job: Job) -> Begun:
    """Write in another thread, since this one has a loop to run."""
    if not isinstance(job.lock, asyncio.Lock):
        write = Write(partial(_attempt, job, False))
        owner = job.manager if job.lock is None else job.lock
        return Begun(write, _loop_wait(hand_over(owner, write)))
    # A free lock is taken here, so that the outcome can be known at once. Never past others
    # that wait for it, nor to wait in a queue while holding it.
    held = idle(job.manager) and idle(job.lock) and turns.take_free(job.lock)
    write = Write(partial(_attempt, job, held))
    hand_over(job.manager if held else job.lock, write)
    return Begun(write, LOOP_WAIT_S if held else 0)


def _loop_wait(busy: bool) -> float:
    return 0 if busy else LOOP_WAIT_S


def _attempt(job: Job, held: bool, again: bool) -> bool:
    """Write in this thread, which runs no loop; return whether it is stored now."""
    try:
        return job.context.run(_store, job, held and not again, again)
    except Exception as error:  # noqa: BLE001 - a foreign manager may raise anything
        _log.warning("mirror_failed", error=type(error).__name__, again=again)
        return False


def _store(job: Job, held: bool, again: bool) -> bool:
    if not held:
        turns.take(job.lock, job.home, None)
    try:
        add = getattr(job.manager, "_add_mirror_entry_sync", None)
        if callable(add):
            return bool(add(job.user_id, job.entry))
        with _write_lock(job.manager):
            history = list(job.manager._load_history(job.user_id))
            # A save that raised may have saved all the same.
            if again and job.entry in history:
                return True
            return job.manager._save_history(job.user_id, [*history, job.entry]) is not False
    finally:
        turns.give_back(job.lock, job.home)


def _write_lock(manager: SessionManagerLike) -> AbstractContextManager[object]:
    """Return the lock under which we load, append and save at this manager."""
    try:
        with _write_locks_lock:
            return _write_locks.setdefault(manager, threading.RLock())
    except TypeError:
        # Unhashable, or without weak references.
        return _common_write_lock


def _start_anew_after_fork() -> None:
    """Forget what threads of the parent held or were about to write."""
    global _write_locks_lock, _common_write_lock
    _write_locks_lock, _common_write_lock = threading.Lock(), threading.RLock()
    _write_locks.clear()
    _adding.clear()


def _add_what_no_loop_added() -> None:
    """Write, at the interpreter's exit, what waits for loops that were stopped for good."""
    for adding in list(_adding):
        adding.cancel()


atexit.register(_add_what_no_loop_added)
os.register_at_fork(after_in_child=_start_anew_after_fork)
