"""Links and schedules that follow a chat to its new id, on both databases."""

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, text

from resolvers import InMemoryIdentityResolver, ResolverError
from scheduler import schedule_views, schedules
from scheduler.fire import fire_due
from scheduler.moves import follow_moves
from worker import dead
from worker.database import engine as make_engine
from worker.database import migrate
from worker.dead import Tried
from worker.taxonomy import ErrorKind, Failure


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    made = make_engine(database_url)
    migrate(made)
    yield made
    made.dispose()


@pytest.fixture
def resolver() -> InMemoryIdentityResolver:
    return InMemoryIdentityResolver()


def move(engine: Engine, old: str = "-5", new: str = "-1006", account: str = "") -> None:
    failure = Failure(ErrorKind.TARGET_MOVED, "was upgraded", moved_to=new)
    with engine.begin() as connection:
        dead.note(connection, [Tried("d1", "telegram", account, old, "", failure)])


def add(engine: Engine, name: str, to: str) -> None:
    schedules.add(engine, name, to=to, text=f"to {to}", cron="0 9 * * *")


def goes_to(engine: Engine, name: str) -> object:
    message = schedule_views.get(engine, name).message
    assert isinstance(message, dict)
    return message["to"]


def test_schedules_of_the_bot_that_was_told_go_on_at_the_new_id(
    engine: Engine, resolver: InMemoryIdentityResolver
) -> None:
    targets = {
        "plain": "telegram:-5",
        "topic": "telegram:-5#7",
        "other-bot": "telegram@second:-5",
        "longer": "telegram:-55",
        "elsewhere": "slack:C5",
    }
    for name, to in targets.items():
        add(engine, name, to)
    schedules.pause(engine, "topic", note="holidays")
    planned = schedule_views.get(engine, "plain").next_fire
    move(engine)

    assert follow_moves(engine, resolver) == 1
    assert {name: goes_to(engine, name) for name in targets} == {
        **targets,
        "plain": "telegram:-1006",
        "topic": "telegram:-1006#7",
    }
    assert schedule_views.get(engine, "plain").next_fire == planned
    assert schedule_views.get(engine, "topic").note == "holidays"
    move(engine, account="second")
    follow_moves(engine, resolver)
    assert goes_to(engine, "other-bot") == "telegram@second:-1006"
    assert follow_moves(engine, resolver) == 0


def test_a_move_that_goes_further_is_followed_again(
    engine: Engine, resolver: InMemoryIdentityResolver
) -> None:
    add(engine, "tea", "telegram:-5")
    move(engine)
    follow_moves(engine, resolver)
    move(engine, "-1006", "-1007")
    follow_moves(engine, resolver)
    assert goes_to(engine, "tea") == "telegram:-1007"


def test_the_new_id_is_whoever_the_old_one_was(
    engine: Engine, resolver: InMemoryIdentityResolver
) -> None:
    resolver.link("telegram", "-5", "book-club")
    resolver.link("telegram", "-1009", "chess-club")
    move(engine)
    move(engine, "-7", "-1008")
    move(engine, "-8", "-1009")
    assert follow_moves(engine, resolver) == 3
    assert resolver.resolve("telegram", "-1006") == "book-club"
    assert resolver.resolve("telegram", "-5") == "book-club"
    assert resolver.resolve("telegram", "-1008") == "telegram:-7"
    assert resolver.resolve("telegram", "-1009") == "chess-club"


def test_a_resolver_that_fails_now_is_asked_again(engine: Engine) -> None:
    class Away(InMemoryIdentityResolver):
        away = True

        def link(self, platform: str, platform_user_id: str, unified_user_id: str) -> None:
            if self.away:
                raise ResolverError("the store is away")
            super().link(platform, platform_user_id, unified_user_id)

    resolver = Away()
    add(engine, "tea", "telegram:-5")
    move(engine)
    assert follow_moves(engine, resolver) == 0
    assert goes_to(engine, "tea") == "telegram:-5"
    resolver.away = False
    assert follow_moves(engine, resolver) == 1
    assert goes_to(engine, "tea") == "telegram:-1006"


def test_what_is_no_message_is_left_alone(
    engine: Engine, resolver: InMemoryIdentityResolver
) -> None:
    wrong = ['"telegram:-5"', '{"text": "to telegram:-5"}', '{"to": "telegram:-5"}']
    with engine.begin() as connection:
        for n, message in enumerate(wrong):
            connection.execute(
                text(
                    "INSERT INTO schedule (id, name, spec, message) "
                    "VALUES (:id, :id, :spec, :message)"
                ),
                {"id": f"s{n}", "spec": '{"cron": "0 9 * * *"}', "message": message},
            )
    fire_due(engine, by="test")
    move(engine)
    assert follow_moves(engine, resolver) == 1
    assert {view.state for view in schedule_views.list_(engine)} == {"broken"}
