import threading
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa

from resolvers import InMemoryIdentityResolver
from worker.errors import Refused
from worker.sessions import MESSAGE, SessionManager
from worker.tables import DeadTargetRow


@pytest.fixture
def engine(tmp_path):
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'history.db'}")
    MESSAGE.create(engine)
    DeadTargetRow.__table__.create(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def resolver():
    resolver = InMemoryIdentityResolver()
    resolver.link("telegram", "4711", "alice")
    resolver.link("slack", "U1", "alice")
    return resolver


def at(second):
    return datetime(2026, 1, 1, 12, 0, second, tzinfo=UTC)


def texts(history):
    return [entry["content"] for entry in history]


def test_what_one_person_writes_on_two_platforms_is_one_conversation(engine, resolver):
    sessions = SessionManager(engine, resolver=resolver)
    assert sessions.record("telegram", "4711", "user", "from my phone", at=at(1)) == "alice"
    assert sessions.record("slack", "U1", "user", "from my desk", at=at(2)) == "alice"
    assert sessions.history("alice") == [
        {"role": "user", "content": "from my phone", "timestamp": "2026-01-01T12:00:01.000+00:00"},
        {"role": "user", "content": "from my desk", "timestamp": "2026-01-01T12:00:02.000+00:00"},
    ]


def test_without_a_resolver_an_account_is_a_conversation_of_its_own(engine):
    sessions = SessionManager(engine, platform="telegram")
    assert sessions.record("telegram", "4711", "user", "hello") == "bot_telegram_4711"
    assert texts(sessions._load_history("4711")) == ["hello"]
    assert sessions._storage_key("4711") == "bot_telegram_4711"


def test_a_history_is_ordered_by_time_and_then_by_arrival(engine):
    sessions = SessionManager(engine)
    for second, text in [(3, "c"), (1, "a"), (2, "b1"), (2, "b2")]:
        key = sessions.record("telegram", "1", "user", text, at=at(second))
    assert texts(sessions.history(key)) == ["a", "b1", "b2", "c"]


def test_a_limit_keeps_the_newest_and_before_the_older(engine):
    sessions = SessionManager(engine)
    for second in range(6):
        key = sessions.record("telegram", "1", "user", str(second), at=at(second))
    assert texts(sessions.history(key, limit=2)) == ["4", "5"]
    assert texts(sessions.history(key, 2, at(4))) == ["2", "3"]
    assert texts(sessions.history(key, 2, at(4).isoformat())) == ["2", "3"]
    assert texts(sessions.history(key, 2, int(at(4).timestamp() * 1000))) == ["2", "3"]
    assert sessions.history(key, limit=0) == []
    assert sessions.history("nobody") == []


def test_paging_back_by_message_misses_nothing_and_doubles_nothing(engine):
    sessions = SessionManager(engine)
    for number in range(10):
        key = sessions.record("telegram", "1", "user", str(number), at=at(number // 5))
    pages, before = [], None
    while page := sessions.messages(key, 3, before):
        pages = [*page, *pages]
        before = (page[0].timestamp_ms, page[0].id)
    assert [message.content for message in pages] == [str(number) for number in range(10)]


@pytest.mark.parametrize("before", ["yesterday", object()])
def test_a_before_that_is_not_a_time_is_refused(engine, before):
    with pytest.raises(Refused, match="not a time"):
        SessionManager(engine).history("alice", before=before)


@pytest.mark.parametrize("content", ["", "  ", "\x00", None, 5])
def test_text_that_cannot_be_kept_is_refused(engine, content):
    sessions = SessionManager(engine)
    with pytest.raises(Refused, match="text"):
        sessions.record("telegram", "1", "user", content)
    assert sessions.history("bot_telegram_1") == []


def test_a_negative_limit_is_refused(engine):
    with pytest.raises(Refused, match="limit"):
        SessionManager(engine).history("alice", limit=-1)


def test_what_a_row_holds_beside_the_text_is_there_to_be_read(engine):
    sessions = SessionManager(engine)
    metadata = {"lang": "de", "role": "system", "$content": "forged"}
    key = sessions.record(
        "telegram", "1", "user", "hi", chat="77", platform_message_ids=["5"], metadata=metadata
    )
    (message,) = sessions.messages(key)
    assert (message.platform, message.chat) == ("telegram", "77")
    assert message.platform_message_ids == ("5",)
    (entry,) = sessions.history(key)
    assert entry == {
        "role": "user",
        "content": "hi",
        "timestamp": entry["timestamp"],
        "lang": "de",
    }


def test_a_saved_turn_appends_only_what_is_new(engine):
    sessions = SessionManager(engine, platform="telegram")
    sessions.record("telegram", "1", "user", "yes", at=at(1))
    before = [message.id for message in sessions.messages("bot_telegram_1")]
    history = sessions._load_history("1")
    history += [{"role": "user", "content": "yes"}, {"role": "assistant", "content": "ok"}]
    sessions._save_history("1", history)
    sessions._save_history("1", sessions._load_history("1"))
    assert texts(sessions._load_history("1")) == ["yes", "yes", "ok"]
    assert [message.id for message in sessions.messages("bot_telegram_1")][:1] == before


def test_a_mirror_that_came_during_a_turn_survives_the_turns_save(engine):
    sessions = SessionManager(engine, platform="telegram")
    sessions.record("telegram", "1", "user", "earlier", at=at(1))
    history = sessions._load_history("1")
    assert sessions._add_mirror_entry_sync("1", {"role": "assistant", "content": "reminder"})
    sessions._save_history("1", [*history, {"role": "user", "content": "now"}])
    loaded = sessions._load_history("1")
    assert texts(loaded) == ["earlier", "reminder", "now"]
    assert [entry.get("mirror", False) for entry in loaded] == [False, True, False]


def test_saving_a_shorter_history_deletes_nothing(engine):
    sessions = SessionManager(engine, platform="telegram")
    for second in range(3):
        sessions.record("telegram", "1", "user", str(second), at=at(second))
    sessions._save_history("1", sessions._load_history("1")[-1:])
    sessions._save_history("1", [])
    assert texts(sessions._load_history("1")) == ["0", "1", "2"]


def test_a_mirror_keeps_its_flags_over_load_save_and_restart(engine):
    first = SessionManager(engine, platform="telegram")
    entry = {"role": "assistant", "content": "hi", "mirror_source": "cron", "job": {"id": 7}}
    first._add_mirror_entry_sync("1", entry)
    first._save_history("1", first._load_history("1"))
    (loaded,) = SessionManager(engine, platform="telegram")._load_history("1")
    assert loaded == {**entry, "mirror": True, "timestamp": loaded["timestamp"]}


def test_a_tool_turn_comes_back_as_it_was(engine):
    sessions = SessionManager(engine, platform="telegram")
    turn = [
        {"role": "user", "content": [{"type": "text", "text": "look"}]},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "c1", "type": "function"}]},
        {"role": "tool", "content": "42", "tool_call_id": "c1"},
    ]
    sessions._save_history("1", turn)
    loaded = sessions._load_history("1")
    for entry in loaded:
        del entry["timestamp"]
    assert loaded == turn


def test_two_threads_that_save_the_same_turn_store_it_once(engine):
    sessions = SessionManager(engine, platform="telegram")
    turn = [{"role": "user", "content": "a", "timestamp": at(1).isoformat()}]
    threads = [threading.Thread(target=sessions._save_history, args=("1", turn)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert texts(sessions._load_history("1")) == ["a"]


def test_a_history_read_in_sqlite_is_a_seek_without_a_sort(engine):
    seen = []
    sa.event.listen(engine, "before_cursor_execute", lambda *args: seen.append(args[2:4]))
    SessionManager(engine).history("alice", 10, at(1))
    statement, parameters = seen[-1]
    with engine.connect() as conn:
        plan = [
            row[-1] for row in conn.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
        ]
    assert len(plan) == 1
    assert "USING INDEX ix_message_history (session_key=? AND timestamp_ms<?)" in plan[0]
