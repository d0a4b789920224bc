"""The short version of `python -m tests.chaos`: a small run under each kind of fault."""

from collections.abc import Iterator

import pytest

from tests.chaos.bench import carry_out
from tests.chaos.faults import FAULTS
from tests.chaos.regressions import REGRESSIONS
from tests.chaos.services import Services

_SEED = 1
_DELIVERIES = 80
#: Each fault on the database to which it does the most; what is not here runs in the long
#: version only.
_SHORT = (
    ("kill-worker", "postgresql"),
    ("kill-pool-child", "sqlite"),
    ("kill-scheduler", "sqlite"),
    ("kill-producer-after-commit", "postgresql"),
    ("kill-worker-after-claim", "sqlite"),
    ("kill-worker-request-written", "postgresql"),
    ("kill-worker-after-answer", "sqlite"),
    ("kill-worker-in-mirror", "postgresql"),
    ("kill-worker-after-settle", "sqlite"),
    ("kill-scheduler-in-fire", "postgresql"),
    ("kill-scheduler-in-feed", "sqlite"),
    ("kill-worker-in-broadcast", "postgresql"),
    ("rolling-restart", "postgresql"),
    ("worker-frozen", "sqlite"),
    ("redis-restarted-empty", "postgresql"),
    ("redis-frozen", "sqlite"),
    ("postgres-restarted", "postgresql"),
    ("postgres-connections-cut", "postgresql"),
    ("disk-full", "sqlite"),
    ("accept-then-cut", "postgresql"),
    ("accept-then-hang", "sqlite"),
    ("platform-500", "sqlite"),
    ("task-ten-times", "postgresql"),
    ("one-key-from-20-processes", "sqlite"),
)


@pytest.fixture(scope="module")
def services() -> Iterator[Services]:
    running = Services(postgres=True)
    try:
        running.start()
        yield running
    finally:
        running.close()


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("fault", "database", "seed", "deliveries"),
    [*((*each, _SEED, _DELIVERIES) for each in _SHORT), *REGRESSIONS],
)
def test_nothing_is_lost_doubled_or_out_of_order_under(
    services: Services, fault: str, database: str, seed: int, deliveries: int
) -> None:
    if (missing := FAULTS[fault].missing()) is not None:
        pytest.skip(f"needs {missing}")
    outcome = carry_out(services, fault, database, seed, deliveries=deliveries)
    assert not outcome.failed, (
        f"{outcome.verdict.wrong or 'it never became quiet'} {outcome.note}\n"
        f"again: {outcome.command}\nlogs: {outcome.folder}"
    )
