"""What a real worker makes of blocked users, kicked bots and groups that moved."""

from collections.abc import Iterator
from itertools import count

import pytest

from tests.waiting import wait_until
from tests.workers import DATABASES, Site, running_site
from worker.sessions import SessionManager

_chats = count(3_000_001)


@pytest.fixture(scope="module", params=DATABASES)
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    with running_site(request, request.param) as site, site.worker(), site.scheduler():
        yield site


@pytest.fixture(autouse=True)
def _no_fault_is_left(site: Site) -> Iterator[None]:
    yield
    site.sandbox.no_faults()


def pass_an_hour(site: Site) -> None:
    site.execute("UPDATE dead_target SET probe_ms = 1")


def blocked(site: Site, platform: str = "telegram") -> str:
    """Give the target of a chat that has just blocked the bot."""
    chat = str(next(_chats))
    site.sandbox.fault(platform, chat, "blocked")
    site.reaches(site.enqueue(f"{platform}:{chat}", "first"), "failed")
    return f"{platform}:{chat}"


def asked(site: Site, platform: str = "telegram") -> int:
    """Give how many requests a platform has answered."""
    return sum(site.sandbox.answers(platform).values())


@pytest.mark.parametrize(("platform", "fault"), [("telegram", "kicked"), ("discord", "blocked")])
def test_a_chat_that_is_gone_is_asked_once_and_the_rest_is_suppressed_with_the_reason(
    site: Site, platform: str, fault: str
) -> None:
    chat = str(next(_chats))
    site.sandbox.fault(platform, chat, fault)
    first = site.reaches(site.enqueue(f"{platform}:{chat}", "first"), "failed")
    before = asked(site, platform)
    for text in ("second", "third"):
        row = site.reaches(site.enqueue(f"{platform}:{chat}", text), "suppressed")
        assert row.error_kind == first.error_kind
        assert row.error_text.startswith(f"{platform}:{chat} is noted as ")
        assert row.error_text.endswith(f"UTC: {first.error_text}")
        assert (row.attempts_used, site.attempts(row.id)) == (0, [])
    assert asked(site, platform) == before


def test_a_discord_thread_that_is_closed_leaves_its_channel_alive(site: Site) -> None:
    chat, thread = str(next(_chats)), str(next(_chats))
    # To Discord the thread is a channel of its own.
    site.sandbox.fault("discord", thread, "kicked")
    site.reaches(site.enqueue(f"discord:{chat}#{thread}", "first"), "failed")
    site.reaches(site.enqueue(f"discord:{chat}#{thread}", "second"), "suppressed")
    site.reaches(site.enqueue(f"discord:{chat}", "to the channel"), "sent")


def test_after_an_hour_one_delivery_tries_and_a_success_brings_the_chat_back(site: Site) -> None:
    target = blocked(site)
    pass_an_hour(site)
    before = asked(site)
    site.reaches(site.enqueue(target, "a try"), "failed")
    site.reaches(site.enqueue(target, "not again"), "suppressed")
    assert asked(site) == before + 1

    site.sandbox.no_faults()
    site.reaches(site.enqueue(target, "still within the hour"), "suppressed")
    pass_an_hour(site)
    for text in ("welcome back", "and on"):
        site.reaches(site.enqueue(target, text), "sent")
    assert asked(site) == before + 3


def test_a_try_that_meets_a_limit_is_repeated_and_not_suppressed(site: Site) -> None:
    target = blocked(site)
    pass_an_hour(site)
    site.sandbox.no_faults()
    site.sandbox.fault("telegram", target.partition(":")[2], "429", times=1, retry_after=1)
    site.reaches(site.enqueue(target, "welcome back"), "sent")
    site.reaches(site.enqueue(target, "and on"), "sent")


def test_what_a_person_writes_brings_the_chat_back_at_once(site: Site) -> None:
    target = blocked(site)
    site.sandbox.no_faults()
    chat = target.partition(":")[2]
    sessions = SessionManager(site.engine, resolver=site.resolver)
    sessions.record("telegram", chat, "assistant", "is anybody there?", chat=chat)
    site.reaches(site.enqueue(target, "not yet"), "suppressed")
    sessions.record("telegram", chat, "user", "/start", chat=chat)
    site.reaches(site.enqueue(target, "hello again"), "sent")


def test_a_person_whose_best_chat_is_dead_is_reached_by_the_next_route(site: Site) -> None:
    target, elsewhere = blocked(site), str(next(_chats))
    site.resolver.link("telegram", target.partition(":")[2], "ruth")
    lonely = site.reaches(site.enqueue("user:ruth", "only one route"), "suppressed")
    assert lonely.error_text.startswith(f"{target} is noted as gone since ")
    site.resolver.link("discord", elsewhere, "ruth")
    row = site.reaches(site.enqueue("user:ruth", "the other route"), "sent")
    assert row.platform == "discord"


def test_a_group_that_moved_is_written_to_at_its_new_id_and_everything_follows(
    site: Site,
) -> None:
    old, new = f"-{next(_chats)}", f"-100{next(_chats)}"
    site.resolver.link("telegram", old, "book-club")
    site.execute(
        "INSERT INTO schedule (id, name, spec, message) VALUES (:old, :old, :spec, :message)",
        old=old,
        spec='{"cron": "0 9 1 1 *", "tz": "UTC"}',
        message=f'{{"to": "telegram:{old}#7", "text": "happy new year"}}',
    )
    site.sandbox.fault("telegram", old, "migrated", to=new)
    first = site.reaches(site.enqueue(f"telegram:{old}", "before"), "sent")
    assert [a.outcome for a in site.attempts(first.id)] == ["target_moved", "sent"]
    before = asked(site)
    second = site.reaches(site.enqueue(f"telegram:{old}", "after"), "sent")
    assert asked(site) == before + 1
    assert (first.chat_id, second.chat_id) == (new, new)
    assert site.sandbox.texts("telegram", new) == ["before", "after"]

    wait_until(lambda: site.resolver.resolve("telegram", new) == "book-club", 20)
    to = "SELECT CAST(message AS TEXT) FROM schedule WHERE id = :old"
    wait_until(lambda: f"telegram:{new}#7" in site.scalar(to, old=old), 20)
    site.reaches(site.enqueue(f"telegram:{new}", "by the new id"), "sent")
    said = [message.content for message in site.messages("book-club")]
    assert said == ["before", "after", "by the new id"]
