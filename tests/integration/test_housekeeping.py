"""What is kept how long, what is forgotten, and what is written into a lost history again."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from resolvers import SqlIdentityResolver
from scheduler import remirror, retention
from scheduler.deliveries import first_id
from scheduler.forget import forget
from scheduler.mirror_repair import repair_mirrors
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


def test_the_retention_reads_no_more_than_the_beginning_of_the_key(engine: Engine) -> None:
    for _ in range(50):
        put(engine, 1)
    sqlite = engine.dialect.name == "sqlite"
    statement = retention._ended(engine.dialect.name).text
    with engine.begin() as connection:
        if not sqlite:
            # A handful of rows would be sorted; a table of millions is not.
            for way in ("seqscan", "bitmapscan", "sort"):
                connection.execute(text(f"SET LOCAL enable_{way} = off"))
        explain = "EXPLAIN QUERY PLAN" if sqlite else "EXPLAIN"
        values = {"first": first_id(NOW), "before": 1, "limit": 3}
        plan = "\n".join(
            str(row[-1]) for row in connection.execute(text(f"{explain} {statement}"), values)
        )
    wanted = "sqlite_autoindex_delivery_1 (id<?)" if sqlite else "Index Scan using delivery_pkey"
    assert wanted in plan
    assert "SORT" not in plan.upper()


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

    assert repair_mirrors(engine, Broken(engine)) == 1
    assert [m.delivery_id for m in SessionManager(engine).messages("alice")] == [good]


def test_a_person_is_forgotten_and_nobody_else(engine: Engine) -> None:
    resolver = SqlIdentityResolver(engine, cache_ttl_s=0)
    resolver.link("telegram", "5", "alice")
    resolver.link("telegram", "7", "bob")
    sessions = SessionManager(engine, resolver=resolver, platform="telegram")
    sessions.record("telegram", "5", "user", "mine")
    sessions.record("telegram", "7", "user", "his")
    hers = send(engine, "telegram:5", "a secret", "alice")
    his = send(engine, "telegram:7", "kept", "bob")
    with engine.begin() as connection:
        later = outbox.insert(connection, [check(to="user:alice", text="later", at="2100-01-01")])[
            0
        ].id
        connection.execute(
            text(
                "INSERT INTO rejected (received_ms, task_id, reason, payload) VALUES "
                "(1, 't', 'r', CAST(:alice AS json)), (1, 'u', 'r', CAST(:bob AS json))"
                if engine.dialect.name == "postgresql"
                else "INSERT INTO rejected (received_ms, task_id, reason, payload) VALUES "
                "(1, 't', 'r', :alice), (1, 'u', 'r', :bob)"
            ),
            {"alice": '{"to": "user:alice"}', "bob": '{"to": "user:bob"}'},
        )
    counts = forget(engine, resolver, "alice", dry_run=True)
    assert (counts.links, counts.messages, counts.deliveries) == (1, 1, 2)
    assert (counts.rejected, counts.cancelled) == (1, 1)
    assert len(sessions.messages("alice")) == 1
    assert forget(engine, resolver, "alice") == counts
    again = forget(engine, resolver, "alice")
    assert (again.links, again.messages, again.deliveries, again.rejected) == (0, 0, 0, 0)
    with engine.begin() as connection:
        rows = connection.execute(text("SELECT id, text, state FROM delivery")).all()
    found, states = {r.id: r.text for r in rows}, {r.id: r.state for r in rows}
    assert found == {hers: "[forgotten]", later: "[forgotten]", his: "kept"}
    assert states == {hers: "sent", later: "cancelled", his: "sent"}
    assert resolver.links_for("alice") == []
    assert [link.platform_user_id for link in resolver.links_for("bob")] == ["7"]
    assert [m.content for m in sessions.messages("bob")] == ["his"]


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
