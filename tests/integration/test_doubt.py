"""A send whose answer never came: each platform does the strongest thing that it can."""

from collections.abc import Iterator
from itertools import count

import httpx
import pytest

from tests.workers import DATABASES, Site, running_site

_chats = count(8_000_001)


@pytest.fixture(scope="module", params=DATABASES)
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    variables = {
        "MIRRORPOST_HTTP_TIMEOUT_S": "1.5",
        "MIRRORPOST_LEASE_S": "6",
        "MIRRORPOST_DUPLICATE_LINE": "(may be a duplicate)",
    }
    with (
        running_site(request, request.param, variables) as made,
        made.worker(),
        made.scheduler(),
    ):
        yield made


def chat_on(platform: str) -> str:
    return f"C{next(_chats)}" if platform == "slack" else str(next(_chats))


@pytest.mark.parametrize("fault", ["hang", "drop"])
@pytest.mark.parametrize("policy", ["resend", "hold"])
@pytest.mark.parametrize("platform", ["slack", "discord"])
def test_what_can_be_asked_or_deduplicated_arrives_once_by_either_policy(
    site: Site, platform: str, policy: str, fault: str
) -> None:
    chat = chat_on(platform)
    site.sandbox.fault(platform, chat, fault, times=1)
    id_ = site.enqueue(f"{platform}:{chat}", "once", policy=policy)
    assert site.reaches(id_, "retrying").doubt_ms is not None
    [first] = site.sandbox.accepted(platform, chat)
    site.make_due(id_)
    row = site.reaches(id_, "sent")
    assert row.receipt == [first["id"]]
    assert (row.maybe_duplicate, row.doubt_ms) == (False, None)
    assert site.sandbox.texts(platform, chat) == ["once"]


def test_what_slack_does_not_have_is_sent_again_without_a_mark(site: Site) -> None:
    chat = chat_on("slack")
    # An answer that says nothing: Slack may have taken it, and has not.
    site.sandbox.fault("slack", chat, "500", times=1)
    id_ = site.enqueue(f"slack:{chat}", "arrives in the end", policy="hold")
    site.reaches(id_, "retrying")
    site.make_due(id_)
    assert site.reaches(id_, "sent").maybe_duplicate is False
    assert site.sandbox.texts("slack", chat) == ["arrives in the end"]


@pytest.mark.parametrize(
    ("policy", "state", "texts"),
    [
        ("resend", "sent", ["twice?", "twice?\n(may be a duplicate)"]),
        ("hold", "unknown", ["twice?"]),
    ],
)
def test_where_nothing_can_be_done_the_policy_decides_and_the_row_says_so(
    site: Site, policy: str, state: str, texts: list[str]
) -> None:
    chat = chat_on("telegram")
    site.sandbox.fault("telegram", chat, "drop", times=1)
    id_ = site.enqueue(f"telegram:{chat}", "twice?", policy=policy)
    site.reaches(id_, "retrying" if policy == "resend" else "unknown")
    site.make_due(id_)
    row = site.reaches(id_, state)
    assert site.sandbox.texts("telegram", chat) == texts
    assert row.maybe_duplicate is (policy == "resend")


def test_a_key_that_holds_only_for_minutes_is_not_relied_on_afterwards(site: Site) -> None:
    chat = chat_on("discord")
    site.sandbox.fault("discord", chat, "500", times=1)
    id_ = site.enqueue(f"discord:{chat}", "hours later", policy="hold")
    site.reaches(id_, "retrying")
    site.execute("UPDATE delivery SET doubt_ms = doubt_ms - 3600000 WHERE id = :id", id=id_)
    site.make_due(id_)
    assert "may have sent it" in str(site.reaches(id_, "unknown").error_text)
    assert site.sandbox.texts("discord", chat) == []


@pytest.mark.parametrize(
    ("policy", "state", "texts"),
    [
        ("resend", "sent", ["read back?", "read back?\n(may be a duplicate)"]),
        ("hold", "unknown", ["read back?"]),
    ],
)
def test_a_bot_that_may_not_read_slacks_history_leaves_it_to_the_policy(
    site: Site, policy: str, state: str, texts: list[str]
) -> None:
    chat = chat_on("slack")
    site.sandbox.fault("slack", chat, "missing_scope")
    site.sandbox.fault("slack", chat, "drop", times=1)
    id_ = site.enqueue(f"slack:{chat}", "read back?", policy=policy)
    site.reaches(id_, "retrying")
    site.make_due(id_)
    assert site.reaches(id_, state).maybe_duplicate is (policy == "resend")
    assert site.sandbox.texts("slack", chat) == texts


def test_a_person_on_slack_is_asked_for_in_the_direct_channel(site: Site) -> None:
    chat = f"U{next(_chats)}"
    site.sandbox.fault("slack", chat, "drop", times=1)
    id_ = site.enqueue(f"slack:{chat}", "just you", policy="hold")
    site.reaches(id_, "retrying")
    site.make_due(id_)
    assert site.reaches(id_, "sent").maybe_duplicate is False
    assert site.sandbox.texts("slack", chat) == ["just you"]


@pytest.mark.parametrize("thread", [None, "1600000000.000100"])
def test_an_old_reminder_is_found_beyond_the_newest_page(site: Site, thread: str | None) -> None:
    chat = chat_on("slack")
    site.sandbox.fault("slack", chat, "drop", times=1)
    id_ = site.enqueue(f"slack:{chat}", "long ago", thread=thread, policy="hold")
    site.reaches(id_, "retrying")
    with httpx.Client(headers={"Authorization": "Bearer xoxb-other"}, trust_env=False) as other:
        for number in range(201):
            body = {"channel": chat, "text": str(number), "thread_ts": thread}
            other.post(f"{site.sandbox.url}/slack/api/chat.postMessage", json=body)
    site.execute("UPDATE delivery SET created_ms = 1 WHERE id = :id", id=id_)
    site.make_due(id_)
    assert site.reaches(id_, "sent").maybe_duplicate is False
    assert site.sandbox.texts("slack", chat).count("long ago") == 1
