"""Runs that went wrong once, with what it was; each is a test for good."""

#: Fault, database, seed, deliveries.
REGRESSIONS: tuple[tuple[str, str, int, int], ...] = (
    # Both schedulers stood still after the clock had been set back.
    ("clock-stepped", "sqlite", 1, 80),
    # A worker asked to stop waited for a lock that its own interrupted intake kept.
    ("rolling-restart", "sqlite", 51, 500),
    # Three Matrix messages came once more: late requests of the run before.
    ("accept-then-hang", "postgresql", 20261124, 500),
)
