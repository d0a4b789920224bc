"""The whole path with a real worker: enqueued, sent over HTTP, settled, mirrored."""

from collections.abc import Iterator
from itertools import count

import pytest

from tests.waiting import wait_until
from tests.workers import DATABASES, Site, running_site
from worker.sessions import SessionManager

_chats = count(1_000_001)


@pytest.fixture(scope="module", params=DATABASES)
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    with running_site(request, request.param) as site, site.worker(), site.scheduler():
        yield site


def chat_on(platform: str) -> str:
    """Give a chat of its own to each test."""
    return f"{'C' if platform == 'slack' else ''}{next(_chats)}"


@pytest.mark.parametrize("platform", ["telegram", "discord", "slack"])
def test_a_delivery_arrives_with_receipt_attempt_and_mirror(site: Site, platform: str) -> None:
    chat = chat_on(platform)
    site.resolver.link(platform, chat, f"alice-{platform}")

    id_ = site.enqueue(
        f"{platform}:{chat}", "Stand-up in 5", source="cron", metadata={"meeting": 7}
    )

    row = site.reaches(id_, "sent")
    (accepted,) = site.sandbox.accepted(platform, chat)
    assert accepted["text"] == "Stand-up in 5"
    assert row.receipt == [accepted["id"]]
    assert (row.attempts_used, row.mirror, row.maybe_duplicate) == (1, "done", False)
    (attempt,) = site.attempts(id_)
    assert (attempt.outcome, attempt.attempt, attempt.text) == ("sent", 1, None)
    (mirror,) = site.messages(f"alice-{platform}")
    assert (mirror.content, mirror.role, mirror.platform) == (
        "Stand-up in 5",
        "assistant",
        platform,
    )
    assert (mirror.chat, mirror.delivery_id) == (chat, id_)
    assert mirror.platform_message_ids == (accepted["id"],)
    entry = mirror.entry()
    assert (entry["mirror"], entry["mirror_source"], entry["meeting"]) == (True, "cron", 7)


def test_the_same_key_and_body_is_delivered_once(site: Site) -> None:
    chat = chat_on("telegram")

    first = site.enqueue(f"telegram:{chat}", "once", key=f"once-{chat}")
    again = site.enqueue(f"telegram:{chat}", "once", key=f"once-{chat}")
    last = site.enqueue(f"telegram:{chat}", "the last")

    assert first == again
    site.reaches(first, "sent")
    site.reaches(last, "sent")
    assert sorted(site.sandbox.texts("telegram", chat)) == ["once", "the last"]


def test_a_thread_a_reply_and_silence_arrive(site: Site) -> None:
    chat = chat_on("telegram")

    id_ = site.enqueue(f"telegram:-100{chat}#77", "in the topic", reply_to="12", silent=True)

    site.reaches(id_, "sent")
    (accepted,) = site.sandbox.accepted("telegram", f"-100{chat}")
    assert (accepted["thread"], accepted["reply_to"], accepted["silent"]) == ("77", "12", True)


def test_a_person_is_reached_where_they_last_wrote(site: Site) -> None:
    user, telegram, slack = f"alice-{next(_chats)}", chat_on("telegram"), chat_on("slack")
    site.resolver.link("telegram", telegram, user)
    site.resolver.link("slack", slack, user)
    SessionManager(site.engine, resolver=site.resolver).record("slack", slack, "user", "hello?")

    id_ = site.enqueue(f"user:{user}", "here I am")

    assert site.reaches(id_, "sent").platform == "slack"
    assert site.sandbox.texts("slack", slack) == ["here I am"]
    assert site.sandbox.texts("telegram", telegram) == []
    assert [m.content for m in site.messages(user)] == ["hello?", "here I am"]


def test_a_person_on_discord_is_reached_through_the_direct_channel(site: Site) -> None:
    user, person = f"bob-{next(_chats)}", chat_on("discord")
    site.resolver.link("discord", person, user)

    id_ = site.enqueue(f"user:{user}", "just for you")

    row = site.reaches(id_, "sent")
    (accepted,) = site.sandbox.accepted("discord", person)
    assert accepted["recipient"] == person
    assert row.chat_id == accepted["chat"] != person
    (mirror,) = site.messages(user)
    assert (mirror.content, mirror.chat) == ("just for you", accepted["chat"])


def test_an_account_under_its_own_name_is_written_to_and_remembered_by_whoever_has_it(
    site: Site,
) -> None:
    user, telegram, discord = f"dora-{next(_chats)}", chat_on("telegram"), chat_on("discord")
    site.resolver.link("telegram", telegram, user)
    site.resolver.link("discord", discord, user)

    id_ = site.enqueue(f"user:discord:{discord}", "on Discord, please")

    assert site.reaches(id_, "sent").unified_user == user
    (accepted,) = site.sandbox.accepted("discord", discord)
    assert accepted["recipient"] == discord
    assert [m.content for m in site.messages(user)] == ["on Discord, please"]


def test_a_person_without_a_route_fails_with_what_to_do(site: Site) -> None:
    id_ = site.enqueue("user:nobody-knows", "hello?")

    row = site.reaches(id_, "failed")
    assert row.error_kind == "invalid"
    assert "mirrorpost identity link telegram ID nobody-knows" in (row.error_text or "")
    assert site.attempts(id_) == []


def test_an_unlinked_chat_is_a_conversation_of_its_own(site: Site) -> None:
    alice, stranger = chat_on("telegram"), chat_on("telegram")
    site.resolver.link("telegram", alice, f"alice-{alice}")

    site.reaches(site.enqueue(f"telegram:{alice}", "to alice"), "sent")
    site.reaches(site.enqueue(f"telegram:{stranger}", "to a stranger"), "sent")

    assert [m.content for m in site.messages(f"telegram:{stranger}")] == ["to a stranger"]
    assert [m.content for m in site.messages(f"alice-{alice}")] == ["to alice"]


def test_what_goes_to_a_group_never_lands_in_a_persons_history(site: Site) -> None:
    number = chat_on("telegram")
    site.resolver.link("telegram", number, f"alice-{number}")

    site.reaches(site.enqueue(f"telegram:-{number}", "to the group"), "sent")

    assert site.messages(f"alice-{number}") == []
    assert [m.content for m in site.messages(f"telegram:-{number}")] == ["to the group"]


def test_a_later_delivery_goes_out_when_it_is_due(site: Site) -> None:
    chat = chat_on("telegram")
    id_ = site.enqueue(f"telegram:{chat}", "tomorrow", at="2199-01-01T09:00:00+00:00")
    assert site.delivery(id_).state == "scheduled"

    site.execute("UPDATE delivery SET due_ms = 1 WHERE id = :id", id=id_)

    site.reaches(id_, "sent")
    assert site.sandbox.texts("telegram", chat) == ["tomorrow"]


def test_what_expired_is_never_sent(site: Site) -> None:
    chat = chat_on("telegram")
    id_ = site.enqueue(
        f"telegram:{chat}",
        "too late",
        at="2199-01-01T09:00:00+00:00",
        expires="2199-01-01T10:00:00+00:00",
    )

    site.execute("UPDATE delivery SET due_ms = 1, expires_ms = 2 WHERE id = :id", id=id_)

    site.reaches(id_, "expired")
    site.reaches(site.enqueue(f"telegram:{chat}", "in time"), "sent")
    assert site.sandbox.texts("telegram", chat) == ["in time"]
    assert site.attempts(id_) == []


def test_a_broadcast_reaches_everybody_once_and_is_mirrored(site: Site) -> None:
    people = [str(8_000_000 + n) for n in range(500)]
    targets = [f"telegram:{person}" for person in people]

    ids = site.broadcast(targets, "to all", id="all-of-you")
    again = site.broadcast([*targets, targets[0]], "to all", id="all-of-you")

    assert again == ids
    sent = "SELECT count(*) FROM delivery WHERE state = 'sent' AND source = 'broadcast'"
    wait_until(lambda: site.scalar(sent) == 500, 30, "500 sent")
    received = [m["chat"] for m in site.sandbox.accepted("telegram") if m["text"] == "to all"]
    assert sorted(received) == people
    mirrored = (
        "SELECT count(DISTINCT m.session_key) FROM message m JOIN delivery d "
        "ON d.id = m.delivery_id WHERE d.source = 'broadcast' AND m.content = 'to all'"
    )
    assert site.scalar(mirrored) == 500
