"""Waits grow by the schedule, spread by a fifth, and come to an end."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.backoff import JITTER, MAX_ATTEMPTS, SCHEDULE_S, delay_s


class Extreme(random.Random):
    """A source that always gives one end of the range."""

    def __init__(self, *, high: bool) -> None:
        super().__init__()
        self._high = high

    def uniform(self, a: float, b: float) -> float:
        return b if self._high else a


@pytest.mark.parametrize(
    ("used", "base"),
    [(1, 5), (2, 25), (3, 2 * 60), (4, 10 * 60), (5, 30 * 60), (6, 2 * 3600)],
)
def test_the_waits_are_those_of_the_schedule_and_a_fifth_around_them(used: int, base: int) -> None:
    assert delay_s(used, Extreme(high=False)) == pytest.approx(base * 0.8)
    assert delay_s(used, Extreme(high=True)) == pytest.approx(base * 1.2)


def test_there_is_a_first_attempt_and_one_after_each_wait() -> None:
    assert MAX_ATTEMPTS == 7
    assert delay_s(6) is not None
    assert delay_s(7) is None


def test_what_has_cost_nothing_yet_waits_as_after_the_first_attempt() -> None:
    assert delay_s(0, Extreme(high=True)) == delay_s(1, Extreme(high=True))


def test_failures_do_not_come_back_as_one() -> None:
    assert len({delay_s(1) for _ in range(100)}) > 50


@given(st.integers(0, 50), st.integers())
def test_every_wait_is_within_the_jitter_or_there_is_none(used: int, seed: int) -> None:
    wait = delay_s(used, random.Random(seed))
    if used >= MAX_ATTEMPTS:
        assert wait is None
    else:
        assert wait is not None
        assert abs(wait / SCHEDULE_S[max(used, 1) - 1] - 1) <= JITTER + 1e-9
