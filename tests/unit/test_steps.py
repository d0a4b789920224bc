"""A clock that was set is noticed, and what runs slow or waits long is not taken for it."""

import pytest

from scheduler.steps import Steps


@pytest.mark.parametrize("step_s", [7200.0, -7200.0, 2.0])
def test_after_a_step_leases_are_not_trusted_for_as_long_as_one(step_s: float) -> None:
    now = 100.0
    steps = Steps(lambda: now)
    assert steps.is_steady(1_000_000, 30.0)
    now += 1
    assert not steps.is_steady(1_001_000 + int(step_s * 1000), 30.0)
    now += 29
    assert not steps.is_steady(1_030_000 + int(step_s * 1000), 30.0)
    now += 2
    assert steps.is_steady(1_032_000 + int(step_s * 1000), 30.0)


def test_time_that_passes_is_no_step_also_when_the_clock_is_slewed() -> None:
    now, database_ms = 100.0, 1_000_000.0
    steps = Steps(lambda: now)
    for _ in range(1000):
        assert steps.is_steady(int(database_ms), 30.0)
        now += 60
        database_ms += 60_000 * 1.01
