"""What was sent is edited and taken back by a real worker, in the chat and in the history."""

from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import Any

import pytest
from sqlalchemy import Engine

import scheduler.amend
from scheduler.amend import Amendment
from scheduler.broadcasts import amend as broadcasts
from scheduler.explain import explain_stored
from tests.command_line import CommandLine
from tests.workers import DATABASES, Site, running_site
from worker.actions import Action
from worker.due import mark_unpublished
from worker.errors import Refused
from worker.sessions.amend import RETRACTED

_chats = count(5_000_001)


@pytest.fixture(scope="module", params=DATABASES)
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    with running_site(request, request.param) as site, site.worker(), site.scheduler():
        yield site


@pytest.fixture(autouse=True)
def relayed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave it to the site's scheduler to publish: this process has no broker."""

    def publish(engine: Engine, made: Sequence[Amendment]) -> None:
        with engine.begin() as connection:
            mark_unpublished(connection, [each.id for each in made])

    monkeypatch.setattr(scheduler.amend, "publish", publish)
    monkeypatch.setattr(broadcasts, "publish", publish)


@pytest.fixture
def cli(site: Site) -> CommandLine:
    return CommandLine(site.cwd, dict(site.env))


def edit(site: Site, id_: str, words: str) -> str:
    return scheduler.amend.edit(site.engine, id_, words).id


def retract(site: Site, id_: str) -> str:
    return scheduler.amend.retract(site.engine, id_).id


def refused(action: Callable[..., str], *arguments: Any) -> str:
    with pytest.raises(Refused) as error:
        action(*arguments)
    return str(error.value)


def explained(site: Site, id_: str) -> str:
    return "\n".join(explain_stored(site.engine, site.delivery(id_)))


def chat_on(platform: str) -> str:
    return f"{'C' if platform == 'slack' else ''}{next(_chats)}"


@pytest.mark.parametrize("platform", ["telegram", "discord", "slack"])
def test_a_message_is_edited_then_taken_back_and_the_history_says_so(
    site: Site, platform: str
) -> None:
    chat, person = chat_on(platform), f"alice-{platform}"
    site.resolver.link(platform, chat, person)
    first = site.enqueue(f"{platform}:{chat}", "It is at nine", metadata={"meeting": 7})
    sent = site.reaches(first, "sent")

    edited = site.reaches(edit(site, first, "It is at ten"), "sent")

    (there,) = site.sandbox.accepted(platform, chat)
    assert (there["text"], there["edited"], there["deleted"]) == ("It is at ten", True, False)
    assert (edited.receipt, edited.mirror, edited.lane) == (sent.receipt, "done", sent.lane)
    (said,) = site.messages(person)
    assert (said.content, said.delivery_id) == ("It is at ten", first)
    assert said.entry() | {"edited": True, "meeting": 7} == said.entry()

    taken = site.reaches(retract(site, first), "sent")

    (there,) = site.sandbox.accepted(platform, chat)
    assert there["deleted"]
    (said,) = site.messages(person)
    assert said.content == RETRACTED
    assert said.entry()["retracted"] is True
    assert (taken.mirror, taken.maybe_duplicate, taken.attempts_used) == ("done", False, 1)

    told = explained(site, taken.id)
    assert f"takes back what delivery {first}" in told
    told = explained(site, first)
    assert f"edited by delivery {edited.id}: sent" in told
    assert f"taken back by delivery {taken.id}: sent" in told


def test_a_direct_message_to_a_person_is_changed_where_it_went(site: Site) -> None:
    for platform, account in (("discord", "6000001"), ("slack", "U6000001")):
        site.resolver.link(platform, account, f"direct-{platform}")
        first = site.enqueue(f"user:direct-{platform}", "first")
        site.reaches(first, "sent")
        site.reaches(edit(site, first, "second"), "sent")
        assert site.sandbox.texts(platform, account) == ["second"]
        assert [m.content for m in site.messages(f"direct-{platform}")] == ["second"]


def test_of_a_message_in_parts_each_is_changed_and_what_is_left_over_goes(site: Site) -> None:
    chat = chat_on("telegram")
    long = "\n\n".join("word " * 700 for _ in range(3))
    first = site.enqueue(f"telegram:{chat}", long)
    assert len(site.reaches(first, "sent").receipt or ()) == 3

    edited = site.reaches(edit(site, first, "short"), "sent")

    there = site.sandbox.accepted("telegram", chat)
    assert [(m["text"] == "short", m["deleted"]) for m in there] == [
        (True, False),
        (False, True),
        (False, True),
    ]
    assert [a.part for a in site.attempts(edited.id)] == [0, 1, 2]

    site.reaches(retract(site, first), "sent")
    assert all(m["deleted"] for m in site.sandbox.accepted("telegram", chat))


def test_two_edits_leave_in_order_although_the_first_has_to_be_tried_again(site: Site) -> None:
    for lane in ("reply", "broadcast"):
        chat = chat_on("telegram")
        first = site.enqueue(f"telegram:{chat}", "one", lane=lane)
        site.reaches(first, "sent")
        site.sandbox.fault("telegram", chat, "500", times=1)
        second = edit(site, first, "two")
        third = edit(site, first, "three")
        site.reaches(third, "sent")
        assert site.delivery(second).state == "sent"
        assert site.sandbox.texts("telegram", chat) == ["three"]


def test_an_edit_whose_answer_was_lost_is_made_again_and_is_no_duplicate(site: Site) -> None:
    chat = chat_on("telegram")
    first = site.enqueue(f"telegram:{chat}", "one", policy="hold")
    site.reaches(first, "sent")
    site.sandbox.fault("telegram", chat, "drop", times=1)
    edited = site.reaches(edit(site, first, "two"), "sent")
    site.sandbox.fault("telegram", chat, "drop", times=1)
    taken = site.reaches(retract(site, first), "sent")
    for row in (edited, taken):
        assert (row.maybe_duplicate, row.doubt_ms, row.attempts_used) == (False, None, 2)
    assert site.sandbox.accepted("telegram", chat)[0]["deleted"]


def test_a_refused_change_ends_with_the_platforms_words_and_the_chat_stays_open(site: Site) -> None:
    chat = chat_on("discord")
    first = site.enqueue(f"discord:{chat}", "one")
    site.reaches(first, "sent")
    site.sandbox.fault("discord", chat, "kicked", times=1)
    failed = site.reaches(retract(site, first), "failed")
    assert failed.error_text == "Missing Access"
    (said,) = site.messages(f"discord:{chat}")
    assert said.content == "one"
    site.reaches(site.enqueue(f"discord:{chat}", "two"), "sent")
    # In vain, so the message is still there to be changed.
    site.reaches(edit(site, first, "three"), "sent")
    assert site.sandbox.texts("discord", chat) == ["three", "two"]


def test_a_limit_is_waited_for_and_costs_no_attempt(site: Site) -> None:
    chat = chat_on("slack")
    first = site.enqueue(f"slack:{chat}", "one")
    site.reaches(first, "sent")
    site.sandbox.fault("slack", chat, "429", times=1, retry_after=1)
    edited = site.reaches(edit(site, first, "two"), "sent")
    assert edited.attempts_used == 1
    assert [a.outcome for a in site.attempts(edited.id)] == ["rate_limited", "sent"]


def test_what_cannot_be_changed_is_refused_with_the_reason(site: Site) -> None:
    chat = chat_on("telegram")
    later = site.enqueue(f"telegram:{chat}", "later", at="2999-01-01T00:00:00+00:00")
    assert "it is scheduled" in refused(retract, site, later)
    printed = site.enqueue("console:amend", "hello")
    site.reaches(printed, "sent")
    assert "console cannot retract" in refused(retract, site, printed)
    assert "console cannot edit" in refused(edit, site, printed, "x")
    first = site.enqueue(f"telegram:{chat}", "one")
    site.reaches(first, "sent")
    too_long = refused(edit, site, first, "x" * 5_000)
    assert "must fit into the 1 message of at most 4096" in too_long
    assert "text is empty" in refused(edit, site, first, " ")
    taken = retract(site, first)
    assert "amendment itself" in refused(retract, site, taken)
    assert "taken back" in refused(edit, site, first, "two")
    assert "no delivery has the id" in refused(edit, site, "fff", "two")


def test_a_broadcast_is_edited_and_taken_back_from_everybody_who_got_it(
    site: Site, cli: CommandLine
) -> None:
    chats = [chat_on("telegram") for _ in range(20)]
    ids = site.broadcast([f"telegram:{c}" for c in chats], "news", id="all")
    printed = site.enqueue("console:all", "news", lane="broadcast")
    for id_ in [*ids, printed]:
        site.reaches(id_, "sent")
        site.execute("UPDATE delivery SET broadcast_id = 'b1' WHERE id = :id", id=id_)
    site.execute(
        "INSERT INTO broadcast (id, name, state, audience, body, templated, topic, source, silent, "
        "tenant, created_ms, canary_then, recipients, fanned_out) VALUES ('b1', 'all', 'running', "
        "'a', 'news', false, '', '', false, '', 0, 'wait', 21, 21)"
    )
    with pytest.raises(Refused, match="is running"):
        broadcasts.find_broadcast(site.engine, "all")
    with pytest.raises(Refused, match="no broadcast"):
        broadcasts.find_broadcast(site.engine, "nobody")
    site.execute("UPDATE broadcast SET state = 'done' WHERE id = 'b1'")

    edited = broadcasts.amend_broadcast(site.engine, "b1", Action.EDIT, "better news")
    assert edited.made == 20
    assert edited.refused == {"console cannot edit what was sent": 1}
    again = cli("broadcast", "edit", "all", "--text", "better news", "--json").json()
    assert (again["made"], again["there_before"]) == (0, 20)

    assert "say --yes" in cli("broadcast", "retract", "all").refusal()
    assert cli("broadcast", "retract", "all", "--yes", "--json").json()["made"] == 20
    query = "SELECT id FROM delivery WHERE action = 'retract' AND refers_to = :id"
    for id_, chat in zip(ids, chats, strict=True):
        site.reaches(site.scalar(query, id=id_), "sent")
        (there,) = site.sandbox.accepted("telegram", chat)
        assert (there["text"], there["deleted"]) == ("better news", True)


def test_the_command_line_prints_the_amendments_id_and_says_when_it_was_there(
    site: Site, cli: CommandLine
) -> None:
    first = site.enqueue(f"telegram:{chat_on('telegram')}", "one")
    site.reaches(first, "sent")
    edited = cli("deliveries", "edit", first, "two").out.strip()
    shown = site.delivery(edited)
    assert (shown.action, shown.refers_to) == ("edit", first)
    said = cli("deliveries", "edit", first, "two")
    assert said.out.strip() == edited
    assert "asked for before" in said.err
    taken = cli("deliveries", "retract", first, "--json").json()
    assert (taken["status"], taken["created"]) == ("queued", True)
