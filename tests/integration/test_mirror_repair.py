"""Mirror repair: what was sent and is in no history yet comes into the right one, once."""

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, text

from resolvers import InMemoryIdentityResolver, ResolverError
from scheduler.mirror_repair import repair_mirrors
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
