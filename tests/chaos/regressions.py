"""Runs that went wrong once, with what it was; each is a test for good."""

#: Fault, database, seed, deliveries.
REGRESSIONS: tuple[tuple[str, str, int, int], ...] = ()
