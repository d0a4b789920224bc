"""When a worker counts as deaf."""

from pathlib import Path

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from scheduler.pulse import Pulse, ping_queue


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class Broker:
    def __init__(self) -> None:
        self.is_away = False

    def ping(self) -> None:
        if self.is_away:
            raise RedisConnectionError("away")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def broker() -> Broker:
    return Broker()


@pytest.fixture
def beat(tmp_path: Path) -> Path:
    return tmp_path / "worker.heartbeat"


@pytest.fixture
def pulse(beat: Path, clock: Clock, broker: Broker) -> Pulse:
    return Pulse(beat, every_s=15, ping=broker.ping, clock=clock)


def test_a_worker_that_was_never_pinged_is_not_deaf(pulse: Pulse, clock: Clock) -> None:
    clock.now_s += 1000

    assert pulse.unanswered_s(0) == 0


def test_silence_is_counted_from_the_first_ping_that_was_not_answered(
    pulse: Pulse, clock: Clock
) -> None:
    pulse.ping()
    clock.now_s += 15
    pulse.ping()
    clock.now_s += 15

    assert pulse.unanswered_s(0) == 30


def test_a_beat_ends_the_silence(pulse: Pulse, clock: Clock, beat: Path) -> None:
    pulse.ping()
    clock.now_s += 15
    beat.write_text("1 2.0\n")

    assert pulse.unanswered_s(0) == 0
    clock.now_s += 15
    pulse.ping()
    clock.now_s += 7
    assert pulse.unanswered_s(0) == 7


def test_a_beat_of_an_earlier_run_is_no_answer(clock: Clock, broker: Broker, beat: Path) -> None:
    beat.write_text("1 2.0\n")
    pulse = Pulse(beat, every_s=15, ping=broker.ping, clock=clock)
    pulse.ping()
    clock.now_s += 15

    assert pulse.unanswered_s(0) == 15


def test_a_broker_that_is_away_is_not_held_against_the_worker(
    pulse: Pulse, clock: Clock, broker: Broker
) -> None:
    pulse.ping()
    broker.is_away = True
    clock.now_s += 15
    pulse.ping()
    clock.now_s += 1000

    assert pulse.unanswered_s(0) == 0
    broker.is_away = False
    pulse.ping()
    clock.now_s += 5
    assert pulse.unanswered_s(0) == 5


def test_a_worker_is_not_blamed_for_what_was_before_it_started(pulse: Pulse, clock: Clock) -> None:
    pulse.ping()
    clock.now_s += 1000

    assert pulse.unanswered_s(since_s=clock.now_s - 3) == 3


def test_two_homes_never_answer_for_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    class Home:
        data_dir = Path("/a")

    home = Home()
    monkeypatch.setattr("scheduler.pulse.settings", lambda: home)
    first = ping_queue()
    home.data_dir = Path("/b")

    assert ping_queue() != first
