"""How long to wait before the next attempt."""

import random

#: Seconds before the second attempt, the third, and so on.
SCHEDULE_S = (5.0, 25.0, 120.0, 600.0, 1800.0, 7200.0)
#: The first attempt and one after each wait.
MAX_ATTEMPTS = len(SCHEDULE_S) + 1
#: Share by which a wait is shortened or lengthened, so that failures do not come back as one.
JITTER = 0.2


def delay_s(
    attempts_used: int, jitter: random.Random | None = None, *, young: bool = False
) -> float | None:
    """Give the seconds to wait after so many attempts, or `None` when they are used up.

    Args:
        young: It has not been tried for long enough to be given up: an outage that ate all
            its attempts may end yet.
    """
    if attempts_used >= MAX_ATTEMPTS and not young:
        return None
    source = jitter or random
    base = SCHEDULE_S[min(max(attempts_used, 1), len(SCHEDULE_S)) - 1]
    return base * source.uniform(1 - JITTER, 1 + JITTER)
