"""The producer: with the caller's transaction or not at all, broker or no broker."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, event, text
from sqlmodel import Session

from scheduler import broadcast, enqueue, producer
from scheduler.publish import _app
from tests.servers import free_port
from worker.database import engine as open_engine
from worker.database import migrate
from worker.errors import KeyConflict, Refused
from worker.outbox import Accepted
from worker.settings import settings


def forget() -> None:
    settings.cache_clear()
    _app.cache_clear()
    if producer._engine.cache_info().currsize:
        producer._engine().dispose()
    producer._engine.cache_clear()


@pytest.fixture
def engine(home: Path, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    monkeypatch.setenv("DATABASE_URL", database_url)
    forget()
    made = open_engine(database_url)
    migrate(made)
    yield made
    made.dispose()
    forget()


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What workers were told of; that they really are told is shown by test_celery_producer."""
    ids: list[str] = []

    def publish(_engine: Engine, accepted: list[Accepted]) -> int:
        ids.extend(each.id for each in accepted)
        return len(accepted)

    monkeypatch.setattr(producer, "publish", publish)
    return ids


def stored(engine: Engine) -> set[str]:
    with engine.begin() as connection:
        return set(connection.execute(text("SELECT id FROM delivery")).scalars())


def test_what_is_committed_is_published_and_what_is_due_later_is_not(
    engine: Engine, told: list[str]
) -> None:
    now = enqueue(to="console:me", text="now")
    later = enqueue(to="console:me", text="later", at="2100-01-01")
    assert (now.due_now, later.due_now) == (True, False)
    assert stored(engine) == {now.id, later.id}
    assert told == [now.id]


def test_the_same_key_twice_is_published_once(engine: Engine, told: list[str]) -> None:
    first = enqueue(to="console:me", text="once", key="k")
    again = enqueue(to="console:me", text="once", key="k")
    assert (first.created, again.created) == (True, False)
    assert first.id == again.id
    assert told == [first.id]


def test_a_savepoint_that_is_released_publishes_nothing_yet(
    engine: Engine, told: list[str]
) -> None:
    with Session(engine) as session:
        outer = enqueue(to="console:me", text="outer", session=session)
        with session.begin_nested():
            inner = enqueue(to="console:me", text="inner", session=session)
        # A worker that is told now finds no row, and is not told again for seconds.
        assert told == []
        session.commit()
    assert told == [outer.id, inner.id]


def test_a_transaction_that_rolls_back_after_a_released_savepoint_publishes_nothing(
    engine: Engine, told: list[str]
) -> None:
    with Session(engine) as session:
        with session.begin_nested():
            enqueue(to="console:me", text="inner", session=session)
        session.rollback()
        session.commit()
    assert told == []
    assert stored(engine) == set()


def test_a_caller_s_own_listeners_go_on_working(engine: Engine, told: list[str]) -> None:
    heard: list[str] = []
    with Session(engine) as session:
        event.listen(session, "after_commit", lambda _session: heard.append("before"))
        kept = enqueue(to="console:me", text="x", session=session)
        event.listen(session, "after_commit", lambda _session: heard.append("after"))
        session.commit()
    assert heard == ["before", "after"]
    assert told == [kept.id]


def test_a_session_that_is_closed_without_a_commit_leaves_nothing(
    engine: Engine, told: list[str]
) -> None:
    with Session(engine) as session:
        enqueue(to="console:me", text="x", session=session)
    with Session(engine) as session:
        session.commit()
    assert stored(engine) == set()
    assert told == []


def test_a_conflict_leaves_the_caller_s_transaction_to_the_caller(
    engine: Engine, told: list[str]
) -> None:
    enqueue(to="console:me", text="one", key="k")
    with Session(engine) as session:
        mine = enqueue(to="console:me", text="mine", session=session)
        with pytest.raises(KeyConflict):
            enqueue(to="console:me", text="two", key="k", session=session)
        session.commit()
    assert told[1:] == [mine.id]
    assert len(stored(engine)) == 2


def test_bad_input_stores_nothing_and_leaves_the_session_usable(
    engine: Engine, told: list[str]
) -> None:
    with Session(engine) as session:
        with pytest.raises(Refused):
            enqueue(to="console:me", text="", session=session)
        session.commit()
    assert stored(engine) == set()
    assert told == []


def test_a_broker_that_is_down_costs_little_time_and_no_delivery(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", f"redis://127.0.0.1:{free_port()}/0")
    script_began = time.monotonic()
    forget()
    accepted = enqueue(to="console:me", text="x")
    with Session(engine) as session:
        joined = enqueue(to="console:me", text="y", session=session)
        session.commit()
    assert time.monotonic() - script_began < 10
    with engine.begin() as connection:
        rows = connection.execute(text("SELECT id, state, published_ms FROM delivery")).all()
    assert {tuple(row) for row in rows} == {
        (accepted.id, "queued", 0),
        (joined.id, "queued", 0),
    }


def test_a_broadcast_again_reaches_only_those_that_it_did_not(
    engine: Engine, told: list[str]
) -> None:
    first = broadcast(to=["console:a", "console:b", "console:a"], text="Hello", id="b1")
    assert len(first) == 2
    again = broadcast(to=["console:a", "console:b", "console:c"], text="Hello", id="b1")
    assert [each.created for each in again] == [False, False, True]
    other = broadcast(to=["console:a"], text="Hello", id="b2")
    assert told == [*(each.id for each in first), again[2].id, other[0].id]


def test_a_broadcast_with_one_bad_target_stores_nothing(engine: Engine, told: list[str]) -> None:
    with pytest.raises(Refused, match="unknown platform"):
        broadcast(to=["console:a", "pigeon:7"], text="Hello", id="b1")
    assert stored(engine) == set()
