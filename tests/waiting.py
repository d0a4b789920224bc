"""Wait for what other processes do; tests never sleep for a guessed time."""

import time
from collections.abc import Callable
from typing import TypeVar

Value = TypeVar("Value")

#: Short enough that a test is not slower for it, long enough to leave the core to the others.
POLL_S = 0.015


def wait_until(
    condition: Callable[[], Value],
    timeout_s: float = 10.0,
    what: str = "",
    *,
    poll_s: float = POLL_S,
) -> Value:
    """Give the first truthy answer of `condition`, asked for every `poll_s` seconds.

    Raises:
        AssertionError: After `timeout_s` seconds, with `what` was waited for.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() >= deadline:
            name = what or getattr(condition, "__name__", repr(condition))
            raise AssertionError(f"waited {timeout_s:g} s in vain for: {name}")
        time.sleep(poll_s)
