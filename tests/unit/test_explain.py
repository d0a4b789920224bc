"""Every state has an answer to "why", in words that follow from the row."""

import pytest

from scheduler.explain import explain
from scheduler.occasion import Occasion
from worker.states import State
from worker.tables import AttemptRow, DeadTargetRow, DeliveryRow

_NOW = 1_900_000_000_000


def delivery(**fields: object) -> DeliveryRow:
    given: dict[str, object] = {
        "id": "0" * 32,
        "body_hash": "",
        "target": "telegram:1",
        "platform": "telegram",
        "chat_id": "1",
        "text": "x",
        "lane": "reply",
        "state": "queued",
        "due_ms": _NOW,
        "created_ms": _NOW,
        "published_ms": _NOW,
    }
    return DeliveryRow(**(given | fields))


def attempt(number: int, outcome: str, **fields: object) -> AttemptRow:
    given: dict[str, object] = {
        "delivery_id": "0" * 32,
        "attempt": number,
        "owner": "host:1",
        "started_ms": _NOW,
        "took_ms": 34,
        "outcome": outcome,
    }
    return AttemptRow(**(given | fields))


def said(row: DeliveryRow, *attempts: AttemptRow, occasion: Occasion | None = None) -> str:
    return "\n".join(explain(row, attempts, now_ms=_NOW + 2_000, occasion=occasion))


@pytest.mark.parametrize("state", State)
def test_every_state_is_explained(state: State) -> None:
    lines = explain(delivery(state=state), [], now_ms=_NOW)
    assert lines[0] == f"Delivery {'0' * 32} to telegram:1: {state}."
    assert len(lines) > 2
    assert all(line.strip() for line in lines)


def test_who_asked_and_under_which_key_is_told() -> None:
    assert "Asked for by 'build'" in said(delivery(source="build", key="k1"))
    assert "under the key 'k1'" in said(delivery(source="build", key="k1"))
    assert "did not name itself" in said(delivery())


def test_a_fire_names_its_schedule_its_occurrence_and_what_was_left_out() -> None:
    occasion = Occasion("stand-up", _NOW - 3_600_000, _NOW, missed=2, missed_since_ms=_NOW - 9**9)
    text = said(delivery(), occasion=occasion)
    assert "Schedule 'stand-up' made it" in text
    assert "noticed 1 h later" in text
    assert "2 earlier occurrences since" in text


def test_each_attempt_is_told_with_what_the_platform_answered() -> None:
    text = said(
        delivery(state="sent", receipt=["77"], ended_ms=_NOW + 3_000, mirror="done", attempt=2),
        attempt(1, "rate_limited", http_status=429, text="Too Many Requests", retry_after_ms=3_000),
        attempt(2, "sent"),
    )
    assert "HTTP 429, rate_limited, the platform asked to slow down." in text
    assert "It said: Too Many Requests. It asked to wait 3 s." in text
    assert "accepted after 34 ms" in text
    assert "The platform's message id: 77." in text
    assert "It is in the history of" in text


def test_a_retry_says_when_and_how_many_attempts_are_left() -> None:
    row = delivery(
        state="retrying", due_ms=_NOW + 27_000, error_text="HTTP 503", attempt=1, attempts_used=1
    )
    text = said(row)
    assert "tried again in 25 s" in text
    assert "(HTTP 503)" in text
    assert "1 of 7 attempts" in text


def test_a_held_delivery_names_what_is_missing() -> None:
    row = delivery(state="held", error_kind="auth", error_text="TELEGRAM_BOT_TOKEN is not set")
    assert "held: TELEGRAM_BOT_TOKEN is not set" in said(row)


def test_an_unpublished_delivery_waits_for_the_broker_and_a_published_one_for_a_worker() -> None:
    assert "waits for the broker" in said(delivery(published_ms=0))
    assert "waits for a worker, which was told of it 2 s ago" in said(delivery())


def test_a_lost_worker_is_told_from_a_busy_one() -> None:
    row = delivery(state="sending", owner="host:1", lease_until_ms=_NOW + 12_000)
    assert "has 10 s left" in said(row)
    assert "did not come back" in said(delivery(state="sending", lease_until_ms=_NOW))


def test_a_failure_says_whether_attempts_ran_out_or_none_would_help() -> None:
    gone = delivery(state="failed", error_kind="target_gone", error_text="blocked", ended_ms=_NOW)
    assert "not tried again, because the chat is gone" in said(gone)
    worn = delivery(state="failed", error_kind="transient", attempts_used=7, ended_ms=_NOW)
    assert "All 7 attempts are used up" in said(worn)


def test_doubt_about_a_double_is_told() -> None:
    assert "may have arrived twice" in said(delivery(state="sent", maybe_duplicate=True))
    assert "twice" not in said(delivery(state="sent"))


def test_a_mirror_that_failed_is_told() -> None:
    row = delivery(state="sent", mirror="failed", unified_user="alice")
    assert "not in the history of alice yet" in said(row)


def test_a_person_is_told_with_the_place_where_they_were_reached() -> None:
    row = delivery(target="user:alice", state="sent", platform="slack", chat_id="D1")
    assert "alice was reached at slack:D1" in said(row)


def test_what_kept_an_expired_delivery_is_told() -> None:
    row = delivery(state="expired", expires_ms=_NOW, ended_ms=_NOW, error_text="HTTP 503")
    text = said(row)
    assert "It must not go out after" in text
    assert "What kept it: HTTP 503" in text


def test_the_requested_time_is_told_while_it_is_not_due() -> None:
    row = delivery(state="scheduled", due_ms=_NOW + 3_602_000)
    assert "goes out in 1 h" in said(row)


def test_how_late_it_was_is_told_only_where_no_retry_moved_the_due_time() -> None:
    once = delivery(state="sent", attempt=1, ended_ms=_NOW + 143, created_ms=_NOW - 9**9)
    assert ", 143 ms after it was due" in said(once)
    assert "after it was due" not in said(delivery(state="sent", attempt=2, ended_ms=_NOW))


def suppressed(noted: DeadTargetRow | None) -> str:
    row = delivery(
        state="suppressed",
        ended_ms=_NOW,
        error_kind="target_gone",
        error_text="telegram:1 is noted as gone since 2030-03-17 17:46 UTC: bot was blocked",
    )
    return "\n".join(explain(row, [], now_ms=_NOW, noted=noted))


def noted(probe_ms: int) -> DeadTargetRow:
    return DeadTargetRow(
        platform="telegram",
        account="",
        chat_id="1",
        thread_id="",
        kind="target_gone",
        reason="bot was blocked",
        since_ms=_NOW,
        probe_ms=probe_ms,
    )


def test_what_was_suppressed_says_why_since_when_and_when_the_chat_is_tried_next() -> None:
    words = suppressed(noted(_NOW + 1_800_000))
    assert "is noted as gone since 2030-03-17 17:46 UTC: bot was blocked." in words
    assert "The next delivery there after 2030-03-17 18:16:40 UTC, in 30 min, tries" in words
    assert "The next delivery there tries" in suppressed(noted(_NOW - 1))
    assert "not noted any more" in suppressed(None)


def test_what_waits_for_another_credential_says_so() -> None:
    held = delivery(state="held", error_kind="auth", error_text="refused", credential_print="a1")
    assert "when a worker starts that has another credential" in said(held)


def test_what_waits_in_order_names_what_it_waits_for() -> None:
    row = delivery(state="held", error_kind="order", error_text="an earlier one comes first")
    lines = explain(row, [], now_ms=_NOW, head="0192f3")
    assert "It waits for an earlier delivery of the same chat, 0192f3, to end." in lines
    assert "goes out in seconds" in said(row)


def test_what_is_tried_beyond_its_attempts_says_why() -> None:
    row = delivery(state="retrying", attempts_used=9, error_text="HTTP 500")
    assert "All 7 attempts are used up, but it is too young to be given up" in said(row)


def test_a_late_worker_and_a_later_part_are_told() -> None:
    told = said(delivery(), attempt(1, "sent", fenced=True), attempt(2, "sent", part=1))
    assert "after its lease had ended, so this changed nothing" in told
    assert "Attempt 2, part 2 at" in told


def test_a_chat_that_went_away_after_many_attempts_is_why_it_failed() -> None:
    row = delivery(state="failed", error_kind="target_gone", attempts_used=7, ended_ms=_NOW)
    assert "not tried again, because the chat is gone" in said(row)


def test_an_open_doubt_is_told_and_an_ended_one_is_not() -> None:
    assert "may have been accepted" in said(delivery(state="retrying", doubt_ms=_NOW))
    assert "may have been accepted" not in said(delivery(state="sent", doubt_ms=_NOW))


def test_what_a_person_wished_is_told_with_what_happens_next() -> None:
    held = delivery(
        state="held", error_kind="quiet_hours", due_ms=_NOW + 7_202_000, lane="cron",
        error_text="quiet hours until 08:00 in Europe/Paris",
    )  # fmt: skip
    assert "It is held: quiet hours until 08:00 in Europe/Paris. It goes out at" in said(held)
    assert ", in 2 h, when they are over" in said(held)
    waits = delivery(
        state="held", error_kind="frequency_cap", due_ms=_NOW + 62_000,
        error_text="over the frequency cap of 3/1d",
    )  # fmt: skip
    assert "over the frequency cap of 3/1d. It is looked at" in said(waits)
    assert "in 1 min, whether there is room" in said(waits)
    out = delivery(
        state="suppressed", error_kind="opted_out", ended_ms=_NOW, unified_user="alice",
        error_text="opted out of 'news'",
    )  # fmt: skip
    assert "opted out of 'news'" in said(out)
    assert "mirrorpost optout list alice" in said(out)
    folded = delivery(
        state="suppressed", error_kind="frequency_cap", ended_ms=_NOW,
        error_text="in the digest of 0192",
    )  # fmt: skip
    assert "in the digest of 0192" in said(folded)
    assert "left with that one" in said(folded)
    assert "It is silent" in said(delivery(silent=True))
