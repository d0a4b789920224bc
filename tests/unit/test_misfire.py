from datetime import UTC, datetime, timedelta

import pytest

from scheduler.documents import MisfirePolicy, read_policy
from scheduler.misfire import CATCH_UP, Occurrence, judge
from scheduler.occurrences import At, Every, between, cron
from scheduler.tables import FireOutcome, Misfire
from worker.errors import Refused

DUE = datetime(2026, 1, 1, 9, tzinfo=UTC)
DAILY = cron("0 9 * * *")
FIRED, SKIPPED = FireOutcome.FIRED, FireOutcome.SKIPPED
DAY = timedelta(days=1)


@pytest.mark.parametrize("misfire", list(Misfire))
def test_what_is_due_now_fires_once_whatever_the_policy(misfire: Misfire) -> None:
    verdict = judge(DAILY, MisfirePolicy(misfire), due=DUE, now=DUE + timedelta(seconds=1))
    assert verdict.occurrences == (Occurrence(DUE, FIRED),)
    assert verdict.next == DUE + DAY


def test_after_three_days_the_latest_goes_out_and_says_what_was_left_out() -> None:
    verdict = judge(DAILY, MisfirePolicy(), due=DUE, now=DUE + 2 * DAY + timedelta(hours=5))
    assert verdict.occurrences == (Occurrence(DUE + 2 * DAY, FIRED, 2, DUE),)
    assert verdict.next == DUE + 3 * DAY


def test_after_three_days_all_go_out_in_order() -> None:
    now = DUE + 2 * DAY + timedelta(hours=5)
    verdict = judge(DAILY, MisfirePolicy(Misfire.ALL), due=DUE, now=now)
    assert verdict.occurrences == tuple(Occurrence(DUE + n * DAY, FIRED) for n in range(3))
    assert verdict.next == DUE + 3 * DAY


def test_after_three_days_none_goes_out_and_that_is_written_down() -> None:
    now = DUE + 2 * DAY + timedelta(hours=5)
    verdict = judge(DAILY, MisfirePolicy(Misfire.NONE), due=DUE, now=now)
    assert verdict.occurrences == (Occurrence(DUE + 2 * DAY, SKIPPED, 3, DUE),)
    assert verdict.next == DUE + 3 * DAY


def test_with_none_the_last_one_still_fires_within_its_grace() -> None:
    policy = MisfirePolicy(Misfire.NONE, timedelta(seconds=60))
    on_time = judge(DAILY, policy, due=DUE, now=DUE + DAY + timedelta(seconds=60))
    assert on_time.occurrences == (Occurrence(DUE + DAY, FIRED, 1, DUE),)
    late = judge(DAILY, policy, due=DUE, now=DUE + DAY + timedelta(seconds=61))
    assert late.occurrences == (Occurrence(DUE + DAY, SKIPPED, 2, DUE),)


def test_all_is_bounded_a_pass_and_goes_on_where_it_stopped() -> None:
    spec = Every(1_000, 0)
    now = DUE + timedelta(seconds=250)
    due: datetime | None = DUE
    fired: list[datetime] = []
    passes = 0
    while due is not None and due <= now:
        verdict = judge(spec, MisfirePolicy(Misfire.ALL), due=due, now=now)
        assert len(verdict.occurrences) <= CATCH_UP
        fired += [occurrence.at for occurrence in verdict.occurrences]
        due, passes = verdict.next, passes + 1
    assert fired == [DUE, *between(spec, DUE, now, 1_000)]
    assert passes == 3


@pytest.mark.parametrize(
    ("misfire", "outcome"),
    [(Misfire.LATEST, FIRED), (Misfire.ALL, FIRED), (Misfire.NONE, SKIPPED)],
)
def test_a_one_off_from_the_downtime_is_judged_once_and_ends(
    misfire: Misfire, outcome: FireOutcome
) -> None:
    at = At(int(DUE.timestamp() * 1000))
    verdict = judge(at, MisfirePolicy(misfire), due=DUE, now=DUE + DAY)
    assert [occurrence.outcome for occurrence in verdict.occurrences] == [outcome]
    assert verdict.next is None


def test_a_policy_that_says_nothing_is_latest_with_a_minute_of_grace() -> None:
    assert read_policy("{}") == MisfirePolicy(Misfire.LATEST, timedelta(seconds=60))
    assert read_policy('{"misfire": "none", "grace_s": 1.5}') == MisfirePolicy(
        Misfire.NONE, timedelta(seconds=1.5)
    )


@pytest.mark.parametrize(
    "document",
    [
        "",
        "null",
        "[]",
        '"latest"',
        '{"misfire": "maybe"}',
        '{"misfire": null}',
        '{"grace_s": -1}',
        '{"grace_s": "60"}',
        '{"grace_s": true}',
        '{"grace_s": 1e300}',
        '{"misfires": "all"}',
    ],
)
def test_a_policy_that_says_something_unknown_is_refused(document: str) -> None:
    with pytest.raises(Refused):
        read_policy(document)
