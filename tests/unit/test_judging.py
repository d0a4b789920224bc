import random
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.backoff import MAX_ATTEMPTS, delay_s
from worker.platforms.base import Dedup
from worker.states import ENDS, TRANSITIONS, State, sources
from worker.taxonomy import CONSEQUENCES, ErrorKind, Failure, Receipt
from worker.verdict import Place, judge

PLACE = Place("telegram", "", "5", None, "alice")


@dataclass(frozen=True)
class Claim:
    id: str = "d1"
    attempt: int = 1
    attempts_used: int = 0
    policy: str = "resend"
    maybe_duplicate: bool = False
    receipt: list[str] | None = None
    age_ms: int = 0
    doubt_ms: int | None = None


def judged(outcome, claim=None, dedup=Dedup.NONE):
    return judge(
        claim or Claim(),
        outcome,
        PLACE,
        dedup=dedup,
        credential_print="print",
        started_ms=1,
        took_ms=2,
        jitter=random.Random(1),
    )


def failed(kind, **more):
    return Failure(kind, "the platform's words", **more)


def test_every_kind_has_its_consequence():
    assert set(CONSEQUENCES) == set(ErrorKind)


def test_only_a_receipt_is_sent():
    settled = judged(Receipt(("77",)))
    assert (settled.state, settled.receipt, settled.mirror) == (State.SENT, ("77",), "done")
    assert all(judged(failed(kind)).state is not State.SENT for kind in ErrorKind)


@pytest.mark.parametrize(
    ("kind", "state", "cost"),
    [
        (ErrorKind.RATE_LIMITED, State.RETRYING, 0),
        (ErrorKind.TRANSIENT, State.RETRYING, 1),
        (ErrorKind.AMBIGUOUS, State.RETRYING, 1),
        (ErrorKind.UNKNOWN_ERROR, State.RETRYING, 1),
        (ErrorKind.TARGET_MOVED, State.RETRYING, 1),
        (ErrorKind.TARGET_GONE, State.FAILED, 1),
        (ErrorKind.FORBIDDEN, State.FAILED, 1),
        (ErrorKind.AUTH, State.HELD, 0),
        (ErrorKind.INVALID, State.FAILED, 1),
        (ErrorKind.TOO_LONG, State.FAILED, 1),
    ],
)
def test_what_follows_from_a_first_failure(kind, state, cost):
    settled = judged(failed(kind))
    assert (settled.state, settled.cost) == (state, cost)


@pytest.mark.parametrize(
    ("used", "seconds"), [(1, 5), (2, 25), (3, 120), (4, 600), (5, 1800), (6, 7200)]
)
@given(seed=st.integers())
def test_retries_wait_by_the_schedule_with_a_fifth_of_jitter(used, seconds, seed):
    assert 0.8 * seconds <= delay_s(used, random.Random(seed)) <= 1.2 * seconds


def test_attempts_come_to_an_end():
    last = Claim(attempts_used=MAX_ATTEMPTS - 1)
    assert judged(failed(ErrorKind.TRANSIENT), last).state is State.FAILED
    assert judged(failed(ErrorKind.RATE_LIMITED), last).state is State.RETRYING


def test_the_platforms_own_time_goes_before_the_schedule():
    assert judged(failed(ErrorKind.RATE_LIMITED, retry_after_s=41.5)).delay_ms == 41_500
    assert judged(failed(ErrorKind.TRANSIENT, retry_after_s=9)).delay_ms == 9_000


@pytest.mark.parametrize(
    ("policy", "dedup", "state", "marked"),
    [
        ("resend", Dedup.NONE, State.RETRYING, True),
        ("resend", Dedup.ASK, State.RETRYING, False),
        ("resend", Dedup.KEY, State.RETRYING, False),
        ("hold", Dedup.NONE, State.UNKNOWN, False),
        ("hold", Dedup.KEY, State.RETRYING, False),
    ],
)
def test_an_ambiguous_send_follows_capability_then_policy(policy, dedup, state, marked):
    settled = judged(failed(ErrorKind.AMBIGUOUS), Claim(policy=policy), dedup)
    assert (settled.state, settled.maybe_duplicate) == (state, marked)


def test_an_ambiguous_send_that_is_given_up_is_not_called_failed():
    last = Claim(attempts_used=MAX_ATTEMPTS - 1)
    assert judged(failed(ErrorKind.AMBIGUOUS), last).state is State.UNKNOWN
    assert judged(failed(ErrorKind.AMBIGUOUS), last, Dedup.KEY).state is State.UNKNOWN


def test_a_group_that_moved_is_written_to_at_its_new_id_at_once():
    settled = judged(failed(ErrorKind.TARGET_MOVED, moved_to="-100500"))
    assert (settled.place.chat_id, settled.delay_ms) == ("-100500", 0)


def test_a_refused_credential_is_remembered_by_its_fingerprint_only():
    assert judged(failed(ErrorKind.AUTH)).credential_print == "print"
    assert judged(failed(ErrorKind.TRANSIENT)).credential_print is None


@given(
    kind=st.sampled_from(list(ErrorKind)),
    used=st.integers(0, MAX_ATTEMPTS),
    policy=st.sampled_from(["resend", "hold"]),
    dedup=st.sampled_from(list(Dedup)),
    after=st.none() | st.floats(0, 1e5),
)
def test_every_verdict_is_a_legal_change_and_never_loses_a_time(kind, used, policy, dedup, after):
    claim = Claim(attempts_used=used, policy=policy)
    settled = judged(failed(kind, retry_after_s=after), claim, dedup)
    assert settled.state in TRANSITIONS[State.SENDING]
    assert (settled.delay_ms is not None) == (settled.state is State.RETRYING)
    assert not claim.maybe_duplicate or settled.maybe_duplicate


def test_nothing_leaves_an_end_but_by_a_persons_hand():
    by_hand = {State.FAILED: {State.QUEUED}, State.SUPPRESSED: {State.QUEUED}}
    for end in ENDS - {State.UNKNOWN}:
        assert set(TRANSITIONS[end]) == by_hand.get(end, set())
    assert set(sources(State.SENDING)) == {State.QUEUED}
