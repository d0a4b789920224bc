"""Writes that must not be waited for: one ordered background writer for each owner.

`mirror` hands over what cannot be written where it was asked for, `history` waits for what is
on its way before it reads. An owner is a manager, or the lock under which its writes are made:
one slow manager, or one long turn, holds up nobody else.
"""

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Final
from weakref import WeakKeyDictionary

import structlog

#: Seconds before each further try of an accepted write; after the last one it is lost, and said
#: so. Few and short, because the interpreter's exit waits for them.
RETRY_DELAYS_S: Final = (0.1, 0.5, 2.0)

#: Seconds for which a reader waits for the writes that were accepted before it came.
SETTLE_LIMIT_S: Final = 5.0

_log = structlog.get_logger(__name__)


class Write:
    """One write and whether its caller still waits for the outcome.

    As long as somebody does, a failure is final and told. Once it is accepted, a failure is
    tried again.
    """

    def __init__(self, attempt: Callable[[bool], bool]) -> None:
        """Take the function that writes; it is told whether it was tried before, and never raises.

        What it returns is whether the message is stored now.
        """
        self.attempt = attempt
        self.done: Future[bool] = Future()
        self._accepted = False
        self._lock = threading.Lock()

    def settle(self, stored: bool) -> bool:
        """Take the outcome of a try; return whether another one is owed."""
        with self._lock:
            if not stored and self._accepted:
                return True
            self.done.set_result(stored)
            return False

    def outcome(self, wait_s: float) -> bool:
        """Return whether it is stored; when nobody knows by then, accept it and return True."""
        try:
            return self.done.result(wait_s)
        except TimeoutError:
            with self._lock:
                if self.done.done():
                    return self.done.result()
                self._accepted = True
                return True


class _Writer:
    """One thread, and the writes that it has not finished."""

    def __init__(self) -> None:
        self.pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="mirror")
        self.pending: set[Future[bool]] = set()


class _Inside(threading.local):
    """Whether this thread is a writer's own."""

    active = False


_inside = _Inside()
_writers: WeakKeyDictionary[object, _Writer] = WeakKeyDictionary()
_writers_lock = threading.Lock()
# For owners that cannot be referred to weakly.
_common = _Writer()


def expect(owner: object, write: Write) -> bool:
    """Count a write among those of its owner; return whether there were others."""
    writer = _writer_of(owner)
    busy = bool(writer.pending - {write.done})
    writer.pending.add(write.done)
    write.done.add_done_callback(writer.pending.discard)
    return busy


def hand_over(owner: object, write: Write) -> bool:
    """Queue a write behind the owner's others; return whether there were any.

    At the interpreter's exit, when no thread takes work any more, it is made at once.
    """
    busy = expect(owner, write)
    try:
        _writer_of(owner).pool.submit(_run, write)
    except RuntimeError:
        _run(write)
    return busy


def idle(owner: object) -> bool:
    """Tell whether nothing of this owner's is on its way."""
    return not _writer_of(owner).pending


def settle_writes(owner: object) -> None:
    """Wait until what was handed over for this owner is written or lost, within a limit."""
    with _writers_lock:
        writer = _writers.get(owner)
    if writer is not None and writer.pending and not _inside.active:
        wait(list(writer.pending), timeout=SETTLE_LIMIT_S)


def flush_mirrors(timeout_s: float) -> bool:
    """Wait until every accepted mirror is written or lost; return whether that was in time.

    Needed by nobody who ends normally: the interpreter's exit waits for them too.
    """
    with _writers_lock:
        writers = [_common, *_writers.values()]
    pending = [done for writer in writers for done in list(writer.pending)]
    return not wait(pending, timeout=timeout_s).not_done


def _writer_of(owner: object) -> _Writer:
    try:
        with _writers_lock:
            writer = _writers.get(owner)
            if writer is None:
                writer = _writers[owner] = _Writer()
            return writer
    except TypeError:
        return _common


def _run(write: Write) -> None:
    _inside.active = True
    try:
        if not write.settle(write.attempt(False)):
            return
        for delay_s in RETRY_DELAYS_S:
            time.sleep(delay_s)
            if not write.settle(write.attempt(True)):
                return
    finally:
        _inside.active = False
    _log.error("mirror_lost", tries=1 + len(RETRY_DELAYS_S))
    write.done.set_result(False)


def _forget_after_fork() -> None:
    """Start anew in a forked child: threads do not come along."""
    global _writers, _writers_lock, _common
    _writers, _writers_lock, _common = WeakKeyDictionary(), threading.Lock(), _Writer()


os.register_at_fork(after_in_child=_forget_after_fork)
