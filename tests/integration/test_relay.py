"""The relay with a real broker: what is due or unpublished reaches the workers' queue."""

import base64
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from sqlalchemy import Engine, text

from tests.servers import RedisServer
from worker import due, outbox
from worker.database import NOW_MS, migrate
from worker.database import engine as open_engine
from worker.intake import check
from worker.lanes import Lane

#: One scheduler's relay, ticked when it is told to; says the next due time that it knows.
RELAY = """
import json, sys
from scheduler.relay import relay
from worker.database import ready
from worker.log import configure_logging
from worker.settings import settings
configure_logging()
engine = ready(settings())
for _ in sys.stdin:
    print(json.dumps(relay(engine)), flush=True)
"""


class Relay:
    """A process of its own with a relay, as each scheduler is."""

    def __init__(self, database_url: str, redis_url: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", RELAY],
            env={**os.environ, "DATABASE_URL": database_url, "REDIS_URL": redis_url},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start_pass(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def next_due(self) -> int | None:
        assert self._process.stdout is not None
        due: int | None = json.loads(self._process.stdout.readline())
        return due

    def tick(self) -> int | None:
        self.start_pass()
        return self.next_due()

    def close(self) -> None:
        self._process.communicate(timeout=30)


@pytest.fixture
def engine(home: Path, database_url: str) -> Iterator[Engine]:
    made = open_engine(database_url)
    migrate(made)
    yield made
    made.dispose()


@pytest.fixture
def relays(engine: Engine, database_url: str, redis_server: RedisServer) -> Iterator[list[Relay]]:
    made = [Relay(database_url, redis_server.url) for _ in range(2)]
    yield made
    for each in made:
        each.close()


def put(engine: Engine, count: int = 1, **fields: object) -> list[str]:
    with engine.begin() as connection:
        new = [check(to=f"console:c{n}", text="x", **fields) for n in range(count)]  # type: ignore[arg-type]
        return [accepted.id for accepted in outbox.insert(connection, new)]


def change(engine: Engine, changes: str) -> None:
    with engine.begin() as connection:
        connection.execute(text(f"UPDATE delivery SET {changes}"))


def states(engine: Engine) -> Counter[tuple[str, bool]]:
    with engine.begin() as connection:
        rows = connection.execute(text("SELECT state, published_ms FROM delivery"))
        return Counter((row.state, row.published_ms > 0) for row in rows)


def tasks(server: RedisServer) -> list[list[str]]:
    """Give the ids of each task that waits at the broker."""
    with redis.Redis.from_url(server.url) as client:
        waiting = [raw for lane in Lane for raw in client.lrange(lane.queue, 0, -1)]
    bodies = [json.loads(base64.b64decode(json.loads(raw)["body"])) for raw in waiting]
    return [args[0] for args, _kwargs, _embedded in bodies]


def told(server: RedisServer) -> list[str]:
    return sorted(id_ for task in tasks(server) for id_ in task)


@pytest.mark.parametrize("state", ["scheduled", "retrying"])
def test_what_is_due_reaches_the_workers_and_what_is_not_stays(
    engine: Engine, relays: list[Relay], redis_server: RedisServer, state: str
) -> None:
    ids = put(engine, 2, at="2100-01-01")
    change(engine, f"state = '{state}'")
    later = 4_102_444_800_000
    assert relays[0].tick() == later
    assert told(redis_server) == []
    with engine.begin() as connection:
        connection.execute(text("UPDATE delivery SET due_ms = 1 WHERE id = :id"), {"id": ids[0]})
    assert relays[0].tick() == later
    assert told(redis_server) == [ids[0]]
    assert states(engine) == {("queued", True): 1, (state, True): 1}


def test_nothing_to_do_knows_no_next_time(engine: Engine, relays: list[Relay]) -> None:
    assert relays[0].tick() is None


def test_a_broadcast_is_told_in_bulk_and_a_reply_alone(
    engine: Engine, relays: list[Relay], redis_server: RedisServer
) -> None:
    put(engine, 600, lane="broadcast")
    replies = put(engine, 2, lane="reply")
    change(engine, "published_ms = 0")
    relays[0].tick()
    sizes = sorted(len(task) for task in tasks(redis_server))
    assert sizes == [1, 1, 100, 500]
    assert [[id_] for id_ in replies] == sorted(t for t in tasks(redis_server) if len(t) == 1)


def test_more_than_one_pass_holds_is_told_in_one_tick(
    engine: Engine, relays: list[Relay], redis_server: RedisServer
) -> None:
    ids = put(engine, 2_500, lane="broadcast")
    change(engine, "published_ms = 0")
    assert relays[0].tick() is None
    assert told(redis_server) == ids


def test_what_was_due_while_the_broker_was_away_is_told_when_it_is_back(
    engine: Engine, relays: list[Relay], redis_server: RedisServer
) -> None:
    ids = put(engine, 3, at="2100-01-01")
    change(engine, "due_ms = 1")
    redis_server.kill()
    assert relays[0].tick() == 0
    assert states(engine) == {("queued", False): 3}
    redis_server.start()
    assert relays[0].tick() is None
    assert states(engine) == {("queued", True): 3}
    assert told(redis_server) == ids


def test_what_is_past_its_time_is_told_to_nobody(
    engine: Engine, relays: list[Relay], redis_server: RedisServer
) -> None:
    put(engine, 2, expires="2100-01-01")
    change(engine, "published_ms = 0, expires_ms = 1")
    relays[0].tick()
    assert states(engine) == {("expired", False): 2}
    assert told(redis_server) == []


def test_two_relays_at_once_tell_each_delivery_once(
    engine: Engine, relays: list[Relay], redis_server: RedisServer
) -> None:
    ids = put(engine, 300, at="2100-01-01")
    for each in relays:
        each.tick()
    change(engine, "due_ms = 1")
    for each in relays:
        each.start_pass()
    for each in relays:
        each.next_due()
    # What one of them skipped because the other held it is in that one's hands.
    assert told(redis_server) == ids
    assert states(engine) == {("queued", True): 300}


def test_what_a_clock_that_ran_ahead_has_noted_waits_for_nothing(engine: Engine) -> None:
    """Two hours ahead, and set back: what the broker lost meanwhile is published again."""
    ahead = f"{NOW_MS[engine.dialect.name]} + 7200000"
    with engine.begin() as connection:
        queued, dead, alive = (
            outbox.insert(connection, [check(to=f"telegram:{n}", text="x")])[0].id
            for n in (1, 2, 3)
        )
        outbox.claim(connection, owner="w", lease_ms=30_000, limit=9, ids=[dead, alive])
        connection.execute(
            text(f"UPDATE delivery SET published_ms = {ahead}, lease_until_ms = {ahead} + 30000"),
        )
        connection.execute(
            text(f"UPDATE delivery SET lease_until_ms = {ahead} - 7180000 WHERE id = :id"),
            {"id": alive},
        )
        assert due.correct_times(connection, lease_ms=30_000) == 2
        assert [row.id for row in due.queue_unpublished(connection)] == [queued]
        left = "SELECT lease_until_ms - " + NOW_MS[engine.dialect.name]
        for id_ in (dead, alive):
            found = connection.execute(text(f"{left} FROM delivery WHERE id = :id"), {"id": id_})
            assert 0 < found.scalar_one() <= 30_000
        assert due.correct_times(connection, lease_ms=30_000) == 0
