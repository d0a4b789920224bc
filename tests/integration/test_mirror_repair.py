"""Mirror repair: what was sent and is in no history yet comes into the right one, once."""

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, text

from resolvers import IdentityResolverProtocol, InMemoryIdentityResolver, ResolverError
from scheduler.mirror_repair import MirrorRepair
from worker import outbox
from worker.database import engine as open_engine
from worker.database import migrate
from worker.intake import check
from worker.sessions import SessionManager
from worker.states import State
from worker.verdict import Place, Settlement


class Failing(InMemoryIdentityResolver):
    """A resolver whose store is away for one account."""

    def resolve(self, platform: str, platform_user_id: str) -> str:
        if platform_user_id == "2":
            raise ResolverError("the store is away")
        return super().resolve(platform, platform_user_id)


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    made = open_engine(database_url)
    migrate(made)
    yield made
    made.dispose()


def sent(engine: Engine, chat: str, *, user: str | None, mirror: str, said: str = "Hello") -> str:
    """Bring a delivery to `sent`, with its mirror in one state or the other."""
    with engine.begin() as connection:
        new = check(to=f"telegram:{chat}", text=said, source="cron", metadata={"topic": "tea"})
        id_ = outbox.insert(connection, [new])[0].id
        [claim] = outbox.claim(connection, owner="w", lease_ms=1_000, limit=1, ids=[id_]).claimed
        place = Place("telegram", "", chat, None, user)
        settled = Settlement(
            id_, claim.attempt, State.SENT, place, cost=1, receipt=("77",), mirror=mirror
        )
        outbox.settle(connection, [settled], owner="w")
    return id_


def repair_mirrors(engine: Engine, resolver: IdentityResolverProtocol) -> int:
    return MirrorRepair(engine, resolver).run()


def row(engine: Engine, id_: str) -> tuple[str, str, int]:
    with engine.begin() as connection:
        found = connection.execute(
            text("SELECT mirror, unified_user, ended_ms FROM delivery WHERE id = :id"), {"id": id_}
        ).one()
    return found.mirror, found.unified_user, found.ended_ms


def messages(engine: Engine) -> list[tuple[str, str, int]]:
    with engine.begin() as connection:
        found = connection.execute(
            text("SELECT session_key, content, timestamp_ms FROM message ORDER BY id")
        )
        return [(each.session_key, each.content, each.timestamp_ms) for each in found]


def test_a_missing_mirror_is_written_with_the_time_at_which_it_was_sent(engine: Engine) -> None:
    id_ = sent(engine, "1", user="alice", mirror="failed")
    assert repair_mirrors(engine, InMemoryIdentityResolver()) == 1
    mirror, user, ended_ms = row(engine, id_)
    assert (mirror, user) == ("done", "alice")
    assert messages(engine) == [("alice", "Hello", ended_ms)]


def test_a_repaired_mirror_reads_like_any_other(engine: Engine) -> None:
    sent(engine, "1", user="alice", mirror="failed")
    repair_mirrors(engine, InMemoryIdentityResolver())
    [message] = SessionManager(engine).history("alice")
    assert (message["role"], message["mirror"], message["mirror_source"]) == (
        "assistant",
        True,
        "cron",
    )
    assert message["topic"] == "tea"


def test_a_person_who_was_not_known_yet_is_looked_up_again(engine: Engine) -> None:
    resolver = InMemoryIdentityResolver()
    resolver.link("telegram", "1", "alice")
    id_ = sent(engine, "1", user=None, mirror="failed")
    assert repair_mirrors(engine, resolver) == 1
    assert row(engine, id_)[:2] == ("done", "alice")
    assert [message[0] for message in messages(engine)] == ["alice"]


def test_what_has_its_mirror_is_left_alone(engine: Engine) -> None:
    sent(engine, "1", user="alice", mirror="done")
    assert repair_mirrors(engine, InMemoryIdentityResolver()) == 0
    assert messages(engine) == []


def test_a_second_pass_writes_nothing_twice(engine: Engine) -> None:
    id_ = sent(engine, "1", user="alice", mirror="failed")
    resolver = InMemoryIdentityResolver()
    assert [repair_mirrors(engine, resolver) for _ in range(2)] == [1, 0]
    # As after a crash between the message and its mark, had they not been one transaction.
    with engine.begin() as connection:
        outbox.mark_mirror_failed(connection, [id_])
    assert repair_mirrors(engine, resolver) == 1
    assert len(messages(engine)) == 1


def test_one_that_cannot_be_repaired_keeps_no_other_from_it(engine: Engine) -> None:
    ids = [sent(engine, chat, user=None, mirror="failed") for chat in ("1", "2", "3")]
    assert repair_mirrors(engine, Failing()) == 2
    assert [row(engine, id_)[0] for id_ in ids] == ["done", "failed", "done"]
    assert repair_mirrors(engine, InMemoryIdentityResolver()) == 1


class Foreign(InMemoryIdentityResolver):
    """A user's own resolver, with errors of its own."""

    def resolve(self, platform: str, platform_user_id: str) -> str:
        if platform_user_id == "2":
            raise KeyError(platform_user_id)
        return super().resolve(platform, platform_user_id)


def test_a_resolver_with_errors_of_its_own_stops_no_other_mirror(engine: Engine) -> None:
    ids = [sent(engine, chat, user=None, mirror="failed") for chat in ("2", "1")]
    assert repair_mirrors(engine, Foreign()) == 1
    assert [row(engine, id_)[0] for id_ in ids] == ["failed", "done"]


def test_what_the_database_refuses_keeps_its_batch_from_nothing(engine: Engine) -> None:
    ids = [sent(engine, chat, user="alice", mirror="failed", said=chat) for chat in ("1", "2", "3")]
    refuse_messages(engine, "2")
    assert repair_mirrors(engine, InMemoryIdentityResolver()) == 2
    assert [row(engine, id_)[0] for id_ in ids] == ["done", "failed", "done"]
    assert [said for _, said, _ in messages(engine)] == ["1", "3"]


def refuse_messages(engine: Engine, content: str) -> None:
    """Let the database refuse messages with this content."""
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(
                text(f"ALTER TABLE message ADD CONSTRAINT refused CHECK (content <> '{content}')")
            )
        else:
            connection.execute(
                text(
                    "CREATE TRIGGER refused BEFORE INSERT ON message "
                    f"WHEN NEW.content = '{content}' BEGIN SELECT RAISE(ABORT, 'refused'); END"
                )
            )


def test_more_bad_rows_than_a_pass_takes_keep_no_later_one_waiting(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scheduler.mirror_repair._BATCH", 1)
    monkeypatch.setattr("scheduler.mirror_repair._BATCHES", 2)
    for _ in range(5):
        sent(engine, "2", user=None, mirror="failed")
    good = sent(engine, "1", user=None, mirror="failed")
    repair = MirrorRepair(engine, Failing())
    assert [repair.run() for _ in range(3)] == [0, 0, 1]
    assert row(engine, good)[0] == "done"


def test_what_a_person_was_sent_is_theirs_also_where_no_worker_noted_whose_it_is(
    engine: Engine,
) -> None:
    with engine.begin() as connection:
        id_ = outbox.insert(connection, [check(to="user:alice", text="Hello")])[0].id
        connection.execute(
            text(
                "UPDATE delivery SET state = 'sent', mirror = 'failed', ended_ms = 1, "
                "platform = 'slack', chat_id = 'D1' WHERE id = :id"
            ),
            {"id": id_},
        )
    assert repair_mirrors(engine, InMemoryIdentityResolver()) == 1
    assert [key for key, _, _ in messages(engine)] == ["alice"]


def test_a_group_is_in_no_persons_history(engine: Engine) -> None:
    resolver = InMemoryIdentityResolver()
    resolver.link("telegram", "1", "alice")
    sent(engine, "-1001", user=None, mirror="failed")
    assert repair_mirrors(engine, resolver) == 1
    assert [key for key, _, _ in messages(engine)] == ["telegram:-1001"]
