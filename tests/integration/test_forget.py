"""A person is forgotten wholly, and stays so, whatever is done to what is left."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from resolvers import SqlIdentityResolver
from scheduler import remirror, replay
from scheduler.broadcasts.fanout import fan_out
from scheduler.broadcasts.oversee import Overseer
from scheduler.broadcasts.progress import Counts, progress_of
from scheduler.broadcasts.start import start
from scheduler.forget import forget, person, schedules_for
from scheduler.mirror_repair import MirrorRepair
from scheduler.schedules import add as add_schedule
from tests.broadcasts import check as preflight_of
from tests.broadcasts import draft, link, listed
from tests.command_line import CommandLine
from worker import due, outbox
from worker.by_hand import Resolution
from worker.database import engine as open_engine
from worker.database import migrate, now_ms
from worker.errors import Refused
from worker.intake import check
from worker.sessions import SessionManager
from worker.states import State
from worker.verdict import Place, Settlement


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    made = open_engine(database_url)
    migrate(made)
    yield made
    made.dispose()


def claimed(engine: Engine, to: str, words: str) -> str:
    """Store a delivery that a worker has just taken."""
    with engine.begin() as connection:
        new = check(to=to, text=words, metadata={"a": 1})
        id_ = outbox.insert(connection, [new])[0].id
        outbox.claim(connection, owner="w", lease_ms=9_999, limit=9, ids=[id_])
    return id_


def settle(engine: Engine, id_: str, state: State, user: str, chat: str = "5") -> None:
    """Let the worker say what came of it."""
    with engine.begin() as connection:
        settlement = Settlement(
            id_,
            1,
            state,
            Place("telegram", "", chat, None, user),
            delay_ms=0 if state is State.RETRYING else None,
            receipt=("9",) if state is State.SENT else None,
            mirror="failed" if state is State.SENT else None,
            outcome="sent" if state is State.SENT else "transient",
            started_ms=now_ms(connection),
        )
        outbox.settle(connection, [settlement], owner="w")


def send(engine: Engine, to: str, words: str, user: str) -> str:
    """Store a delivery and settle it as sent to somebody, with its mirror in its history."""
    id_ = claimed(engine, to, words)
    settle(engine, id_, State.SENT, user, to.partition(":")[2])
    with engine.begin() as connection:
        connection.execute(text("UPDATE delivery SET mirror = 'done'"))
    return id_


def state(engine: Engine, id_: str) -> tuple[str, str]:
    with engine.begin() as connection:
        found = connection.execute(
            text("SELECT state, text FROM delivery WHERE id = :id"), {"id": id_}
        ).one()
    return found.state, found.text


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
    alice = person(resolver, "alice")
    counts = forget(engine, resolver, alice, dry_run=True)
    assert (counts.links, counts.messages, counts.deliveries) == (1, 1, 2)
    assert (counts.rejected, counts.cancelled) == (1, 1)
    assert len(sessions.messages("alice")) == 1
    assert forget(engine, resolver, alice) == counts
    again = forget(engine, resolver, alice)
    assert (again.links, again.messages, again.deliveries, again.rejected) == (0, 0, 0, 0)
    with engine.begin() as connection:
        rows = connection.execute(text("SELECT id, text, state FROM delivery")).all()
    found, states = {r.id: r.text for r in rows}, {r.id: r.state for r in rows}
    assert found == {hers: "[forgotten]", later: "[forgotten]", his: "kept"}
    assert states == {hers: "sent", later: "cancelled", his: "sent"}
    assert resolver.links_for("alice") == []
    assert [link.platform_user_id for link in resolver.links_for("bob")] == ["7"]
    assert [m.content for m in sessions.messages("bob")] == ["his"]


@pytest.mark.parametrize("ended", [State.FAILED, State.SUPPRESSED])
def test_what_was_forgotten_is_not_sent_by_whoever_retries_dead_letters(
    engine: Engine, ended: State
) -> None:
    resolver = SqlIdentityResolver(engine)
    id_ = claimed(engine, "telegram:5", "a secret")
    settle(engine, id_, ended, "alice")
    forget(engine, resolver, person(resolver, "alice"))
    with pytest.raises(Refused, match="must not go out any more"):
        replay.retry(engine, [id_])
    assert replay.matching(engine, replay.Filter(status=ended)) == []
    assert replay.requeue(engine, [id_]) == 0
    assert state(engine, id_) == (ended, "[forgotten]")


def test_what_is_under_way_is_told_and_its_retry_does_not_go_out(engine: Engine) -> None:
    resolver = SqlIdentityResolver(engine)
    id_ = claimed(engine, "user:alice", "a secret")
    assert forget(engine, resolver, person(resolver, "alice")).under_way == 1
    settle(engine, id_, State.RETRYING, "alice")
    with engine.begin() as connection:
        due.expire(connection)
    assert state(engine, id_) == ("expired", "[forgotten]")


def test_what_ended_unknown_while_it_was_forgotten_is_not_sent_again(engine: Engine) -> None:
    resolver = SqlIdentityResolver(engine)
    id_ = claimed(engine, "user:alice", "a secret")
    forget(engine, resolver, person(resolver, "alice"))
    settle(engine, id_, State.UNKNOWN, "alice")
    with pytest.raises(Refused, match="must not go out any more"):
        replay.resolve(engine, id_, Resolution.RESEND)
    replay.resolve(engine, id_, Resolution.DROP)
    assert state(engine, id_)[0] == "cancelled"


def test_no_repair_writes_into_a_history_that_was_forgotten(engine: Engine) -> None:
    resolver, sessions = SqlIdentityResolver(engine), SessionManager(engine)
    send(engine, "telegram:5", "a secret", "alice")
    late = claimed(engine, "telegram:5", "another one")
    forget(engine, resolver, person(resolver, "telegram:5"))
    settle(engine, late, State.SENT, "alice")
    assert sum(remirror.mark(engine, since=datetime.now(UTC) - timedelta(days=1))) == 0
    MirrorRepair(engine, resolver).run()
    assert sessions.messages("alice") == []
    with engine.begin() as connection:
        waiting = "SELECT count(*) FROM delivery WHERE mirror = 'failed'"
        assert connection.execute(text(waiting)).scalar() == 0


def test_an_account_names_its_person_with_all_that_is_theirs(engine: Engine) -> None:
    resolver = SqlIdentityResolver(engine, cache_ttl_s=0)
    before = send(engine, "telegram:5", "before the link", "telegram:5")
    resolver.link("telegram", "5", "alice")
    resolver.link("discord", "6", "alice")
    sessions = SessionManager(engine, resolver=resolver, platform="discord")
    sessions.record("discord", "6", "user", "mine")
    whom = person(resolver, "telegram:5")
    assert (whom.name, whom.accounts) == ("alice", [("discord", "6"), ("telegram", "5")])
    counts = forget(engine, resolver, whom)
    assert (counts.links, counts.messages, counts.deliveries) == (2, 1, 1)
    assert resolver.links_for("alice") == []
    assert state(engine, before)[1] == "[forgotten]"


def test_an_account_that_nobody_linked_is_a_person_too(engine: Engine) -> None:
    resolver = SqlIdentityResolver(engine)
    send(engine, "telegram:5", "a secret", "telegram:5")
    send(engine, "telegram:55", "his", "telegram:55")
    assert forget(engine, resolver, person(resolver, "telegram:5")).deliveries == 1


def test_much_is_forgotten_in_batches(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scheduler.forget._BATCH", 2)
    resolver = SqlIdentityResolver(engine)
    for _ in range(5):
        send(engine, "telegram:5", "a secret", "alice")
    whom = person(resolver, "alice")
    counts = forget(engine, resolver, whom, dry_run=True)
    assert counts.deliveries == 5
    assert forget(engine, resolver, whom) == counts
    assert forget(engine, resolver, whom).deliveries == 0


def test_schedules_that_go_on_writing_are_named(engine: Engine) -> None:
    resolver = SqlIdentityResolver(engine)
    resolver.link("telegram", "5", "alice")
    for name, to in (("pills", "user:alice"), ("tea", "telegram:5"), ("his", "user:bob")):
        add_schedule(engine, name, every="1h", to=to, text="x")
    assert schedules_for(engine, person(resolver, "alice")) == ["pills", "tea"]


def test_the_command_counts_and_says_what_is_left(tmp_path: Path) -> None:
    cli = CommandLine(tmp_path)
    cli("identity", "link", "telegram", "5", "alice")
    cli("schedule", "add", "pills", "--every", "1h", "--to", "user:alice", "--text", "x")
    waiting = cli("send", "user:alice", "a secret", "--at", "2h").out.strip()
    assert "--yes" in cli("forget", "alice").refusal()
    dry = cli("forget", "telegram:5", "--dry-run", "--json").json()
    assert dry["dry_run"] is True
    done = cli("forget", "telegram:5", "--yes", "--json").json()
    assert done == dry | {"dry_run": False}
    assert (done["user"], done["links"], done["cancelled"]) == ("alice", 1, 1)
    assert done["schedules"] == ["pills"]
    assert "pills: mirrorpost schedule remove" in cli("forget", "alice", "--yes").err
    shown = cli("deliveries", "show", waiting, "--json").json()
    assert (shown["status"], shown["text"]) == ("cancelled", "[forgotten]")


def test_no_list_and_no_broadcast_names_them_any_more_and_it_goes_on_without_them(
    engine: Engine, tmp_path: Path
) -> None:
    link(engine, "telegram", "5", "alice")
    listed(engine, tmp_path, "telegram:5", "user:alice", "telegram:6")
    draft(engine, to="list")
    made = preflight_of(engine)
    start(engine, made.name)
    resolver = SqlIdentityResolver(engine)
    counts = forget(engine, resolver, person(resolver, "alice"))
    assert counts.lists == 3
    while fan_out(engine, made.id):
        pass
    with engine.begin() as connection:
        assert connection.execute(text("SELECT target FROM delivery")).scalars().all() == [
            "telegram:6"
        ]
        assert connection.execute(text("SELECT count(*) FROM audience_member")).scalar() == 1


def test_a_line_for_another_bot_and_the_texts_of_a_report_are_forgotten_too(
    engine: Engine, tmp_path: Path
) -> None:
    link(engine, "telegram", "7", "bob")
    lines = [{"target": t, "name": f"N{n}"} for n, t in enumerate(("telegram@b:5", "telegram:7"))]
    listed(engine, tmp_path, *lines)
    draft(engine, to="list", body="Hi {{ name }}", templated=True)
    made = preflight_of(engine)
    start(engine, made.name)
    resolver = SqlIdentityResolver(engine)
    for name in ("telegram:5", "bob"):
        assert forget(engine, resolver, person(resolver, name)).lists == 2
    assert fan_out(engine, made.id) == 2
    with engine.begin() as connection:
        for table in ("delivery", "recipient", "audience_member"):
            assert connection.execute(text(f"SELECT count(*) FROM {table}")).scalar() == 0
        left = connection.execute(text("SELECT CAST(report AS text) FROM broadcast")).scalar_one()
    assert "Hi N" not in left
    Overseer(engine).run()
    found = progress_of(engine, made.name)
    assert (found.state, found.counts, found.ended) == ("done", Counts(gone=2), 2)
