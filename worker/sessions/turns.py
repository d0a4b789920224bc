"""Holding somebody's turn: the locks that callers and foreign managers keep turns apart with.

A turn loads a history, talks to a model and saves the history; what is written in between by
anybody else is lost. Used by `mirror` from threads only, never on a running loop, but for
`take_free`.
"""

import asyncio
import threading
import time
from concurrent.futures import CancelledError
from contextlib import AbstractContextManager
from typing import Final

#: What a caller may give as the lock of a turn.
TurnLock = asyncio.Lock | AbstractContextManager[object]

#: Seconds between looks at an `asyncio.Lock` of which nobody can say whose loop it is on.
_POLL_S: Final = 0.01
#: Seconds between looks whether the loop that is waited for still runs.
_LOOP_CHECK_S: Final = 0.5

_THREAD_LOCKS = (type(threading.Lock()), type(threading.RLock()))


def is_lock(lock: object) -> bool:
    """Tell whether something can be held as a turn's lock."""
    return lock is None or isinstance(lock, asyncio.Lock | AbstractContextManager)


def take_free(lock: asyncio.Lock) -> bool:
    """Take an `asyncio.Lock` if that needs no waiting; return whether it did."""
    if lock.locked():
        return False
    step = lock.acquire()
    try:
        step.send(None)
    except StopIteration:
        return True
    step.close()
    return False


def take(
    lock: TurnLock | None, home: asyncio.AbstractEventLoop | None, wait_s: float | None
) -> bool:
    """Take the lock from a thread; return False when it was not free within `wait_s` seconds.

    `home` is the loop that an `asyncio.Lock` is used on, where the caller knows it. When that
    loop has ended, so has the turn, and there is nothing left to be kept apart from.
    """
    if lock is None:
        return True
    if isinstance(lock, asyncio.Lock):
        return _take_asyncio(lock, home, wait_s)
    if isinstance(lock, _THREAD_LOCKS):
        return lock.acquire(timeout=-1 if wait_s is None else wait_s)
    lock.__enter__()
    return True


def give_back(lock: TurnLock | None, home: asyncio.AbstractEventLoop | None) -> None:
    """Release what `take` or `take_free` took, in a thread."""
    if isinstance(lock, asyncio.Lock):
        loop = _loop_of(lock) or home
        try:
            if loop is not None and loop.is_running():
                # Only there does a release wake whoever waits.
                loop.call_soon_threadsafe(_release, lock)
                return
        except RuntimeError:
            pass  # The loop was closed in between, and with it whoever waited.
        _release(lock)
    elif lock is not None:
        lock.__exit__(None, None, None)


def turn_loop(manager: object) -> asyncio.AbstractEventLoop | None:
    """Return the loop on which a PraisonAI-like manager runs its turns, where it shows one.

    Its map of locks keeps a weak reference to every loop that asked for a lock. When the
    calling thread's own loop is among them it is that one.
    """
    references = getattr(getattr(manager, "_locks", None), "_loop_refs", None)
    if not isinstance(references, dict):
        return None
    loops = [loop for reference in list(references.values()) if (loop := reference()) is not None]
    running = [loop for loop in loops if loop.is_running()]
    here = running_loop()
    return here if here in running else next(iter(running), None)


def running_loop() -> asyncio.AbstractEventLoop | None:
    """Return the loop that runs in this thread, if one does."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _take_asyncio(
    lock: asyncio.Lock, home: asyncio.AbstractEventLoop | None, wait_s: float | None
) -> bool:
    deadline = None if wait_s is None else time.monotonic() + wait_s
    while True:
        left = None if deadline is None else max(deadline - time.monotonic(), 0)
        loop = _loop_of(lock) or home
        if loop is not None:
            return _take_there(lock, loop, left)
        if take_free(lock):
            return True
        if left == 0:
            return False
        time.sleep(_POLL_S)


def _take_there(lock: asyncio.Lock, loop: asyncio.AbstractEventLoop, wait_s: float | None) -> bool:
    coroutine = _acquire(lock, wait_s)
    try:
        future = asyncio.run_coroutine_threadsafe(coroutine, loop)
    except RuntimeError:
        coroutine.close()
        return True
    while True:
        try:
            return future.result(_LOOP_CHECK_S)
        except CancelledError:
            return True
        except TimeoutError:
            if not loop.is_running() and future.cancel():
                return True


async def _acquire(lock: asyncio.Lock, wait_s: float | None) -> bool:
    # The limit is kept on the loop's side: cancelled from here, it could be taken all the same.
    try:
        async with asyncio.timeout(wait_s):
            return await lock.acquire()
    except TimeoutError:
        return False


def _loop_of(lock: asyncio.Lock) -> asyncio.AbstractEventLoop | None:
    # asyncio notes the loop on the lock itself when somebody waits for it for the first time.
    loop = getattr(lock, "_loop", None)
    return loop if isinstance(loop, asyncio.AbstractEventLoop) else None


def _release(lock: asyncio.Lock) -> None:
    # Free already where the loop ended before the lock could be taken.
    if lock.locked():
        lock.release()
