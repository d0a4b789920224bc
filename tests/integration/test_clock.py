"""The clock as a process, and what it does when a pass fails."""

import json
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta, tzinfo
from itertools import pairwise
from pathlib import Path

import pytest
import redis
from sqlalchemy import Engine, text
from structlog.testing import capture_logs

from scheduler.clock import Clock, DatabaseClock, Pass, firing
from scheduler.schedules import add
from tests.processes import end, kill, spawn
from tests.waiting import wait_until
from worker.database import engine as open_engine
from worker.database import migrate, now_ms, reading
from worker.outbox import Accepted

TO_ME = {"to": "console:me", "text": "tick"}


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    made = open_engine(database_url)
    migrate(made)
    yield made
    made.dispose()


@pytest.fixture(autouse=True)
def published(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Keep ids from the broker of whoever runs the tests, which a process finds only once.

    Publishing for real is shown by the scheduler processes of test_clock.py.
    """
    ids: list[str] = []

    def publish(_engine: Engine, accepted: Sequence[Accepted]) -> int:
        ids.extend(each.id for each in accepted)
        return len(accepted)

    monkeypatch.setattr("scheduler.fire.publish", publish)
    return ids


Start = Callable[[], "subprocess.Popen[bytes]"]


@pytest.fixture
def start(database_url: str, redis_url: str, tmp_path: Path) -> Iterator[Start]:
    """Start scheduler processes on the test's database and Redis."""
    started: list[subprocess.Popen[bytes]] = []

    def one() -> "subprocess.Popen[bytes]":
        process = spawn(
            [sys.executable, "-m", "scheduler"],
            log=tmp_path / "clock.log",
            env=os.environ
            | {
                "DATABASE_URL": database_url,
                "REDIS_URL": redis_url,
                "MIRRORPOST_HOME": str(tmp_path / "home"),
            },
            cwd=tmp_path,
        )
        started.append(process)
        return process

    yield one
    for process in started:
        if process.poll() is None:
            kill(process)


def fires(engine: Engine, name: str = "%"):
    with reading(engine) as connection:
        return connection.execute(
            text(
                "SELECT f.*, s.name FROM fire f JOIN schedule s ON s.id = f.schedule_id "
                "WHERE s.name LIKE :name ORDER BY fire_ms"
            ),
            {"name": name},
        ).all()


def clock(engine: Engine) -> int:
    with reading(engine) as connection:
        return now_ms(connection)


def insert(engine: Engine, name: str, spec: object) -> None:
    with engine.begin() as connection:
        connection.execute(
            text("INSERT INTO schedule (id, name, spec, message) VALUES (:n, :n, :s, :m)"),
            {"n": name, "s": json.dumps(spec), "m": json.dumps(TO_ME)},
        )


def test_a_scheduler_process_fires_every_second_on_time_and_publishes(
    engine: Engine, start: Start, redis_url: str
) -> None:
    add(engine, "tick", every="1s", **TO_ME)
    start()
    wait_until(lambda: len(fires(engine)) >= 5, 30, "five fires")
    seen = fires(engine)
    # The first may be late by the start of the process.
    lateness = [fire.fired_at_ms - fire.fire_ms for fire in seen[1:]]
    assert 0 <= statistics.median(lateness) < 250
    assert {fire.outcome for fire in seen} == {"fired"}
    with redis.Redis.from_url(redis_url) as broker:
        wait_until(lambda: broker.llen("mirrorpost.cron") >= 5, 10, "five Celery messages")


@pytest.mark.parametrize("ask", [signal.SIGTERM, signal.SIGINT])
def test_a_scheduler_process_stops_within_a_second(
    engine: Engine, start: Start, ask: signal.Signals
) -> None:
    add(engine, "tick", every="1s", **TO_ME)
    process = start()
    wait_until(lambda: fires(engine), 30, "a fire")
    began = time.monotonic()
    assert end(process, with_signal=ask) == 0
    # A second, and as much again for a machine that has other work.
    assert time.monotonic() - began < 2.5


def test_what_another_process_adds_and_changes_is_seen_within_a_second(
    engine: Engine, start: Start
) -> None:
    add(engine, "tick", every="1s", **TO_ME)
    start()
    wait_until(lambda: fires(engine, "tick"), 30, "the clock to run")
    with engine.begin() as connection:
        connection.execute(text("UPDATE schedule SET state = 'paused'"))
    waits = []
    for n in range(5):
        due = clock(engine)
        insert(engine, f"new{n}", {"at_ms": due})
        (fired,) = wait_until(lambda n=n: fires(engine, f"new{n}"), 10, "the new row to fire")
        waits.append(fired.fired_at_ms - due)
    insert(engine, "changed", {"at_ms": clock(engine) + 3_600_000})
    with engine.begin() as connection:
        due = now_ms(connection)
        connection.execute(
            text("UPDATE schedule SET spec = :spec WHERE name = 'changed'"),
            {"spec": json.dumps({"at_ms": due})},
        )
    (fired,) = wait_until(lambda: fires(engine, "changed"), 10, "the changed row to fire")
    waits.append(fired.fired_at_ms - due)
    # The median, because a busy machine may stop any process for a while.
    assert statistics.median(waits) <= 1_000


@pytest.mark.parametrize("schedulers", [2, 5])
def test_several_scheduler_processes_fire_each_second_once(
    engine: Engine, start: Start, schedulers: int
) -> None:
    add(engine, "tick", every="1s", misfire="all", **TO_ME)
    for _ in range(schedulers):
        start()
    wait_until(lambda: len(fires(engine)) >= 6, 60, "six fires")
    seen = [fire.fire_ms for fire in fires(engine)]
    assert seen == list(range(seen[0], seen[0] + 1_000 * len(seen), 1_000))
    with reading(engine) as connection:
        delivered = connection.execute(
            text("SELECT count(*), count(DISTINCT key) FROM delivery")
        ).one()
    assert delivered[0] == delivered[1] == len(fires(engine))


def test_after_a_kill_and_downtime_the_latest_goes_out_once(engine: Engine, start: Start) -> None:
    add(engine, "tick", every="1s", **TO_ME)
    process = start()
    wait_until(lambda: fires(engine), 30, "a fire")
    kill(process)
    last = fires(engine)[-1].fire_ms
    wait_until(lambda: clock(engine) > last + 4_000, 10, "downtime")
    start()
    wait_until(lambda: fires(engine)[-1].fire_ms > last, 30, "a fire after the downtime")
    after = next(fire for fire in fires(engine) if fire.fire_ms > last)
    assert after.missed >= 3
    assert after.missed_since_ms == last + 1_000
    assert after.fire_ms == last + 1_000 * (after.missed + 1)


def test_a_scheduler_without_its_tables_says_which_command_makes_them(
    database_url: str, start: Start, tmp_path: Path
) -> None:
    assert start().wait(30) == 1
    assert "run mirrorpost migrate" in (tmp_path / "clock.log").read_text()


class Running:
    """A clock in a thread of this process."""

    def __init__(self, *passes: Pass) -> None:
        self.clock = Clock(passes)
        self.thread = threading.Thread(target=self.clock.run, kwargs={"stop_on_signals": False})

    def __enter__(self) -> "Running":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.clock.stop()
        self.thread.join(10)
        assert not self.thread.is_alive()


class SteppedClock(datetime):
    """A wall clock that can be set."""

    ahead = timedelta()

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
        return datetime.now(tz) + cls.ahead


@pytest.mark.parametrize("hours", [2, -2])
def test_it_ticks_on_when_the_wall_clock_is_set(
    monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    monkeypatch.setattr("scheduler.clock.datetime", SteppedClock)
    monkeypatch.setattr("apscheduler.schedulers.base.datetime", SteppedClock)
    monkeypatch.setattr(SteppedClock, "ahead", timedelta())
    ticks = 0

    def tick() -> None:
        nonlocal ticks
        ticks += 1

    with Running(Pass("tick", tick)):
        wait_until(lambda: ticks, 5, "the first tick")
        monkeypatch.setattr(SteppedClock, "ahead", timedelta(hours=hours))
        before = ticks
        wait_until(lambda: ticks >= before + 3, 10, "ticks after the clock was set")


def test_a_failing_pass_is_told_once_tried_again_and_stops_no_other() -> None:
    tries = 0
    others = 0

    def fails_at_first() -> float:
        nonlocal tries
        tries += 1
        if tries <= 3:
            raise OSError("no such host")
        return 0.01

    def counts() -> float:
        nonlocal others
        others += 1
        return 0.01

    with (
        capture_logs() as logs,
        Running(Pass("failing", fails_at_first), Pass("counting", counts)),
    ):
        wait_until(lambda: tries >= 5, 10, "the pass to recover")
    told = [(log["event"], log.get("duty")) for log in logs if log.get("duty")]
    assert told == [("pass_failed", "failing"), ("pass_recovered", "failing")]
    assert others >= 5


def test_a_pass_that_fails_now_and_then_is_told_to_have_recovered_when_it_has() -> None:
    tries = 0

    def fails_at_first() -> None:
        nonlocal tries
        tries += 1
        if tries <= 3:
            raise OSError("no such host")

    with (
        capture_logs() as logs,
        # Ticks between its runs, in which it does not fail and did not recover either.
        Running(Pass("failing", fails_at_first, every_s=0.1), Pass("ticking", lambda: 0.01)),
    ):
        wait_until(lambda: tries >= 5, 10, "the pass to recover")
    told = [log["event"] for log in logs if log.get("duty") == "failing"]
    assert told == ["pass_failed", "pass_recovered"]


def test_a_pass_that_is_due_and_not_done_does_not_spin() -> None:
    tries: list[float] = []

    def never_done() -> float:
        tries.append(time.monotonic())
        return -5.0

    with Running(Pass("stuck", never_done)):
        wait_until(lambda: len(tries) >= 5, 10, "five tries")
    assert min(b - a for a, b in pairwise(tries)) > 0.05


def test_a_clock_whose_tables_went_away_goes_on_when_they_are_back(engine: Engine) -> None:
    add(engine, "tick", every="1s", **TO_ME)

    def rename(old: str, new: str) -> None:
        with engine.begin() as connection:
            connection.execute(text(f"ALTER TABLE {old} RENAME TO {new}"))

    with capture_logs() as logs, Running(firing(engine, DatabaseClock())):
        wait_until(lambda: fires(engine), 10, "a fire")
        rename("schedule", "away")
        wait_until(
            lambda: any(log["event"] == "pass_failed" for log in logs), 10, "the failure to be told"
        )
        rename("away", "schedule")
        before = len(fires(engine))
        wait_until(lambda: len(fires(engine)) > before, 10, "a fire after the failure")
