"""One suite over every resolver: whoever uses one may exchange it for another."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from redis import Redis
from sqlalchemy import create_engine, event
from sqlmodel import SQLModel

from resolvers import (
    FileIdentityResolver,
    IdentityLink,
    IdentityLinkRow,
    IdentityResolverProtocol,
    InMemoryIdentityResolver,
    InvalidIdentity,
    RedisIdentityResolver,
    SqlIdentityResolver,
    resolve_many,
    unlinked,
)

STORED = ["file", "sqlite", "postgresql", "redis"]
CACHED = ["sqlite", "postgresql", "redis"]


class Clock:
    """Seconds that pass when a test says so."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class Store:
    """One store, opened as often as asked: each resolver stands for one process."""

    def __init__(self, kind: str, address: str, closing: ExitStack) -> None:
        self.kind = kind
        self.address = address
        self._closing = closing

    def open(self, clock: Callable[[], float] | None = None) -> IdentityResolverProtocol:
        clocked = {} if clock is None else {"clock": clock}
        match self.kind:
            case "memory":
                return InMemoryIdentityResolver()
            case "file":
                return FileIdentityResolver(self.address)
            case "redis":
                resolver = RedisIdentityResolver(self.address, **clocked)
                self._closing.callback(resolver.close)
                return resolver
        engine = create_engine(self.address)
        self._closing.callback(engine.dispose)
        SQLModel.metadata.create_all(engine, tables=[IdentityLinkRow.__table__])
        return SqlIdentityResolver(engine, **clocked)


@pytest.fixture(params=["memory", *STORED])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    match request.param:
        case "memory":
            address = ""
        case "file":
            address = str(tmp_path / "identity.json")
        case "sqlite":
            address = f"sqlite:///{tmp_path / 'links.db'}"
        case "postgresql":
            address = request.getfixturevalue("postgres_url")
        case "redis":
            address = request.getfixturevalue("redis_url")
    with ExitStack() as closing:
        yield Store(request.param, address, closing)


@pytest.fixture
def resolver(store: Store) -> IdentityResolverProtocol:
    return store.open()


def only(*kinds: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("store", kinds, indirect=True)


def test_it_satisfies_the_protocol(resolver: IdentityResolverProtocol) -> None:
    assert isinstance(resolver, IdentityResolverProtocol)


def test_nobody_is_linked_by_guess(resolver: IdentityResolverProtocol) -> None:
    resolver.link("telegram", "42", "alice")

    assert resolver.resolve("telegram", "43") == "telegram:43"
    assert resolver.resolve("discord", "42") == "discord:42"
    assert resolver.resolve("Telegram", "42") == "Telegram:42"
    assert resolver.resolve("telegram", "") == "telegram:"
    assert resolver.links_for("telegram:43") == []
    assert resolver.links_for("Alice") == []


def test_a_person_is_one_on_every_linked_platform(resolver: IdentityResolverProtocol) -> None:
    before = datetime.now(UTC) - timedelta(milliseconds=1)
    resolver.link("telegram", "42", "alice")
    resolver.link("slack", "U1", "alice")
    resolver.link("discord", "7", "alice")
    resolver.link("discord", "8", "bob")

    assert [resolver.resolve(*account) for account in (("telegram", "42"), ("slack", "U1"))] == [
        "alice",
        "alice",
    ]
    links = resolver.links_for("alice")
    assert links == [
        IdentityLink("discord", "7", "alice"),
        IdentityLink("slack", "U1", "alice"),
        IdentityLink("telegram", "42", "alice"),
    ]
    for link in links:
        assert link.created_at is not None
        assert before <= link.created_at <= datetime.now(UTC)
        assert link.created_at.tzinfo is UTC


def test_a_link_is_seen_at_once_by_who_made_it(resolver: IdentityResolverProtocol) -> None:
    assert resolver.resolve("telegram", "42") == "telegram:42"
    resolver.link("telegram", "42", "alice")
    assert resolver.resolve("telegram", "42") == "alice"
    resolver.link("telegram", "42", "bob")
    assert resolver.resolve("telegram", "42") == "bob"
    resolver.unlink("telegram", "42")
    assert resolver.resolve("telegram", "42") == "telegram:42"


def test_linking_elsewhere_takes_the_account_along(resolver: IdentityResolverProtocol) -> None:
    resolver.link("telegram", "42", "alice")
    resolver.link("slack", "U1", "alice")
    resolver.link("telegram", "42", "bob")

    assert resolver.links_for("alice") == [IdentityLink("slack", "U1", "alice")]
    assert resolver.links_for("bob") == [IdentityLink("telegram", "42", "bob")]


def test_linking_again_keeps_the_time_of_the_first(resolver: IdentityResolverProtocol) -> None:
    resolver.link("telegram", "42", "alice")
    [first] = resolver.links_for("alice")
    _let_a_millisecond_pass()
    resolver.link("telegram", "42", "alice")
    [again] = resolver.links_for("alice")
    resolver.link("telegram", "42", "bob")
    [moved] = resolver.links_for("bob")

    assert first.created_at is not None
    assert moved.created_at is not None
    assert again.created_at == first.created_at
    assert moved.created_at > first.created_at


def _let_a_millisecond_pass() -> None:
    start = datetime.now(UTC)
    while datetime.now(UTC) - start < timedelta(milliseconds=2):
        pass


def test_unlinking_forgets_one_account_only(resolver: IdentityResolverProtocol) -> None:
    resolver.link("telegram", "42", "alice")
    resolver.link("slack", "U1", "alice")

    resolver.unlink("telegram", "42")
    resolver.unlink("telegram", "never linked")

    assert resolver.resolve("telegram", "42") == "telegram:42"
    assert resolver.links_for("alice") == [IdentityLink("slack", "U1", "alice")]
    resolver.unlink("slack", "U1")
    assert resolver.links_for("alice") == []


@pytest.mark.parametrize(
    ("platform", "user_id", "unified"),
    [
        ("matrix", "@alice:example.org", "alice"),
        ("whatsapp", "49:170::1", "a::b:c"),
        ("a:b", "c", "x"),
        ("a", "b:c", "y"),
        ("a::b", ":", "::"),
        ("telegram", "Zoë ☃ 🙂", "Ünïfied 名"),
        ("telegram", 'quote " back \\ new\nline', '"'),
        ("telegram", "100%_'; DROP TABLE identity_link; --", "%"),
        ("telegram", " 42 ", "4 2 "),
        ("p" * 64, "i" * 512, "u" * 512),
        ("🦊" * 64, "🦉" * 512, "🐝" * 512),
    ],
)
def test_ids_come_back_to_the_letter(
    store: Store, platform: str, user_id: str, unified: str
) -> None:
    first = store.open()
    first.link(platform, user_id, unified)
    resolver = first if store.kind == "memory" else store.open()

    assert resolver.resolve(platform, user_id) == unified
    assert resolver.links_for(unified) == [IdentityLink(platform, user_id, unified)]
    resolver.unlink(platform, user_id)
    assert resolver.resolve(platform, user_id) == unlinked(platform, user_id)


def test_accounts_that_read_alike_are_two(resolver: IdentityResolverProtocol) -> None:
    resolver.link("a:b", "c", "first")
    resolver.link("a", "b:c", "second")

    assert resolver.resolve("a:b", "c") == "first"
    assert resolver.resolve("a", "b:c") == "second"
    resolver.unlink("a", "b:c")
    assert resolver.resolve("a:b", "c") == "first"


@pytest.mark.parametrize(
    ("link", "message"),
    [
        (("", "42", "alice"), "the platform is empty: give the id as"),
        (("telegram", "", "alice"), "the platform user id is empty"),
        (("telegram", "42", ""), "the unified user id is empty"),
        (("telegram", "42", " \t"), "the unified user id is empty"),
        ((None, "42", "alice"), "the platform is NoneType: give it as text"),
        (("telegram", 42, "alice"), "the platform user id is int: give it as text"),
        (("telegram", "42", b"alice"), "the unified user id is bytes: give it as text"),
        (("p" * 65, "42", "alice"), "the platform has 65 characters: at most 64"),
        (("telegram", "4" * 513, "alice"), "has 513 characters: at most 512"),
        (("telegram", "42", "a" * 513), "has 513 characters: at most 512"),
        (("telegram", "4\x002", "alice"), "contains a NUL character"),
        (("telegram", "42", "\ud800"), "is not valid Unicode"),
    ],
)
def test_a_bad_link_is_refused_and_nothing_stored(
    store: Store, link: tuple[str, str, str], message: str
) -> None:
    resolver = store.open()

    with pytest.raises(InvalidIdentity, match=message) as caught:
        resolver.link(*link)

    assert isinstance(caught.value, ValueError)
    assert "\n" not in str(caught.value)
    assert resolver.links() == []


def test_resolving_a_number_is_an_error_and_not_a_stranger(
    resolver: IdentityResolverProtocol,
) -> None:
    resolver.link("telegram", "42", "alice")

    with pytest.raises(InvalidIdentity, match="user id is int: give it as text"):
        resolver.resolve("telegram", 42)  # type: ignore[arg-type]


def test_an_account_that_cannot_be_linked_resolves_to_itself(
    resolver: IdentityResolverProtocol,
) -> None:
    for user_id in ("4\x002", "\ud800", "4" * 513):
        assert resolver.resolve("telegram", user_id) == f"telegram:{user_id}"


def test_links_are_listed_by_account_up_to_a_limit(store: Store) -> None:
    resolver = store.open()
    for number in range(5, -1, -1):
        resolver.link(f"p{number % 2}", str(number), f"user{number}")

    assert [(link.platform, link.platform_user_id) for link in resolver.links()] == [
        ("p0", "0"),
        ("p0", "2"),
        ("p0", "4"),
        ("p1", "1"),
        ("p1", "3"),
        ("p1", "5"),
    ]
    assert len(resolver.links(limit=4)) == 4
    assert resolver.links(limit=0) == []


def test_many_accounts_are_answered_in_order(resolver: IdentityResolverProtocol) -> None:
    for number in range(0, 1200, 2):
        if number < 40:
            resolver.link(("telegram", "slack")[number % 4 // 2], str(number), f"user{number}")
    accounts = [(("telegram", "slack")[n % 4 // 2], str(n)) for n in range(1199, -1, -1)]

    assert resolve_many(resolver, [*accounts, accounts[0]]) == [
        resolver.resolve(*account) for account in [*accounts, accounts[0]]
    ]
    assert resolve_many(resolver, accounts[-40:])[-3:] == ["user2", "telegram:1", "user0"]
    assert resolve_many(resolver, []) == []


@only("sqlite", "postgresql")
def test_a_chunk_is_one_statement(store: Store) -> None:
    resolver = store.open()
    statements: list[str] = []
    event.listen(
        resolver._engine,  # type: ignore[attr-defined]
        "before_cursor_execute",
        lambda _connection, _cursor, statement, *_: statements.append(statement),
    )

    resolve_many(resolver, [(("telegram", "slack")[n % 2], str(n)) for n in range(64)])

    assert len(statements) == 1


@only("redis")
def test_a_chunk_is_one_command(store: Store) -> None:
    resolver = store.open()
    with Redis.from_url(store.address) as client:
        client.config_resetstat()
        resolve_many(resolver, [(("telegram", "slack")[n % 2], str(n)) for n in range(64)])
        commands = {name: said["calls"] for name, said in client.info("commandstats").items()}

    assert {name: calls for name, calls in commands.items() if "get" in name} == {
        "cmdstat_hmget": 1
    }


@only(*STORED)
def test_links_outlive_the_resolver(store: Store) -> None:
    before = store.open()
    before.link("telegram", "42", "alice")
    [link] = before.links_for("alice")

    after = store.open()

    assert after.resolve("telegram", "42") == "alice"
    assert [same.created_at for same in after.links_for("alice")] == [link.created_at]


@only(*CACHED)
def test_anothers_change_is_seen_after_one_second_at_the_latest(store: Store) -> None:
    clock = Clock()
    mine, other = store.open(clock), store.open()
    assert mine.resolve("telegram", "42") == "telegram:42"

    other.link("telegram", "42", "alice")
    clock.now_s = 1.0
    assert mine.resolve("telegram", "42") == "alice"

    other.unlink("telegram", "42")
    clock.now_s = 1.999
    assert mine.resolve("telegram", "42") == "alice"
    clock.now_s = 2.0
    assert mine.resolve("telegram", "42") == "telegram:42"


def test_threads_that_link_at_once_lose_nothing(resolver: IdentityResolverProtocol) -> None:
    start = threading.Barrier(8)
    wrong: list[object] = []

    def work(thread: int) -> None:
        start.wait(timeout=30)
        try:
            for number in range(10):
                resolver.link("telegram", f"{thread}:{number}", f"user{number}")
                resolver.link("slack", "shared", f"owner{thread}")
                resolver.link("discord", f"{thread}", "gone")
                resolver.unlink("discord", f"{thread}")
                if resolver.resolve("telegram", f"{thread}:{number}") != f"user{number}":
                    wrong.append((thread, number))
        except Exception as error:  # noqa: BLE001 - shown by the assertion below
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(thread,)) for thread in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)

    assert wrong == []
    for number in range(10):
        assert len(resolver.links_for(f"user{number}")) == 8
    assert resolver.links_for("gone") == []
    owners = [link for t in range(8) for link in resolver.links_for(f"owner{t}")]
    assert [link.unified_user_id for link in owners] == [resolver.resolve("slack", "shared")]


@only("redis")
def test_a_client_that_decodes_by_itself_will_do(store: Store) -> None:
    with Redis.from_url(store.address, decode_responses=True) as client:
        resolver = RedisIdentityResolver(client)
        resolver.link("telegram", "42", "alice")
        resolver.close()

        assert RedisIdentityResolver(client).resolve("telegram", "42") == "alice"
        assert (
            resolver.links_for("alice")
            == resolver.links()
            == [IdentityLink("telegram", "42", "alice")]
        )


@only("redis")
def test_a_redis_that_forgot_its_scripts_still_links(store: Store) -> None:
    resolver = store.open()
    resolver.link("telegram", "42", "alice")
    with Redis.from_url(store.address) as client:
        client.script_flush()

    resolver.link("telegram", "43", "alice")
    resolver.unlink("telegram", "42")

    assert resolver.links_for("alice") == [IdentityLink("telegram", "43", "alice")]


@only("redis")
def test_unlinked_accounts_leave_nothing_in_redis(store: Store) -> None:
    resolver = store.open()
    resolver.link("telegram", "42", "alice")
    resolver.link("telegram", "42", "bob")
    resolver.unlink("telegram", "42")

    with Redis.from_url(store.address) as client:
        assert client.keys("*") == []
