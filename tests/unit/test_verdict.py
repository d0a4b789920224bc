"""What follows from an attempt: every kind of failure, policy and capability, by one table."""

import random
from dataclasses import dataclass
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.backoff import MAX_ATTEMPTS
from worker.platforms.base import Dedup
from worker.states import TRANSITIONS, State
from worker.taxonomy import CONSEQUENCES, ErrorKind, Failure, Receipt
from worker.verdict import Place, Settlement, judge

PLACE = Place("telegram", "", "1", None, "alice")
K = ErrorKind


@dataclass(frozen=True)
class Claimed:
    id: str = "d1"
    attempt: int = 3
    attempts_used: int = 0
    policy: str = "resend"
    maybe_duplicate: bool = False
    receipt: list[str] | None = None
    age_ms: int = 0
    doubt_ms: int | None = None


def verdict(
    outcome: Receipt | Failure,
    claim: Claimed | None = None,
    *,
    dedup: Dedup = Dedup.NONE,
    place: Place = PLACE,
    parts: int = 1,
    min_age_s: float = 0.0,
) -> Settlement:
    return judge(
        claim or Claimed(),
        outcome,
        place,
        dedup=dedup,
        credential_print="print",
        started_ms=1_000,
        took_ms=20,
        parts=parts,
        min_age_s=min_age_s,
        jitter=random.Random(1),
    )


def fail(kind: ErrorKind, **fields: object) -> Failure:
    return Failure(kind, "said so", **fields)  # type: ignore[arg-type]


NEVER = {K.TARGET_GONE, K.FORBIDDEN, K.INVALID, K.TOO_LONG}
COMBINATIONS = list(product(ErrorKind, ("resend", "hold"), Dedup, (0, 5, 6, 7)))


def expected(kind: ErrorKind, policy: str, dedup: Dedup, used: int) -> State:
    """Say it once more, in the words of the documentation and not of the code."""
    last = used + 1 >= MAX_ATTEMPTS
    if kind in NEVER:
        return State.FAILED
    if kind is K.AUTH:
        return State.HELD
    if kind is K.RATE_LIMITED:
        return State.RETRYING
    if kind is K.AMBIGUOUS and (last or (policy == "hold" and dedup is Dedup.NONE)):
        return State.UNKNOWN
    return State.FAILED if last else State.RETRYING


@pytest.mark.parametrize(("kind", "policy", "dedup", "used"), COMBINATIONS)
def test_every_failure_leads_where_the_documentation_says(
    kind: ErrorKind, policy: str, dedup: Dedup, used: int
) -> None:
    settled = verdict(fail(kind), Claimed(attempts_used=used, policy=policy), dedup=dedup)
    assert settled.state is expected(kind, policy, dedup, used)
    assert (settled.delay_ms is not None) == (settled.state is State.RETRYING)


@pytest.mark.parametrize("kind", ErrorKind)
def test_only_limits_and_credentials_cost_no_attempt(kind: ErrorKind) -> None:
    assert verdict(fail(kind)).cost == (0 if kind in {K.RATE_LIMITED, K.AUTH} else 1)


@pytest.mark.parametrize(
    ("used", "base_s"), [(0, 5), (1, 25), (2, 120), (3, 600), (4, 1_800), (5, 7_200)]
)
@pytest.mark.parametrize("kind", [K.TRANSIENT, K.UNKNOWN_ERROR, K.AMBIGUOUS])
def test_retries_wait_by_the_schedule(kind: ErrorKind, used: int, base_s: int) -> None:
    delay_ms = verdict(fail(kind), Claimed(attempts_used=used)).delay_ms
    assert delay_ms is not None
    assert base_s * 800 <= delay_ms <= base_s * 1_200


@pytest.mark.parametrize("kind", [K.TRANSIENT, K.UNKNOWN_ERROR, K.RATE_LIMITED, K.AMBIGUOUS])
@pytest.mark.parametrize("after_s", [0.0, 0.25, 3.0, 86_400.0])
def test_the_platform_s_own_wait_stands_instead_of_the_schedule(
    kind: ErrorKind, after_s: float
) -> None:
    settled = verdict(fail(kind, retry_after_s=after_s), Claimed(attempts_used=4))
    assert settled.delay_ms == int(after_s * 1_000)


def test_a_wait_that_the_platform_asks_for_gives_no_attempt_beyond_the_last() -> None:
    settled = verdict(fail(K.TRANSIENT, retry_after_s=1.0), Claimed(attempts_used=6))
    assert settled.state is State.FAILED


def test_a_limit_without_a_time_waits_five_seconds() -> None:
    assert verdict(fail(K.RATE_LIMITED)).delay_ms == 5_000


def test_a_limit_is_waited_for_however_often_it_was_tried() -> None:
    settled = verdict(fail(K.RATE_LIMITED, retry_after_s=2.0), Claimed(attempts_used=99))
    assert (settled.state, settled.delay_ms, settled.cost) == (State.RETRYING, 2_000, 0)


def test_a_moved_chat_is_tried_at_once_at_its_new_place() -> None:
    settled = verdict(fail(K.TARGET_MOVED, moved_to="-100777"))
    assert (settled.state, settled.delay_ms) == (State.RETRYING, 0)
    assert settled.place == Place("telegram", "", "-100777", None, "alice")


def test_a_refused_credential_is_remembered_and_no_other_failure_s() -> None:
    assert verdict(fail(K.AUTH)).credential_print == "print"
    others = [verdict(fail(kind)).credential_print for kind in set(ErrorKind) - {K.AUTH}]
    assert not any(others)


@pytest.mark.parametrize(
    ("dedup", "marked"), [(Dedup.KEY, False), (Dedup.ASK, False), (Dedup.NONE, True)]
)
def test_an_ambiguous_send_is_a_possible_duplicate_where_the_platform_can_do_nothing(
    dedup: Dedup, marked: bool
) -> None:
    settled = verdict(fail(K.AMBIGUOUS), dedup=dedup)
    assert settled.state is State.RETRYING
    assert settled.maybe_duplicate is marked
    assert settled.doubt is True


def test_what_was_proven_not_sent_leaves_no_doubt_but_an_older_one_stays() -> None:
    assert verdict(fail(K.TRANSIENT)).doubt is False
    assert verdict(fail(K.TRANSIENT), Claimed(doubt_ms=9)).doubt is None
    assert verdict(Receipt(("7",)), Claimed(doubt_ms=9)).doubt is False


def test_what_may_have_arrived_before_does_not_end_as_failed_for_want_of_attempts() -> None:
    spent = Claimed(attempts_used=6, doubt_ms=9)
    assert verdict(fail(K.TRANSIENT), spent, dedup=Dedup.KEY).state is State.UNKNOWN


def test_a_young_delivery_goes_on_when_its_attempts_are_used_up() -> None:
    young = Claimed(attempts_used=9, age_ms=3_600_000)
    settled = verdict(fail(K.TRANSIENT), young, min_age_s=6 * 3600)
    assert settled.state is State.RETRYING
    assert settled.delay_ms is not None
    assert 5_760_000 <= settled.delay_ms <= 8_640_000
    old = Claimed(attempts_used=9, age_ms=6 * 3_600_000)
    assert verdict(fail(K.TRANSIENT), old, min_age_s=6 * 3600).state is State.FAILED
    assert verdict(fail(K.INVALID), young, min_age_s=6 * 3600).state is State.FAILED


def test_a_part_that_was_sent_queues_the_next_and_keeps_the_receipts() -> None:
    second = Claimed(receipt=["a"])
    settled = verdict(Receipt(("b",)), second, parts=3)
    assert (settled.state, settled.receipt, settled.part) == (State.QUEUED, ("a", "b"), 1)
    assert (settled.cost, settled.mirror) == (0, None)
    last = verdict(Receipt(("c",)), Claimed(receipt=["a", "b"]), parts=3)
    assert (last.state, last.receipt, last.part) == (State.SENT, ("a", "b", "c"), 2)
    assert last.mirror == "done"


def test_a_failure_in_a_later_part_keeps_the_receipts_of_those_before() -> None:
    settled = verdict(fail(K.TRANSIENT), Claimed(receipt=["a", "b"]), parts=5)
    assert (settled.state, settled.receipt, settled.part) == (State.RETRYING, ("a", "b"), 2)


def test_on_hold_an_ambiguous_send_is_never_repeated_blindly() -> None:
    assert verdict(fail(K.AMBIGUOUS), Claimed(policy="hold")).state is State.UNKNOWN
    keyed = verdict(fail(K.AMBIGUOUS), Claimed(policy="hold"), dedup=Dedup.KEY)
    assert keyed.state is State.RETRYING


@pytest.mark.parametrize("kind", sorted(set(ErrorKind) - {K.AMBIGUOUS}))
def test_only_an_ambiguous_send_makes_a_possible_duplicate(kind: ErrorKind) -> None:
    assert not verdict(fail(kind)).maybe_duplicate


def test_a_receipt_ends_it_as_sent_with_the_ids() -> None:
    settled = verdict(Receipt(("77", "78")))
    assert (settled.state, settled.receipt) == (State.SENT, ("77", "78"))
    assert (settled.outcome, settled.cost, settled.failure) == ("sent", 1, None)
    assert (settled.delay_ms, settled.mirror) == (None, "done")


def test_what_was_sent_for_nobody_known_is_left_for_the_mirror_s_repair() -> None:
    nobody = Place("telegram", "", "1", None, None)
    assert verdict(Receipt(("77",)), place=nobody).mirror == "failed"


outcomes = st.one_of(
    st.builds(Receipt, st.tuples(st.text(min_size=1))),
    st.builds(
        Failure,
        st.sampled_from(ErrorKind),
        st.text(max_size=20),
        code=st.none() | st.text(max_size=5),
        http_status=st.none() | st.integers(100, 599),
        retry_after_s=st.none() | st.floats(0, 10**7),
    ),
)
claims = st.builds(
    Claimed,
    attempts_used=st.integers(0, 20),
    policy=st.sampled_from(["resend", "hold"]),
    maybe_duplicate=st.booleans(),
)


@given(outcomes, claims, st.sampled_from(Dedup))
def test_every_verdict_can_be_written(
    outcome: Receipt | Failure, claim: Claimed, dedup: Dedup
) -> None:
    settled = verdict(outcome, claim, dedup=dedup)
    assert settled.state in TRANSITIONS[State.SENDING]
    assert (settled.id, settled.attempt) == (claim.id, claim.attempt)
    assert settled.cost in (0, 1)
    assert (settled.receipt is not None) == (settled.state is State.SENT)
    assert settled.delay_ms is None or settled.delay_ms >= 0
    # A mark once set says something about the past, which nothing that follows can take back.
    assert settled.maybe_duplicate or not claim.maybe_duplicate


@given(st.sampled_from(ErrorKind), st.sampled_from(Dedup), st.sampled_from(["resend", "hold"]))
def test_what_costs_an_attempt_comes_to_an_end(kind: ErrorKind, dedup: Dedup, policy: str) -> None:
    used, tries = 0, 0
    while tries < 100:
        settled = verdict(fail(kind), Claimed(attempts_used=used, policy=policy), dedup=dedup)
        used, tries = used + settled.cost, tries + 1
        if settled.state is not State.RETRYING:
            break
    assert tries <= MAX_ATTEMPTS or not CONSEQUENCES[kind].costs_attempt


def test_a_row_has_the_failure_s_facts_and_plain_values() -> None:
    settled = verdict(fail(K.RATE_LIMITED, code="429", http_status=429, retry_after_s=1.5))
    row = settled.as_row("host:1")
    assert row["error_kind"] == row["outcome"] == "rate_limited"
    assert (row["error_text"], row["code"], row["http_status"]) == ("said so", "429", 429)
    assert (row["retry_after_ms"], row["delay_ms"], row["owner"]) == (1_500, 1_500, "host:1")
    assert type(row["state"]) is str
