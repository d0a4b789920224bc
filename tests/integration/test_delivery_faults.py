"""What a real worker makes of each fault that a platform can have."""

import time
from collections.abc import Iterator
from itertools import count

import pytest

from tests.waiting import wait_until
from tests.workers import DATABASES, TOKENS, Site, running_site
from worker.tables import DeliveryRow

#: A refused credential stays refused: the bots that lose theirs do nothing else here.
_REVOKED = {f"{name}_REVOKED": f"{token}r" for name, token in TOKENS.items()}
_chats = count(2_000_001)


@pytest.fixture(scope="module", params=DATABASES)
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    with (
        running_site(request, request.param, _REVOKED) as site,
        site.worker(),
        site.scheduler(),
    ):
        yield site


@pytest.fixture(autouse=True)
def _no_fault_is_left(site: Site) -> Iterator[None]:
    yield
    site.sandbox.no_faults()


def chat_on(platform: str) -> str:
    """Give a chat of its own to each test."""
    return f"{'C' if platform == 'slack' else ''}{next(_chats)}"


def sent_again(site: Site, id_: str) -> DeliveryRow:
    """Wait until a delivery waits for its retry, let its time come, wait until it is sent."""
    site.reaches(id_, "retrying")
    site.make_due(id_)
    return site.reaches(id_, "sent")


@pytest.mark.parametrize("platform", ["telegram", "discord", "slack"])
def test_a_429_is_waited_for_by_everybody_in_the_chat_and_costs_no_attempt(
    site: Site, platform: str
) -> None:
    chat, elsewhere = chat_on(platform), chat_on(platform)
    site.sandbox.fault(platform, chat, "429", times=1, retry_after=3)
    refused_before = site.sandbox.answers(platform).get("429", 0)

    first = site.enqueue(f"{platform}:{chat}", "first")
    row = site.reaches(first, "retrying")
    paused_ms = site.attempts(first)[0].started_ms
    second = site.enqueue(f"{platform}:{chat}", "second", order="none")
    waiting = site.reaches(second, "retrying")
    site.reaches(site.enqueue(f"{platform}:{elsewhere}", "elsewhere"), "sent")
    elsewhere_ms = time.time() * 1000

    assert (row.error_kind, row.attempts_used) == ("rate_limited", 0)
    assert (waiting.error_kind, waiting.attempts_used) == ("rate_limited", 0)
    assert site.attempts(second) == []
    for id_ in (first, second):
        assert site.reaches(id_, "sent").attempts_used == 1
    assert [a.outcome for a in site.attempts(first)] == ["rate_limited", "sent"]
    assert site.attempts(first)[0].retry_after_ms == 3000
    assert [a.outcome for a in site.attempts(second)] == ["sent"]
    for id_ in (first, second):
        assert site.attempts(id_)[-1].started_ms >= paused_ms + 3000
    assert elsewhere_ms < paused_ms + 3000
    assert sorted(site.sandbox.texts(platform, chat)) == ["first", "second"]
    assert site.sandbox.answers(platform)["429"] == refused_before + 1


def test_a_whole_bots_limit_stops_all_its_chats(site: Site) -> None:
    chat, elsewhere = chat_on("discord"), chat_on("discord")
    site.sandbox.fault("discord", chat, "429", times=1, retry_after=2, **{"global": True})

    first = site.enqueue(f"discord:{chat}", "first")
    site.reaches(first, "retrying")
    second = site.enqueue(f"discord:{elsewhere}", "another chat")

    site.reaches(second, "retrying")
    assert site.attempts(second) == []
    site.reaches(first, "sent")
    site.reaches(second, "sent")
    begun_ms = site.attempts(first)[0].started_ms
    assert site.attempts(second)[0].started_ms >= begun_ms + 2000


@pytest.mark.parametrize(
    ("platform", "fault", "kind", "doubt"),
    [
        # Telegram's 500 says that it restarts, before it works on a request.
        ("telegram", "500", "transient", False),
        ("discord", "500", "ambiguous", False),
        ("telegram", "502", "ambiguous", True),
        ("discord", "502", "ambiguous", False),
        ("slack", "503", "ambiguous", False),
    ],
)
def test_a_5xx_is_tried_again_by_the_schedule(
    site: Site, platform: str, fault: str, kind: str, doubt: bool
) -> None:
    chat = chat_on(platform)
    site.sandbox.fault(platform, chat, fault, times=1)

    id_ = site.enqueue(f"{platform}:{chat}", "in the end")

    row = site.reaches(id_, "retrying")
    (attempt,) = site.attempts(id_)
    assert (row.error_kind, row.attempts_used) == (kind, 1)
    assert (attempt.outcome, attempt.http_status) == (kind, int(fault))
    assert 4000 <= row.due_ms - attempt.started_ms - attempt.took_ms <= 7000
    row = sent_again(site, id_)
    assert (row.attempts_used, row.maybe_duplicate, row.error_kind) == (2, doubt, None)
    assert site.sandbox.texts(platform, chat) == ["in the end"]


def test_an_answer_that_never_comes_is_ambiguous_after_the_time_limit(site: Site) -> None:
    chat = chat_on("discord")
    site.sandbox.fault("discord", chat, "hang", times=1)

    id_ = site.enqueue(f"discord:{chat}", "did it arrive?")

    row = site.reaches(id_, "retrying")
    (attempt,) = site.attempts(id_)
    assert (row.error_kind, attempt.http_status) == ("ambiguous", None)
    assert 9_000 <= attempt.took_ms <= 12_000
    row = sent_again(site, id_)
    (accepted,) = site.sandbox.accepted("discord", chat)
    assert row.receipt == [accepted["id"]]


def test_discord_makes_one_message_of_one_that_was_sent_twice(site: Site) -> None:
    chat = chat_on("discord")
    site.sandbox.fault("discord", chat, "drop", times=1)

    id_ = site.enqueue(f"discord:{chat}", "once")

    row = sent_again(site, id_)
    (accepted,) = site.sandbox.accepted("discord", chat)
    assert (row.receipt, row.maybe_duplicate) == ([accepted["id"]], False)
    assert [a.outcome for a in site.attempts(id_)] == ["ambiguous", "sent"]
    assert len(site.messages(f"discord:{chat}")) == 1


def test_telegram_is_sent_to_again_and_the_row_says_that_it_may_be_double(site: Site) -> None:
    chat = chat_on("telegram")
    site.sandbox.fault("telegram", chat, "drop", times=1)

    id_ = site.enqueue(f"telegram:{chat}", "perhaps twice")

    row = sent_again(site, id_)
    assert row.maybe_duplicate
    assert site.sandbox.texts("telegram", chat) == ["perhaps twice"] * 2
    assert len(site.messages(f"telegram:{chat}")) == 1


def test_with_policy_hold_nothing_is_sent_twice_and_the_outcome_is_unknown(site: Site) -> None:
    chat = chat_on("telegram")
    site.sandbox.fault("telegram", chat, "drop", times=1)

    id_ = site.enqueue(f"telegram:{chat}", "at most once", policy="hold")

    row = site.reaches(id_, "unknown")
    assert (row.error_kind, row.receipt, row.mirror) == ("ambiguous", None, None)
    site.reaches(site.enqueue(f"telegram:{chat}", "later"), "sent")
    assert site.sandbox.texts("telegram", chat) == ["at most once", "later"]
    assert site.delivery(id_).state == "unknown"


@pytest.mark.parametrize(
    ("platform", "fault", "kind"),
    [
        ("telegram", "blocked", "target_gone"),
        ("telegram", "kicked", "target_gone"),
        ("discord", "blocked", "target_gone"),
        ("discord", "kicked", "forbidden"),
        ("slack", "blocked", "target_gone"),
        ("slack", "kicked", "forbidden"),
    ],
)
def test_who_blocked_or_kicked_us_is_not_tried_again(
    site: Site, platform: str, fault: str, kind: str
) -> None:
    chat = chat_on(platform)
    site.sandbox.fault(platform, chat, fault)

    id_ = site.enqueue(f"{platform}:{chat}", "unwanted")

    row = site.reaches(id_, "failed")
    assert row.error_kind == kind
    assert row.error_text
    assert len(site.attempts(id_)) == 1
    assert site.sandbox.texts(platform, chat) == []
    assert site.messages(f"{platform}:{chat}") == []


def test_a_migrated_group_is_written_to_under_its_new_id(site: Site) -> None:
    old, new = f"-{chat_on('telegram')}", f"-100{chat_on('telegram')}"
    site.sandbox.fault("telegram", old, "migrated", to=new)

    id_ = site.enqueue(f"telegram:{old}", "to the group")

    row = site.reaches(id_, "sent")
    assert row.chat_id == new
    assert site.sandbox.texts("telegram", old) == []
    assert site.sandbox.texts("telegram", new) == ["to the group"]
    assert [a.outcome for a in site.attempts(id_)] == ["target_moved", "sent"]
    # One history goes on: the new id becomes whoever the old one was.
    assert [m.content for m in site.messages(f"telegram:{old}")] == ["to the group"]


@pytest.mark.parametrize("platform", ["telegram", "discord", "slack"])
def test_a_revoked_token_holds_what_needs_it(site: Site, platform: str) -> None:
    chat = chat_on(platform)
    site.sandbox.fault(platform, chat, "revoked")

    id_ = site.enqueue(f"{platform}@revoked:{chat}", "waits for a token")

    row = site.reaches(id_, "held")
    assert (row.error_kind, row.attempts_used) == ("auth", 0)
    assert row.credential_print
    site.sandbox.no_faults()
    same_bot = site.enqueue(f"{platform}@revoked:{chat_on(platform)}", "waits as well")
    site.reaches(same_bot, "held")
    site.reaches(site.enqueue(f"{platform}:{chat}", "the other bot goes on"), "sent")
    assert (len(site.attempts(id_)), len(site.attempts(same_bot))) == (1, 0)


def test_more_hanging_chats_than_processes_hold_up_nobody_else(site: Site) -> None:
    stuck, free = [chat_on("slack") for _ in range(6)], chat_on("slack")
    for chat in stuck:
        site.sandbox.fault("slack", chat, "slow", times=1, seconds=4)

    slow = [site.enqueue(f"slack:{chat}", "slowly") for chat in stuck]
    for id_ in slow:
        site.reaches(id_, "sending", within_s=3)
    quick = [site.enqueue(f"slack:{free}", f"quick {n}") for n in range(5)]

    for id_ in quick:
        site.reaches(id_, "sent", within_s=3)
    assert {site.delivery(id_).state for id_ in slow} == {"sending"}
    for id_ in slow:
        site.reaches(id_, "sent")


def test_a_platform_that_hangs_altogether_holds_up_no_other(site: Site) -> None:
    # More than all senders of the worker and all that it claims ahead of them.
    stuck = [f"slack:{chat_on('slack')}" for _ in range(1_000)]
    site.sandbox.fault("slack", None, "slow", seconds=8)
    site.broadcast(stuck, "slowly", id="hanging")
    claimed = "SELECT count(*) FROM delivery WHERE state = 'sending'"
    wait_until(lambda: site.scalar(claimed) > 500, 10)

    for n in range(6):
        free = f"telegram:{chat_on('telegram')}"
        site.reaches(site.enqueue(free, f"quick {n}", lane="broadcast"), "sent", within_s=4)
