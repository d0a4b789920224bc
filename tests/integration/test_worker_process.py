"""The worker as a process: what the queue shows, what a kill and a stop leave, what it loads."""

import base64
import json
import signal
import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
import redis

from tests.waiting import wait_until
from tests.workers import DATABASES, TOKENS, Site, running_site
from worker.lanes import Lane

SECRET = "whsec_" + base64.b64encode(b"a key of thirty-two bytes, good.").decode()


@pytest.fixture(params=DATABASES)
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    with running_site(request, request.param) as site:
        yield site


@pytest.fixture
def small_site(request: pytest.FixtureRequest) -> Iterator[Site]:
    """A site on SQLite, for what the database has no part in."""
    with running_site(request, "sqlite") as site:
        yield site


def tasks_in(site: Site, lane: Lane) -> list[tuple[str, list[str]]]:
    """Give the name and the ids of each task that waits in a lane's queue, oldest first."""
    with redis.Redis.from_url(site.redis_url) as client:
        waiting: list[Any] = client.lrange(lane.queue, 0, -1)
    tasks = []
    for message in reversed(waiting):
        envelope = json.loads(message)
        arguments, _, _ = json.loads(base64.b64decode(envelope["body"]))
        assert len(arguments) == 1
        tasks.append((envelope["headers"]["task"], arguments[0]))
    return tasks


def test_a_reply_is_one_task_with_one_id_and_a_bulk_is_one_task_with_many(
    small_site: Site,
) -> None:
    site = small_site
    replies = [site.enqueue("telegram:1", f"reply {n}") for n in range(3)]
    many = site.broadcast([f"telegram:{n}" for n in range(1, 1101)], "to all", id="b")

    assert tasks_in(site, Lane.REPLY) == [("mirrorpost.send", [id_]) for id_ in replies]
    assert tasks_in(site, Lane.BROADCAST) == [
        ("mirrorpost.send", many[:500]),
        ("mirrorpost.send", many[500:1000]),
        ("mirrorpost.send", many[1000:]),
    ]


def test_a_killed_workers_message_is_taken_up_again_and_is_one_on_discord(site: Site) -> None:
    site.sandbox.fault("discord", "4001", "hang", times=1)
    site.sandbox.fault("telegram", "4002", "hang", times=1)
    site.sandbox.fault("telegram", "4003", "hang", times=1)
    with site.worker() as worker:
        keyed = site.enqueue("discord:4001", "once")
        blind = site.enqueue("telegram:4002", "perhaps twice")
        held = site.enqueue("telegram:4003", "at most once", policy="hold")
        for platform, chat in (("discord", "4001"), ("telegram", "4002"), ("telegram", "4003")):
            wait_until(lambda p=platform, c=chat: site.sandbox.texts(p, c), what="acceptance")
        worker.kill()
    assert {site.delivery(id_).state for id_ in (keyed, blind, held)} == {"sending"}

    with site.scheduler(), site.worker():
        # A lease that has not run out is respected.
        site.reaches(site.enqueue("discord:4009", "meanwhile"), "sent")
        assert {site.delivery(id_).state for id_ in (keyed, blind, held)} == {"sending"}
        for id_ in (keyed, blind, held):
            site.make_due(id_)
        row = site.reaches(keyed, "sent")
        doubtful = site.reaches(blind, "sent")
        unknown = site.reaches(held, "unknown")

    (accepted,) = site.sandbox.accepted("discord", "4001")
    assert (row.receipt, row.maybe_duplicate) == ([accepted["id"]], False)
    assert [a.outcome for a in site.attempts(keyed)] == ["ambiguous", "sent"]
    assert len(site.messages("discord:4001")) == 1
    assert doubtful.maybe_duplicate
    assert site.sandbox.texts("telegram", "4002") == ["perhaps twice"] * 2
    assert unknown.receipt is None
    assert site.sandbox.texts("telegram", "4003") == ["at most once"]


def test_a_worker_that_is_asked_to_stop_finishes_what_is_under_way(small_site: Site) -> None:
    site = small_site
    site.sandbox.fault("slack", "C1", "slow", seconds=2)
    with site.worker() as worker:
        ids = [site.enqueue("slack:C1", f"slowly {n}") for n in range(3)]
        for id_ in ids:
            site.reaches(id_, "sending")
        asked = time.monotonic()
        worker.end()
        took_s = time.monotonic() - asked

    assert took_s < 10
    assert worker.process.returncode == 0
    sent = {id_ for id_ in ids if site.delivery(id_).state == "sent"}
    assert ids[0] in sent
    # What was claimed and not begun, if there was any, is given back.
    assert {site.delivery(id_).state for id_ in ids if id_ not in sent} <= {"queued"}
    assert len(site.sandbox.texts("slack", "C1")) == len(sent)


def test_a_worker_that_is_asked_to_stop_gives_back_what_it_has_not_begun(site: Site) -> None:
    site.sandbox.fault("telegram", None, "hang")
    targets = [f"telegram:{5_000_000 + n}" for n in range(400)]
    with site.worker() as worker:
        ids = site.broadcast(targets, "to all", id="b")
        sending = "SELECT count(*) FROM delivery WHERE state = 'sending'"
        wait_until(lambda: len(site.sandbox.accepted("telegram")) >= 64, what="full hands")
        assert site.scalar(sending) > 64
        asked = time.monotonic()
        worker.end()
        took_s = time.monotonic() - asked

    assert took_s < 10
    begun = {f"telegram:{m['chat']}" for m in site.sandbox.accepted("telegram")}
    for id_ in ids:
        row = site.delivery(id_)
        if row.target in begun:
            assert row.state in {"sending", "retrying"}
            # Never for longer than the lease that it was claimed with.
            assert row.lease_until_ms is None or row.lease_until_ms < (time.time() + 30) * 1000
        else:
            assert (row.state, row.attempts_used) == ("queued", 0)


def test_what_expires_while_no_worker_runs_is_not_sent(small_site: Site) -> None:
    site = small_site
    # The producer's process takes its time to start.
    site.enqueue("telegram:6002", "it runs")
    soon = time.time() + 1
    at = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(soon + 1))
    late = site.enqueue("telegram:6001", "too late", expires=at)
    wait_until(lambda: time.time() > soon + 1.1, what="its end")

    with site.worker():
        site.reaches(late, "expired")
        site.reaches(site.enqueue("telegram:6001", "in time"), "sent")

    assert site.sandbox.texts("telegram", "6001") == ["in time"]
    assert site.attempts(late) == []


def test_what_lacks_a_token_is_held_by_name_and_goes_out_when_it_is_there(site: Site) -> None:
    site.resolver.link("telegram", "6101", "alice")
    with site.worker({"TELEGRAM_BOT_TOKEN": None}):
        direct = site.enqueue("telegram:6100", "when I can")
        person = site.enqueue("user:alice", "when I can")
        second = site.enqueue("telegram@second:6102", "when it can")
        for id_, variable in (
            (direct, "TELEGRAM_BOT_TOKEN"),
            (person, "TELEGRAM_BOT_TOKEN"),
            (second, "TELEGRAM_BOT_TOKEN_SECOND"),
        ):
            row = site.reaches(id_, "held")
            assert (row.error_kind, row.error_text) == ("auth", f"{variable} is not set")
            assert (row.attempts_used, site.attempts(id_)) == (0, [])
        site.reaches(site.enqueue("slack:C6103", "others go on"), "sent")
    assert site.sandbox.answers("telegram") == {}

    with site.scheduler(), site.worker():
        site.reaches(direct, "sent")
        site.reaches(person, "sent")
        assert site.delivery(second).state == "held"

    assert site.sandbox.texts("telegram", "6100") == ["when I can"]
    assert site.sandbox.texts("telegram", "6101") == ["when I can"]


def test_what_a_revoked_token_held_goes_out_with_another_one(small_site: Site) -> None:
    site = small_site
    site.sandbox.fault("slack", None, "revoked")
    with site.worker():
        id_ = site.enqueue("slack:C6200", "with the next token")
        site.reaches(id_, "held")
    site.sandbox.no_faults()

    with site.scheduler():
        with site.worker():
            another = site.enqueue("slack:C6201", "the same token")
            site.reaches(another, "held")
            assert site.attempts(another) == []
            assert site.delivery(id_).state == "held"
        with site.worker({"SLACK_BOT_TOKEN": TOKENS["SLACK_BOT_TOKEN"] + "new"}):
            site.reaches(id_, "sent")
            site.reaches(another, "sent")


def test_the_console_prints_in_the_workers_output(small_site: Site) -> None:
    with small_site.worker() as worker:
        row = small_site.reaches(small_site.enqueue("console:me", "hello there"), "sent")

        worker.has_printed("[me] hello there\n")
        assert row.receipt == [row.id]
        assert [m.content for m in small_site.messages("console:me")] == ["hello there"]


def test_a_worker_sends_no_webhook_to_a_private_address_that_slipped_past_the_door(
    request: pytest.FixtureRequest,
) -> None:
    # Only the producer is allowed to, as with a name that began to lead inside later.
    allowed = {"MIRRORPOST_WEBHOOK_SECRET": SECRET, "MIRRORPOST_WEBHOOK_ALLOW_PRIVATE": "1"}
    with (
        running_site(request, "sqlite", allowed) as site,
        site.worker({"MIRRORPOST_WEBHOOK_ALLOW_PRIVATE": None}),
    ):
        port = site.sandbox.url.rpartition(":")[2]
        for host in ("127.0.0.1", "localhost", "127.1"):
            id_ = site.enqueue(f"webhook:http://{host}:{port}/webhook/inside", "inside?")
            row = site.reaches(id_, "failed")
            assert row.error_kind == "invalid"
            assert row.error_text == "the address is private: name a public host"
        assert site.sandbox.accepted("webhook") == []


def test_a_worker_killed_while_idle_leaves_no_child_behind(small_site: Site) -> None:
    with small_site.worker() as worker:
        children = psutil.Process(worker.process.pid).children(recursive=True)
        assert len(children) >= 2

        worker.process.send_signal(signal.SIGKILL)
        worker.process.wait(timeout=10)

        _, alive = psutil.wait_procs(children, timeout=15)
        assert alive == []
