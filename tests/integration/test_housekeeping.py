"""What is kept how long, what is forgotten, and what is written into a lost history again."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Barrier

import pytest
from sqlalchemy import Engine, text

from resolvers import SqlIdentityResolver
from scheduler import remirror, retention
from scheduler.deliveries import first_id
from scheduler.mirror_repair import MirrorRepair
from scheduler.retention import Retention
from scheduler.when import to_ms
from tests.command_line import CommandLine
from worker import outbox
from worker.database import engine as open_engine
from worker.database import migrate
from worker.intake import check
from worker.sessions import SessionManager
from worker.states import State
from worker.verdict import Place, Settlement

NOW = datetime.now(UTC)


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    made = open_engine(database_url)
    migrate(made)
    yield made
    made.dispose()


def put(engine: Engine, days: float, state: str = "sent", ended_days: float | None = None) -> str:
    """Store a delivery asked for so many days ago, with an attempt."""
    moment = NOW - timedelta(days=days)
    ended = to_ms(NOW - timedelta(days=days if ended_days is None else ended_days))
    with engine.begin() as connection:
        new = outbox.insert(connection, [check(to="telegram:5", text="x")])[0].id
        id_ = first_id(moment)[:12] + new[12:]
        connection.execute(
            text("UPDATE delivery SET id = :id, state = :state, ended_ms = :ended WHERE id = :new"),
            {"id": id_, "state": state, "ended": ended, "new": new},
        )
        connection.execute(
            text(
                "INSERT INTO attempt (delivery_id, attempt, owner, started_ms, took_ms, outcome) "
                "VALUES (:id, 1, 'w', :at, 1, 'sent')"
            ),
            {"id": id_, "at": to_ms(moment)},
        )
    return id_


def ids(engine: Engine, table: str = "delivery", column: str = "id") -> set[str]:
    with engine.begin() as connection:
        return set(connection.execute(text(f"SELECT {column} FROM {table}")).scalars())


def keep(engine: Engine) -> Retention:
    clock = iter(range(0, 10**9, 10_000))
    return Retention(
        engine,
        deliveries=timedelta(days=90),
        attempts=timedelta(days=30),
        clock=lambda: float(next(clock)),
    )


def test_only_what_ended_long_ago_goes_and_attempts_go_before(engine: Engine) -> None:
    old, lately, waiting, young, recent = (
        put(engine, 100),
        put(engine, 100, ended_days=3),
        put(engine, 100, "scheduled"),
        put(engine, 40),
        put(engine, 1),
    )
    unmirrored = put(engine, 100)
    with engine.begin() as connection:
        connection.execute(
            text("UPDATE delivery SET mirror = 'failed' WHERE id = :id"), {"id": unmirrored}
        )
    assert keep(engine).run() > 0
    assert ids(engine) == {lately, waiting, young, recent, unmirrored}
    assert old not in ids(engine, "attempt", "delivery_id")
    assert ids(engine, "attempt", "delivery_id") == {recent}


def test_much_goes_in_small_batches_with_rests_between(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "BATCH", 3)
    for _ in range(7):
        put(engine, 100)
    seconds = 0.0
    sweep = Retention(
        engine,
        deliveries=timedelta(days=90),
        attempts=timedelta(days=30),
        clock=lambda: seconds,
    )
    left = []
    for seconds in (1.0, 1.5, 2.1, 3.2, 4.3, 5.0):  # noqa: B007 - the clock reads it
        sweep.run()
        left.append(len(ids(engine)))
    assert left == [4, 4, 1, 0, 0, 0]


@pytest.mark.parametrize("what", ["delivery", "attempt", "rows", "begun"])
def test_the_retention_reads_no_more_than_the_beginning_of_the_key(
    engine: Engine, what: str
) -> None:
    for _ in range(50):
        put(engine, 1)
    table, key = ("attempt", "delivery_id") if what in {"attempt", "begun"} else ("delivery", "id")
    statement = {
        "rows": retention.ended(engine.dialect.name),
        "begun": retention.BEGUN,
    }.get(what, retention.batch(table, key))
    sqlite = engine.dialect.name == "sqlite"
    with engine.begin() as connection:
        if not sqlite:
            # A handful of rows would be sorted; a table of millions is not.
            for way in ("seqscan", "bitmapscan", "sort"):
                connection.execute(text(f"SET LOCAL enable_{way} = off"))
        explain = "EXPLAIN QUERY PLAN" if sqlite else "EXPLAIN"
        values = {"after": "0", "last": "1", "before": 1, "first": first_id(NOW), "limit": 3}
        named = {name: values[name] for name in statement.compile().params}
        plan = "\n".join(
            str(row[-1]) for row in connection.execute(text(f"{explain} {statement}"), named)
        )
    index = f"sqlite_autoindex_{table}_1 ({key}>? AND {key}<?)" if sqlite else "Index Cond"
    assert index in plan
    assert "SORT" not in plan.upper()
    assert "Seq Scan" not in plan


def test_what_is_old_and_has_not_ended_is_passed_by(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "BATCH", 2)
    waiting = {put(engine, 200, "scheduled") for _ in range(5)}
    put(engine, 100)
    sweep = keep(engine)
    for _ in range(4):
        sweep.run()
    assert ids(engine) == waiting
    put(engine, 100)
    for _ in range(5):
        sweep.run()
    assert ids(engine) == waiting


def test_two_schedulers_delete_at_once_what_is_old_and_nothing_else(engine: Engine) -> None:
    young = {put(engine, 1) for _ in range(5)}
    for _ in range(60):
        put(engine, 100)
    start = Barrier(2)

    def sweep() -> int:
        start.wait()
        before = NOW - timedelta(days=90)
        return retention.delete_deliveries(engine, before=before).gone

    with ThreadPoolExecutor(2) as threads:
        gone = [done.result() for done in [threads.submit(sweep) for _ in range(2)]]
    assert sum(gone) == 60
    assert ids(engine) == ids(engine, "attempt", "delivery_id") == young


def test_what_was_refused_long_ago_goes(engine: Engine) -> None:
    with engine.begin() as connection:
        for day in (100, 95, 3):
            connection.execute(
                text(
                    "INSERT INTO rejected (received_ms, task_id, reason, payload) "
                    "VALUES (:at, :task, 'r', '{}')"
                ),
                {"at": to_ms(NOW - timedelta(days=day)), "task": str(day)},
            )
    keep(engine).run()
    assert ids(engine, "rejected", "task_id") == {"3"}


def test_a_key_that_was_deleted_with_its_row_may_be_used_again(engine: Engine) -> None:
    with engine.begin() as connection:
        first = outbox.insert(connection, [check(to="telegram:5", text="x", key="k")])[0].id
        old = first_id(NOW - timedelta(days=100))[:12] + first[12:]
        connection.execute(
            text("UPDATE delivery SET id = :old, state = 'sent', ended_ms = 1"), {"old": old}
        )
    keep(engine).run()
    with engine.begin() as connection:
        assert outbox.insert(connection, [check(to="telegram:5", text="y", key="k")])[0].created


def send(engine: Engine, to: str, words: str, user: str) -> str:
    """Store a delivery and settle it as sent to somebody, without its mirror."""
    with engine.begin() as connection:
        id_ = outbox.insert(connection, [check(to=to, text=words, metadata={"a": 1})])[0].id
        outbox.claim(connection, owner="w", lease_ms=9_999, limit=9, ids=[id_])
        platform, _, chat = to.partition(":")
        place = Place(platform, "", chat, None, user)
        now_ms = to_ms(datetime.now(UTC))
        settlement = Settlement(
            id_, 1, State.SENT, place, receipt=("9",), outcome="sent", started_ms=now_ms
        )
        outbox.settle(connection, [settlement], owner="w")
    return id_


def test_a_lost_history_is_written_again_once_and_in_its_order(engine: Engine) -> None:
    resolver, sessions = SqlIdentityResolver(engine), SessionManager(engine)
    first = send(engine, "telegram:5", "first", "alice")
    second = send(engine, "discord:6", "second", "alice")
    assert sum(remirror.mark(engine, since=NOW - timedelta(days=1), dry_run=True)) == 2
    assert sessions.messages("alice") == []
    for _ in range(2):
        marked = sum(remirror.mark(engine, since=NOW - timedelta(days=1)))
        written = sum(remirror.write(engine, resolver))
        assert marked == written
        found = sessions.messages("alice")
        assert [(m.content, m.delivery_id) for m in found] == [("first", first), ("second", second)]


def test_what_was_asked_for_long_ago_and_sent_lately_is_written_again_too(engine: Engine) -> None:
    late = put(engine, 100, ended_days=1)
    put(engine, 100)
    with engine.begin() as connection:
        connection.execute(text("UPDATE delivery SET unified_user = 'alice'"))
    assert sum(remirror.mark(engine, since=NOW - timedelta(days=2))) == 1
    assert sum(remirror.write(engine, SqlIdentityResolver(engine))) == 1
    assert [m.delivery_id for m in SessionManager(engine).messages("alice")] == [late]


def test_mirrors_that_cannot_be_written_do_not_keep_the_others_waiting(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scheduler.mirror_repair._BATCH", 2)
    bad = [send(engine, "telegram:5", "bad", "bob") for _ in range(5)]
    good = send(engine, "telegram:6", "good", "alice")
    with engine.begin() as connection:
        connection.execute(text("UPDATE delivery SET mirror = 'failed'"))
        for id_ in bad:
            connection.execute(
                text("UPDATE delivery SET unified_user = NULL WHERE id = :id"), {"id": id_}
            )

    class Broken(SqlIdentityResolver):
        def resolve(self, _platform: str, _platform_user_id: str) -> str:
            from resolvers import ResolverError

            raise ResolverError("away")

    assert MirrorRepair(engine, Broken(engine)).run() == 1
    assert [m.delivery_id for m in SessionManager(engine).messages("alice")] == [good]


def test_the_commands_ask_first_and_count(tmp_path: Path) -> None:
    cli = CommandLine(tmp_path)
    cli("identity", "link", "telegram", "5", "alice")
    assert "--yes" in cli("forget", "alice").refusal()
    assert cli("forget", "alice", "--dry-run", "--json").json()["links"] == 1
    assert cli("forget", "alice", "--yes", "--json").json()["links"] == 1
    assert cli("identity", "list", "--json").json() == []
    found = cli("remirror", "--since", "7d", "--json").json()
    assert found == {"dry_run": False, "missing": 0, "written": 0}
    assert "is not a time" in cli("remirror", "--since", "soon").refusal()
