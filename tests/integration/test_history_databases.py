"""The history on SQLite and on PostgreSQL: one suite, so that both behave as one."""

import statistics
import threading
import time
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from resolvers import InMemoryIdentityResolver
from worker.sessions import (
    MESSAGE,
    Mirror,
    SessionManager,
    insert_mirrors,
    mirror_to_session,
)
from worker.tables import DeadTargetRow

NOON_MS = 1_767_268_800_000


@pytest.fixture(params=["sqlite", "postgresql"])
def engine(request, tmp_path):
    if request.param == "sqlite":
        engine = sa.create_engine(
            f"sqlite:///{tmp_path / 'history.db'}", connect_args={"timeout": 30}
        )
        with engine.connect() as conn:
            conn.exec_driver_sql("PRAGMA journal_mode=WAL")
    else:
        url = sa.make_url(request.getfixturevalue("postgres_url"))
        engine = sa.create_engine(url.set(drivername="postgresql+psycopg"))
    MESSAGE.create(engine, checkfirst=True)
    DeadTargetRow.__table__.create(engine, checkfirst=True)
    yield engine
    engine.dispose()


def mirror(number=0, **changes):
    values = {
        "session_key": "alice",
        "content": f"message {number}",
        "timestamp_ms": NOON_MS + number,
        "platform": "telegram",
        "chat": "77",
        "source": "cron",
        "delivery_id": f"d{number}",
        "platform_message_ids": (str(number),),
        "metadata": {"number": number},
    }
    return Mirror(**(values | changes))


def contents(sessions, key="alice"):
    return [message.content for message in sessions.messages(key)]


def test_a_batch_of_mirrors_reads_back_whole_and_in_order(engine):
    with engine.begin() as conn:
        insert_mirrors(conn, [mirror(n) for n in range(300)])
    messages = SessionManager(engine).messages("alice")
    assert [message.content for message in messages] == [f"message {n}" for n in range(300)]
    assert [message.id for message in messages] == sorted(message.id for message in messages)
    seventh = messages[7]
    assert (seventh.role, seventh.mirror, seventh.mirror_source) == ("assistant", True, "cron")
    assert (seventh.platform, seventh.chat, seventh.delivery_id) == ("telegram", "77", "d7")
    assert (seventh.platform_message_ids, seventh.metadata) == (("7",), {"number": 7})
    assert SessionManager(engine).history("alice", limit=1) == [
        {
            "role": "assistant",
            "content": "message 299",
            "timestamp": "2026-01-01T12:00:00.299+00:00",
            "mirror": True,
            "mirror_source": "cron",
            "number": 299,
        }
    ]


def test_messages_of_one_millisecond_keep_the_order_of_the_batch(engine):
    with engine.begin() as conn:
        insert_mirrors(conn, [mirror(n, timestamp_ms=NOON_MS) for n in range(100)])
    assert contents(SessionManager(engine)) == [f"message {n}" for n in range(100)]


def test_a_delivery_is_mirrored_once_however_often_it_is_tried(engine):
    for _ in range(2):
        with engine.begin() as conn:
            insert_mirrors(conn, [mirror(1), mirror(2), mirror(1)])
    with engine.begin() as conn:
        insert_mirrors(conn, [mirror(2, content="another text"), mirror(3)])
    assert contents(SessionManager(engine)) == ["message 1", "message 2", "message 3"]


def test_messages_without_a_delivery_are_never_taken_for_doubles(engine):
    with engine.begin() as conn:
        insert_mirrors(conn, [mirror(1, delivery_id=None), mirror(1, delivery_id=None)])
        insert_mirrors(conn, [])
    assert len(SessionManager(engine).messages("alice")) == 2


def test_mirrors_are_the_callers_to_roll_back(engine):
    with engine.connect() as conn, conn.begin() as outer:
        insert_mirrors(conn, [mirror(1)])
        outer.rollback()
    assert contents(SessionManager(engine)) == []


def test_values_nobody_knows_are_null_and_come_back_as_none(engine):
    with engine.begin() as conn:
        insert_mirrors(
            conn,
            [mirror(1, platform=None, chat=None, platform_message_ids=(), metadata={})],
        )
    (message,) = SessionManager(engine).messages("alice")
    assert (message.platform, message.chat) == (None, None)
    assert (message.platform_message_ids, message.metadata) == ((), {})


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("a\x00b", "a�b"),
        ("a\ud83db", "a�b"),
        (r"a literal \u0000", r"a literal \u0000"),
        ("\\\x00", "\\�"),
        ("'; DROP TABLE message; --", "'; DROP TABLE message; --"),
        ("naïve 😀 \n\t \u2028 %s ? :x", "naïve 😀 \n\t \u2028 %s ? :x"),
    ],
)
def test_no_text_costs_a_batch_its_mirrors(engine, text, kept):
    with engine.begin() as conn:
        insert_mirrors(
            conn, [mirror(1), mirror(2, content=text, metadata={"deep": [{"x": text}]}), mirror(3)]
        )
    messages = SessionManager(engine).messages("alice")
    assert [message.content for message in messages] == ["message 1", kept, "message 3"]
    assert messages[1].metadata == {"deep": [{"x": kept}]}


@pytest.mark.parametrize(
    ("value", "kept"), [(2**70, 2**70), (float("nan"), None), ({1: "\ud800"}, {"1": "�"})]
)
def test_no_metadata_costs_a_batch_its_mirrors(engine, value, kept):
    with engine.begin() as conn:
        insert_mirrors(conn, [mirror(1), mirror(2, metadata={"value": value})])
    messages = SessionManager(engine).messages("alice")
    assert [message.metadata for message in messages] == [{"number": 1}, {"value": kept}]


def test_everything_survives_a_restart(engine):
    sessions = SessionManager(engine, platform="telegram")
    sessions.record("telegram", "1", "user", "😀", metadata={"lang": "de"})
    assert mirror_to_session(sessions, "1", "later", "cron", {"job": [1, {"a": None}]})
    before = sessions._load_history("1")
    sessions._save_history("1", [*before, {"role": "user", "content": "and now"}])
    after = SessionManager(engine, platform="telegram")._load_history("1")
    assert after[:2] == before
    assert (after[1]["mirror_source"], after[1]["job"]) == ("cron", [1, {"a": None}])
    assert after[2]["content"] == "and now"


def test_two_platforms_make_one_conversation_with_a_resolver(engine):
    resolver = InMemoryIdentityResolver()
    resolver.link("telegram", "1", "alice")
    resolver.link("matrix", "@a:example.org", "alice")
    sessions = SessionManager(engine, resolver=resolver, platform="matrix")
    noon = datetime.fromtimestamp(NOON_MS / 1000, UTC)
    sessions.record("telegram", "1", "user", "one", at=noon - timedelta(minutes=1))
    with engine.begin() as conn:
        insert_mirrors(conn, [mirror(2)])
    assert mirror_to_session(sessions, "@a:example.org", "three")
    assert contents(sessions) == ["one", "message 2", "three"]


def test_writers_beside_each_other_lose_nothing(engine):
    sessions = SessionManager(engine, platform="telegram")

    def work(name):
        for number in range(15):
            assert mirror_to_session(sessions, "1", f"{name}-{number}") is True

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stored = contents(sessions, "bot_telegram_1")
    assert sorted(stored) == sorted(f"{name}-{n}" for name in "abcd" for n in range(15))


def statements_of(engine, action):
    seen = []

    def note(_conn, _cursor, statement, parameters, _context, _many):
        seen.append((statement, parameters))

    sa.event.listen(engine, "before_cursor_execute", note)
    action()
    sa.event.remove(engine, "before_cursor_execute", note)
    return seen


def fill(engine, key, count):
    for start in range(0, count, 5_000):
        size = min(5_000, count - start)
        with engine.begin() as conn:
            insert_mirrors(
                conn,
                [mirror(start + i, session_key=key, delivery_id=None) for i in range(size)],
            )


def plan_of(engine, statement, parameters):
    explain = "EXPLAIN QUERY PLAN" if engine.dialect.name == "sqlite" else "EXPLAIN"
    with engine.connect() as conn:
        rows = conn.exec_driver_sql(f"{explain} {statement}", parameters).all()
    return "\n".join(str(row[-1]) for row in rows)


def test_reading_a_history_seeks_in_the_index_and_does_not_sort(engine):
    for number in range(20):
        fill(engine, f"somebody{number}", 200)
    with engine.begin() as conn:
        conn.exec_driver_sql("ANALYZE")
    sessions = SessionManager(engine)
    for before in (None, NOON_MS + 100):
        ((statement, parameters),) = statements_of(
            engine, lambda before=before: sessions.history("somebody3", 10, before)
        )
        plan = plan_of(engine, statement, parameters)
        assert "ix_message_history" in plan
        assert "Sort" not in plan
        assert "B-TREE" not in plan
        assert "Seq Scan" not in plan
        assert "SCAN" not in plan


def test_an_append_costs_the_same_at_ten_messages_and_at_a_hundred_thousand(engine):
    sessions = SessionManager(engine, platform="telegram")
    fill(engine, "bot_telegram_short", 10)
    fill(engine, "bot_telegram_long", 100_000)

    def append(user_id):
        assert mirror_to_session(sessions, user_id, "one more") is True

    def shape(user_id):
        return [statement for statement, _ in statements_of(engine, lambda: append(user_id))]

    # One statement, without a read before it, and the same for both.
    assert shape("short") == shape("long")
    assert len(shape("long")) == 1

    # Interleaved, so that a busy machine slows both down.
    spent = {"short": [], "long": []}
    for _ in range(40):
        for user_id, times in spent.items():
            begun = time.perf_counter()
            append(user_id)
            times.append(time.perf_counter() - begun)
    short, long = (statistics.median(spent[user_id]) for user_id in ("short", "long"))
    assert long < 3 * short, f"{long * 1000:.2f} ms at 100,000, {short * 1000:.2f} ms at 10"


def test_a_batch_is_one_statement_whatever_its_size(engine):
    def insert(count):
        with engine.begin() as conn:
            insert_mirrors(conn, [mirror(n, delivery_id=None) for n in range(count)])

    (one,), (many,) = (statements_of(engine, lambda n=n: insert(n)) for n in (1, 300))
    assert one[0] == many[0]


def test_mirrors_of_other_transactions_under_way_are_waited_for_not_doubled(engine):
    started = threading.Event()

    def second():
        with engine.begin() as conn:
            started.set()
            insert_mirrors(conn, [mirror(1, content="second")])

    other = threading.Thread(target=second)
    with engine.begin() as conn:
        insert_mirrors(conn, [mirror(1, content="first")])
        other.start()
        assert started.wait(10)
    other.join()
    assert contents(SessionManager(engine)) == ["first"]
