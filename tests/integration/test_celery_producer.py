"""Producers that know nothing but Celery: `mirrorpost.deliver` by name, in JSON."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import count
from uuid import uuid4

import pytest
from kombu import Connection

from tests.waiting import wait_until
from tests.workers import DATABASES, Site, running_site
from worker.lanes import INTAKE_QUEUE, Lane

_chats = count(3_000_001)
#: A whole producer: it has Celery and imports nothing of ours.
_BARE = """
import json, sys
from celery import Celery
app = Celery(broker=sys.argv[1])
for options in json.load(sys.stdin):
    app.send_task("mirrorpost.deliver", queue="mirrorpost", **options)
assert not {"worker", "scheduler", "resolvers"} & set(sys.modules)
"""


@pytest.fixture(scope="module")
def broker_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each broker that is there, for the whole module."""
    if request.param == "redis":
        yield request.getfixturevalue("redis_server_url")
        return
    url = os.environ["TEST_AMQP_URL"]
    delete_queues(url)
    yield url
    delete_queues(url)


@pytest.fixture(scope="module", params=DATABASES)
def site(request: pytest.FixtureRequest, broker_url: str) -> Iterator[Site]:
    variables = {"CELERY_BROKER_URL": broker_url} if broker_url.startswith("amqp") else {}
    with (
        running_site(request, request.param, variables) as site,
        site.worker(),
        site.scheduler(),
    ):
        yield site


def delete_queues(url: str) -> None:
    with Connection(url) as connection, connection.channel() as channel:
        for queue in (INTAKE_QUEUE, *(lane.queue for lane in Lane)):
            channel.queue_delete(queue)


def send(broker: str, *messages: dict[str, object]) -> list[str]:
    """Send tasks from a bare producer; give their ids."""
    named = [{"task_id": str(uuid4()), **message} for message in messages]
    subprocess.run(
        [sys.executable, "-c", _BARE, broker],
        input=json.dumps(named),
        text=True,
        timeout=60,
        check=True,
    )
    return [str(message["task_id"]) for message in named]


def chat() -> str:
    return f"telegram:{next(_chats)}"


def number(target: str) -> str:
    return target.partition(":")[2]


def refused(site: Site, task_id: str) -> str:
    """Wait until a task is in the list of the refused; give the reason."""
    (row,) = wait_until(lambda: site.rejected(task_id), what="a refusal")
    assert site.by_key(f"task:{task_id}") is None
    return row.reason


def test_a_bare_celery_app_reaches_a_person_by_every_field(site: Site, broker_url: str) -> None:
    to, key = f"telegram:-100{next(_chats)}", f"occasion-{next(_chats)}"

    send(
        broker_url,
        {
            "kwargs": {
                "to": to,
                "text": "from elsewhere",
                "key": key,
                "source": "crm",
                "topic": "orders",
                "lane": "reminder",
                "expires": "2199-01-01T00:00:00+00:00",
                "metadata": {"order": 7},
                "thread": "77",
                "reply_to": "12",
                "silent": True,
            }
        },
    )

    row = wait_until(lambda: site.by_key(key), what="the row")
    assert row is not None
    row = site.reaches(row.id, "sent")
    (accepted,) = site.sandbox.accepted("telegram", number(to))
    assert accepted["text"] == "from elsewhere"
    assert (accepted["thread"], accepted["reply_to"], accepted["silent"]) == ("77", "12", True)
    assert (row.lane, row.source, row.topic) == ("reminder", "crm", "orders")
    (mirror,) = site.messages(to)
    assert mirror.entry()["order"] == 7
    assert mirror.mirror_source == "crm"


def test_a_message_that_waited_past_its_time_is_late_and_not_refused(
    site: Site, broker_url: str
) -> None:
    to = chat()
    hour_ago = (datetime.now(UTC) - timedelta(hours=1)).isoformat()

    (task_id,) = send(broker_url, {"kwargs": {"to": to, "text": "late", "at": hour_ago}})

    row = wait_until(lambda: site.by_key(f"task:{task_id}"), what="the row")
    assert row is not None
    site.reaches(row.id, "sent")
    assert site.sandbox.texts("telegram", number(to)) == ["late"]


def test_a_message_that_the_broker_gives_out_twice_is_one_delivery(
    site: Site, broker_url: str
) -> None:
    to, task_id = chat(), str(uuid4())
    twice = {"task_id": task_id, "kwargs": {"to": to, "text": "once"}}

    send(broker_url, twice, twice, {"kwargs": {"to": to, "text": "the last"}})

    wait_until(lambda: "the last" in site.sandbox.texts("telegram", number(to)))
    delivery = wait_until(lambda: site.by_key(f"task:{task_id}"), what="the row")
    assert delivery is not None
    site.reaches(delivery.id, "sent")
    rows = "SELECT count(*) FROM delivery WHERE target = :to"
    assert site.scalar(rows, to=to) == 2
    assert sorted(site.sandbox.texts("telegram", number(to))) == ["once", "the last"]
    assert site.rejected(task_id) == []


def test_a_later_time_waits_in_the_database_and_not_in_the_broker(
    site: Site, broker_url: str
) -> None:
    to = chat()
    at = "2199-01-01T09:00:00+00:00"

    (task_id,) = send(broker_url, {"kwargs": {"to": to, "text": "later", "at": at}})

    row = wait_until(lambda: site.by_key(f"task:{task_id}"), what="the row")
    assert row is not None
    assert row.state == "scheduled"
    site.execute("UPDATE delivery SET due_ms = 1 WHERE id = :id", id=row.id)
    site.reaches(row.id, "sent")


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ({"kwargs": {"to": "telegram:1", "text": "x", "colour": "red"}}, "unknown field colour"),
        ({"kwargs": {"to": "telegram:1", "text": 7}}, "text must be a string, not int"),
        ({"kwargs": {"to": 7, "text": "x"}}, "to must be a string, not int"),
        ({"kwargs": {"to": "telegram:1", "text": "x", "silent": "yes"}}, "silent must be true"),
        ({"kwargs": {"to": "telegram:1", "text": "x", "metadata": [1]}}, "metadata must be"),
        ({"kwargs": {"to": "telegram:1", "text": "x", "lane": "fast"}}, "lane 'fast' is not"),
        ({"kwargs": {"to": "telegram:1", "text": "x", "at": "soon"}}, "at 'soon' is not a time"),
        ({"kwargs": {"to": "telegram:1", "text": "x", "key": 7}}, "key must be a string"),
        ({"kwargs": {"to": "pigeon:1", "text": "x"}}, "unknown platform 'pigeon'"),
        ({"kwargs": {"to": "telegram:alice", "text": "x"}}, "a Telegram chat is a whole number"),
        ({"kwargs": {"to": "telegram:1"}}, "text must be given"),
        ({"kwargs": {}}, "text and to must be given"),
        ({"kwargs": {"to": "telegram:1", "text": " "}}, "text is empty"),
        ({"args": ["telegram:1", "x"]}, "arguments must be named"),
        ({"kwargs": {"to": "telegram:1", "text": "x\0y", "colour": "\0"}}, "unknown field"),
    ],
)
def test_bad_input_is_put_aside_with_its_reason(
    site: Site, broker_url: str, message: dict[str, object], reason: str
) -> None:
    (task_id,) = send(broker_url, message)

    assert reason in refused(site, task_id)
    assert site.sandbox.texts("telegram", "1") == []


def test_a_key_with_another_body_is_put_aside_and_the_first_stands(
    site: Site, broker_url: str
) -> None:
    to, key = chat(), f"occasion-{next(_chats)}"

    send(broker_url, {"kwargs": {"to": to, "text": "first", "key": key}})
    wait_until(lambda: site.by_key(key), what="the first")
    (second,) = send(broker_url, {"kwargs": {"to": to, "text": "other", "key": key}})

    assert "was used before for another body" in refused(site, second)
    wait_until(lambda: site.sandbox.texts("telegram", number(to)) == ["first"])


def test_what_is_pickled_is_refused_unread_and_the_worker_goes_on(
    site: Site, broker_url: str
) -> None:
    secretly, after = chat(), chat()
    log = next(site.folder.glob("worker-*.log"))

    send(
        broker_url,
        {"serializer": "pickle", "kwargs": {"to": secretly, "text": "pickled"}},
        {"kwargs": {"to": after, "text": "after the pickle"}},
    )

    wait_until(lambda: site.sandbox.texts("telegram", number(after)) == ["after the pickle"])
    assert site.scalar("SELECT count(*) FROM delivery WHERE target = :to", to=secretly) == 0
    wait_until(lambda: "Refusing to deserialize" in log.read_text(), what="the refusal")


@pytest.mark.parametrize("lane", list(Lane))
def test_every_lane_is_worked_on(site: Site, lane: Lane) -> None:
    to = chat()

    id_ = site.enqueue(to, f"by {lane}", lane=lane.value)

    site.reaches(id_, "sent", within_s=5)
    assert site.sandbox.texts("telegram", number(to)) == [f"by {lane}"]
