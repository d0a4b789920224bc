import asyncio
import threading
import time
from contextlib import contextmanager

import pytest
import sqlalchemy as sa
import structlog

from resolvers import InMemoryIdentityResolver
from tests.waiting import wait_until
from worker.sessions import (
    MESSAGE,
    SessionManager,
    flush_mirrors,
    mirror_to_session,
    mirror_to_session_async,
)


class ThreeMethods:
    """A manager of somebody else's that keeps whole histories, as files do."""

    def __init__(self):
        self.histories = {}
        self.threads = set()

    def _storage_key(self, user_id):
        return f"key:{user_id}"

    def _load_history(self, user_id):
        return list(self.histories.get(self._storage_key(user_id), []))

    def _save_history(self, user_id, history):
        self.threads.add(threading.get_ident())
        self.histories[self._storage_key(user_id)] = list(history)

    def texts(self, user_id="1"):
        return [entry["content"] for entry in self._load_history(user_id)]


class Slow(ThreeMethods):
    """A disk that takes its time: until the test lets it go on."""

    def __init__(self):
        super().__init__()
        self.go_on = threading.Event()

    def _save_history(self, user_id, history):
        assert self.go_on.wait(10)
        super()._save_history(user_id, history)


class Failing(ThreeMethods):
    def __init__(self, failures=1_000):
        super().__init__()
        self.failures = failures

    def _save_history(self, user_id, history):
        if self.failures:
            self.failures -= 1
            raise OSError("disk full")
        super()._save_history(user_id, history)


@pytest.fixture
def engine(tmp_path):
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'history.db'}")
    MESSAGE.create(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def resolver():
    resolver = InMemoryIdentityResolver()
    resolver.link("telegram", "4711", "alice")
    resolver.link("slack", "U1", "alice")
    return resolver


def texts(history):
    return [entry["content"] for entry in history]


def from_sync(call):
    return call()


def from_a_coroutine(call):
    async def main():
        return call()

    return asyncio.run(main())


def from_a_thread_beside_a_loop(call):
    async def main():
        return await asyncio.to_thread(call)

    return asyncio.run(main())


@pytest.fixture
def _patient_loop(monkeypatch):
    """Let a loop wait for an outcome longer than a busy machine takes to start a thread."""
    monkeypatch.setattr("worker.sessions.carry.LOOP_WAIT_S", 10)


everywhere = pytest.mark.parametrize(
    "run", [from_sync, from_a_coroutine, from_a_thread_beside_a_loop]
)


@everywhere
def test_a_mirror_is_an_entry_like_any_other_with_its_flags(run, engine):
    sessions = SessionManager(engine, platform="telegram")
    assert run(lambda: mirror_to_session(sessions, "1", "take it", "cron", {"job": "j1"})) is True
    (entry,) = sessions._load_history("1")
    assert entry == {
        "role": "assistant",
        "content": "take it",
        "timestamp": entry["timestamp"],
        "mirror": True,
        "mirror_source": "cron",
        "job": "j1",
    }


@everywhere
def test_three_methods_are_enough(run):
    manager = ThreeMethods()
    assert run(lambda: mirror_to_session(manager, "1", "take it")) is True
    assert flush_mirrors(10)
    (entry,) = manager._load_history("1")
    assert (entry["content"], entry["mirror"], entry["mirror_source"]) == (
        "take it",
        True,
        "delivery",
    )


@everywhere
@pytest.mark.parametrize("user_id", ["alice", "4711", "telegram:4711", "slack:U1"])
def test_all_ids_of_a_person_reach_the_one_history(run, user_id, engine, resolver):
    sessions = SessionManager(engine, resolver=resolver, platform="telegram")
    assert run(lambda: mirror_to_session(sessions, user_id, "hi")) is True
    assert texts(sessions.history("alice")) == ["hi"]
    assert texts(sessions._load_history("4711")) == ["hi"]


def test_a_group_chats_mirror_stays_out_of_every_persons_history(engine, resolver):
    sessions = SessionManager(engine, resolver=resolver, platform="telegram")
    assert mirror_to_session(sessions, "-1004711", "to all")
    assert sessions.history("alice") == []
    assert texts(sessions.history("telegram:-1004711")) == ["to all"]


def test_reserved_keys_in_metadata_have_no_effect(engine):
    reserved = {
        "role": "user",
        "content": "forged",
        "timestamp": "1970-01-01",
        "mirror": False,
        "mirror_source": "forged",
    }
    ours, theirs = SessionManager(engine, platform="telegram"), ThreeMethods()
    for manager in (ours, theirs):
        assert mirror_to_session(manager, "1", "true", "cron", {**reserved, "kept": 1})
        (entry,) = manager._load_history("1")
        assert (entry["role"], entry["content"]) == ("assistant", "true")
        assert (entry["mirror"], entry["mirror_source"], entry["kept"]) == (True, "cron", 1)
        assert entry["timestamp"] > "2020"


@everywhere
@pytest.mark.parametrize(
    "arguments",
    [
        {"message_text": ""},
        {"message_text": " \n"},
        {"message_text": None},
        {"message_text": b"x"},
        {"message_text": "\ud800"},
        {"user_id": ""},
        {"user_id": 5},
        {"source_label": None},
        {"metadata": {"a": {1}}},
        {"metadata": {"a": float("inf")}},
        {"metadata": "text"},
        {"lock": "lock"},
    ],
    ids=repr,
)
def test_what_cannot_be_stored_is_refused_with_a_reason(run, arguments):
    manager = ThreeMethods()
    given = {"user_id": "1", "message_text": "hi"} | arguments
    with structlog.testing.capture_logs() as logs:
        assert run(lambda: mirror_to_session(manager, **given)) is False
    assert manager.histories == {}
    assert [(log["event"], bool(log["reason"])) for log in logs] == [("mirror_refused", True)]


def raises(*_):
    raise RuntimeError("broken")


@everywhere
@pytest.mark.usefixtures("_patient_loop")
@pytest.mark.parametrize("method", ["_storage_key", "_load_history", "_save_history"])
def test_a_manager_that_raises_makes_it_false(run, method):
    manager = ThreeMethods()
    setattr(manager, method, raises)
    with structlog.testing.capture_logs():
        assert run(lambda: mirror_to_session(manager, "1", "hi")) is False
    assert manager.histories == {}


@everywhere
@pytest.mark.usefixtures("_patient_loop")
def test_a_database_without_the_table_makes_it_false(run, tmp_path):
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'empty.db'}")
    sessions = SessionManager(engine)
    with structlog.testing.capture_logs():
        assert asyncio.run(mirror_to_session_async(sessions, "alice", "hi")) is False
        assert run(lambda: mirror_to_session(sessions, "alice", "hi")) is False
    engine.dispose()


@pytest.mark.parametrize("manager", [None, object(), 5, "manager"])
def test_something_that_is_no_manager_makes_it_false(manager):
    assert mirror_to_session(manager, "1", "hi") is False


def test_a_resolver_that_raises_makes_it_false(engine):
    resolver = InMemoryIdentityResolver()
    resolver.links_for = raises
    sessions = SessionManager(engine, resolver=resolver, platform="telegram")
    with structlog.testing.capture_logs():
        assert mirror_to_session(sessions, "alice", "hi") is False


def test_a_running_loop_is_not_held_up_by_a_slow_disk():
    manager = Slow()

    async def main():
        begun = time.perf_counter()
        answers = [mirror_to_session(manager, "1", str(number)) for number in range(50)]
        held_up_s = time.perf_counter() - begun
        manager.go_on.set()
        return answers, held_up_s

    answers, held_up_s = asyncio.run(main())
    assert answers == [True] * 50
    # Every write waits for the event above, so what is measured contains none of them.
    assert held_up_s < 1
    assert flush_mirrors(10)
    assert manager.texts() == [str(number) for number in range(50)]
    assert threading.get_ident() not in manager.threads


def test_an_accepted_mirror_that_fails_is_tried_again():
    class SlowThenFailing(Slow):
        def _save_history(self, user_id, history):
            first = not self.go_on.is_set()
            super()._save_history(user_id, history)
            if first:
                raise OSError("after the write")

    manager = SlowThenFailing()

    async def main():
        answer = mirror_to_session(manager, "1", "hi")
        manager.go_on.set()
        return answer

    with structlog.testing.capture_logs() as logs:
        assert asyncio.run(main()) is True
        assert flush_mirrors(10)
    assert [log["event"] for log in logs] == ["mirror_failed"]
    # The save that raised had written: it is not there twice.
    assert manager.texts() == ["hi"]


def test_an_accepted_mirror_that_never_succeeds_is_reported_as_lost(monkeypatch):
    monkeypatch.setattr("worker.sessions.writers.RETRY_DELAYS_S", (0, 0))
    manager = Slow()
    manager._load_history = lambda _: manager.go_on.wait(10) and raises()

    async def main():
        answer = mirror_to_session(manager, "1", "hi")
        manager.go_on.set()
        return answer

    with structlog.testing.capture_logs() as logs:
        assert asyncio.run(main()) is True
        assert flush_mirrors(10)
    assert [log["event"] for log in logs] == ["mirror_failed"] * 3 + ["mirror_lost"]


def test_a_refused_mirror_is_not_tried_again_later():
    manager = Failing(failures=1)
    with structlog.testing.capture_logs():
        assert mirror_to_session(manager, "1", "hi") is False
        assert asyncio.run(mirror_to_session_async(manager, "1", "there")) is True
    assert flush_mirrors(10)
    assert manager.texts() == ["there"]


def test_awaiting_tells_the_outcome_itself():
    with structlog.testing.capture_logs():
        assert asyncio.run(mirror_to_session_async(Failing(), "1", "hi")) is False
    manager = ThreeMethods()
    assert asyncio.run(mirror_to_session_async(manager, "1", "hi")) is True
    assert manager.texts() == ["hi"]


def test_a_reader_on_the_loop_sees_what_was_just_mirrored(engine):
    sessions = SessionManager(engine, platform="telegram")
    go_on = threading.Event()

    def hold_up_inserts(_conn, _cursor, statement, *_):
        assert not statement.startswith("INSERT") or go_on.wait(10)

    sa.event.listen(engine, "before_cursor_execute", hold_up_inserts)
    release = threading.Timer(0.05, go_on.set)

    async def main():
        for number in range(20):
            assert mirror_to_session(sessions, "1", str(number))
        release.start()
        return sessions.history("bot_telegram_1")

    assert texts(asyncio.run(main())) == [str(number) for number in range(20)]
    release.join()


def turn(manager, load_save):
    """Load, let `load_save` happen, save: what a bot's turn does with a history."""
    history = manager._load_history("1")
    load_save()
    manager._save_history("1", [*history, {"role": "user", "content": "turn"}])


@pytest.mark.parametrize("make_lock", [threading.Lock, threading.RLock])
@pytest.mark.parametrize("caller", [from_sync, from_a_coroutine])
def test_a_mirror_waits_for_a_turn_under_a_thread_lock(make_lock, caller):
    manager, lock, answers = ThreeMethods(), make_lock(), []
    mirror = threading.Thread(
        target=lambda: answers.append(
            caller(lambda: mirror_to_session(manager, "1", "mirror", lock=lock))
        )
    )

    def meanwhile():
        mirror.start()
        wait_until(lambda: answers or not mirror.is_alive())

    with lock:
        turn(manager, meanwhile)
    mirror.join()
    assert flush_mirrors(10)
    assert answers == [True]
    assert manager.texts() == ["turn", "mirror"]


@pytest.mark.parametrize("caller", ["the turn", "another task", "a thread"])
def test_a_mirror_waits_for_a_turn_under_an_asyncio_lock(caller):
    manager, lock = ThreeMethods(), asyncio.Lock()

    def mirror():
        return mirror_to_session(manager, "1", "mirror", lock=lock)

    async def main():
        async with lock:
            history = manager._load_history("1")
            match caller:
                case "the turn":
                    assert mirror() is True
                case "another task":
                    assert await asyncio.create_task(asyncio.sleep(0, mirror())) is True
                case "a thread":
                    assert await asyncio.to_thread(mirror) is True
            manager._save_history("1", [*history, {"role": "user", "content": "turn"}])
        # The loop goes on, and the next turn finds the lock working.
        async with asyncio.timeout(10), lock:
            pass
        await asyncio.to_thread(wait_until, lambda: "mirror" in manager.texts())
        async with asyncio.timeout(10), lock:
            return manager.texts()

    assert asyncio.run(main()) == ["turn", "mirror"]


def test_a_mirror_accepted_during_a_turn_outlives_the_loop():
    manager, lock = ThreeMethods(), asyncio.Lock()

    async def main():
        await lock.acquire()
        assert mirror_to_session(manager, "1", "first", lock=lock) is True

    asyncio.run(main())
    assert flush_mirrors(10)
    assert manager.texts() == ["first"]


@everywhere
def test_a_free_asyncio_lock_is_held_during_the_write_and_free_again_after_it(run):
    lock = asyncio.Lock()

    class Watching(ThreeMethods):
        def _save_history(self, user_id, history):
            super()._save_history(user_id, [*history, {"content": lock.locked()}])

    manager = Watching()
    assert run(lambda: mirror_to_session(manager, "1", "hi", lock=lock)) is True
    assert flush_mirrors(10)
    assert manager.texts() == ["hi", True]
    wait_until(lambda: not lock.locked())


@pytest.mark.usefixtures("_patient_loop")
def test_a_failing_manager_under_a_free_asyncio_lock_makes_it_false():
    lock = asyncio.Lock()

    async def main():
        with structlog.testing.capture_logs():
            assert mirror_to_session(Failing(), "1", "hi", lock=lock) is False
        async with asyncio.timeout(10), lock:
            return True

    assert asyncio.run(main())


def test_a_lock_that_the_calling_thread_holds_is_no_deadlock():
    manager, lock = ThreeMethods(), threading.RLock()
    with lock:
        assert mirror_to_session(manager, "1", "hi", lock=lock) is True
        assert manager.texts() == ["hi"]


def test_any_context_manager_serves_as_a_lock():
    manager, held = ThreeMethods(), []

    @contextmanager
    def lock():
        held.append("taken")
        yield
        held.append("given back")

    assert mirror_to_session(manager, "1", "hi", lock=lock()) is True
    assert held == ["taken", "given back"]


def test_a_managers_own_lock_of_the_user_is_used():
    class WithLocks(ThreeMethods):
        def __init__(self):
            super().__init__()
            self.locks = {"1": asyncio.Lock()}

        def _get_lock(self, user_id):
            asyncio.get_running_loop()
            return self.locks[user_id]

    manager = WithLocks()

    async def main():
        async with manager.locks["1"]:
            history = manager._load_history("1")
            assert mirror_to_session(manager, "1", "mirror") is True
            await asyncio.sleep(0)
            manager._save_history("1", [*history, {"role": "user", "content": "turn"}])
        assert await mirror_to_session_async(manager, "1", "after") is True

    asyncio.run(main())
    assert manager.texts() == ["turn", "mirror", "after"]


def test_mirrors_from_many_threads_are_all_kept():
    manager = ThreeMethods()
    threads = [
        threading.Thread(
            target=lambda name=name: [
                mirror_to_session(manager, "1", f"{name}-{i}") for i in range(25)
            ]
        )
        for name in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(manager.texts()) == sorted(f"{n}-{i}" for n in range(8) for i in range(25))


def test_a_foreign_manager_with_a_resolver_is_given_the_account_it_knows(resolver):
    class Foreign(ThreeMethods):
        _platform = "telegram"
        _identity_resolver = resolver

        def _storage_key(self, user_id):
            return self._identity_resolver.resolve(self._platform, user_id)

    manager = Foreign()
    for user_id in ("alice", "4711", "telegram:4711", "slack:U1"):
        assert mirror_to_session(manager, user_id, user_id) is True
    assert [entry["content"] for entry in manager.histories["alice"]] == [
        "alice",
        "4711",
        "telegram:4711",
        "slack:U1",
    ]
    resolver.link("slack", "U2", "bob")
    with structlog.testing.capture_logs() as logs:
        assert mirror_to_session(manager, "bob", "nobody would read it") is False
    assert "bob has no account on telegram" in logs[0]["reason"]
    assert set(manager.histories) == {"alice"}


def test_a_managers_own_way_to_add_a_mirror_is_preferred():
    class Own(ThreeMethods):
        def _add_mirror_entry_sync(self, user_id, entry):
            self.histories["own"] = [entry]
            return user_id == "1"

    manager = Own()
    assert mirror_to_session(manager, "1", "hi") is True
    assert mirror_to_session(manager, "2", "hi") is False
    assert set(manager.histories) == {"own"}


def test_an_unhashable_manager_is_written_to_as_well():
    class Unhashable(ThreeMethods):
        __hash__ = None

    manager = Unhashable()

    async def main():
        return await mirror_to_session_async(manager, "1", "async")

    assert mirror_to_session(manager, "1", "sync")
    assert asyncio.run(main())
    assert manager.texts() == ["sync", "async"]
