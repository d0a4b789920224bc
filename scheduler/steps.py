"""Steps: whether the database's clock was set, which makes leases seem to have run out.

Asked by the relay. On SQLite that clock is the machine's. A worker that is alive renews its
leases by the new time within a lease; until then nobody can tell them from a dead one's.
"""

import time
from collections.abc import Callable

import structlog

_log = structlog.get_logger(__name__)

#: Seconds between two looks by which the clocks may differ before it counts as a step.
_STEP_S = 1.0


class Steps:
    """Hold the database's clock against the monotonic one of this process."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._ahead_s: float | None = None
        self._steady_from = float("-inf")

    def is_steady(self, now_ms: int, for_s: float) -> bool:
        """Tell whether the database's clock has not been set for so many seconds.

        Args:
            now_ms: The database's time of this moment.
        """
        now = self._clock()
        ahead_s = now_ms / 1000 - now
        if self._ahead_s is not None and abs(ahead_s - self._ahead_s) > _STEP_S:
            _log.warning("clock_was_set", by_s=round(ahead_s - self._ahead_s, 1))
            self._steady_from = now + for_s
        self._ahead_s = ahead_s
        return now >= self._steady_from
