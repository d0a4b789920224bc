"""The cache of the stored resolvers: bounded in time, in size, and never over own changes."""

from collections.abc import Mapping

import pytest

from resolvers import InvalidIdentity, ResolverError
from resolvers.cache import AnswerCache
from resolvers.protocol import Account

ALICE = ("telegram", "1")
BOB = ("telegram", "2")


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class Store:
    def __init__(self) -> None:
        self.links: dict[Account, str] = {}
        self.asked: list[list[Account]] = []

    def fetch(self, accounts: list[Account]) -> Mapping[Account, str]:
        self.asked.append(accounts)
        return {account: self.links[account] for account in accounts if account in self.links}


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store() -> Store:
    return Store()


def test_an_answer_is_remembered_for_less_than_a_second(clock: Clock, store: Store) -> None:
    cache = AnswerCache(1.0, 10, clock)
    assert cache.resolve([ALICE], store.fetch) == ["telegram:1"]
    store.links[ALICE] = "alice"

    clock.now_s += 0.999
    assert cache.resolve([ALICE], store.fetch) == ["telegram:1"]
    clock.now_s += 0.001
    assert cache.resolve([ALICE], store.fetch) == ["alice"]
    assert len(store.asked) == 2


def test_a_slow_read_counts_as_old_as_its_question(clock: Clock, store: Store) -> None:
    cache = AnswerCache(1.0, 10, clock)

    def slow_fetch(accounts: list[Account]) -> Mapping[Account, str]:
        answer = store.fetch(accounts)
        clock.now_s += 0.9
        return answer

    cache.resolve([ALICE], slow_fetch)
    store.links[ALICE] = "alice"
    clock.now_s += 0.1

    assert cache.resolve([ALICE], store.fetch) == ["alice"]


def test_an_older_read_that_ends_later_does_not_replace_a_newer_answer(
    clock: Clock, store: Store
) -> None:
    cache = AnswerCache(1.0, 10, clock)

    def overtaken_fetch(accounts: list[Account]) -> Mapping[Account, str]:
        answer = store.fetch(accounts)
        store.links[ALICE] = "alice"
        clock.now_s += 0.1
        assert cache.resolve([ALICE], store.fetch) == ["alice"]
        return answer

    assert cache.resolve([ALICE], overtaken_fetch) == ["telegram:1"]
    assert cache.resolve([ALICE], store.fetch) == ["alice"]


def test_a_change_during_a_read_is_not_hidden_by_what_was_read(clock: Clock, store: Store) -> None:
    cache = AnswerCache(1.0, 10, clock)

    def overtaken_fetch(accounts: list[Account]) -> Mapping[Account, str]:
        answer = store.fetch(accounts)
        store.links[ALICE] = "alice"
        cache.forget(ALICE)
        return answer

    cache.resolve([ALICE], overtaken_fetch)

    assert cache.resolve([ALICE], store.fetch) == ["alice"]


def test_the_oldest_answers_make_room(clock: Clock, store: Store) -> None:
    cache = AnswerCache(1.0, 2, clock)
    for user_id in ("1", "2", "3"):
        cache.resolve([("telegram", user_id)], store.fetch)
    store.asked.clear()

    cache.resolve([("telegram", "3"), ("telegram", "2"), ("telegram", "1")], store.fetch)

    assert store.asked == [[("telegram", "1")]]


def test_more_accounts_than_the_size_leave_no_more_than_the_size(
    clock: Clock, store: Store
) -> None:
    cache = AnswerCache(1.0, 100, clock)
    many = [("telegram", str(number)) for number in range(1000)]

    assert cache.resolve(many, store.fetch)[999] == "telegram:999"

    store.asked.clear()
    cache.resolve(many, store.fetch)
    assert len(store.asked[0]) == 900


def test_many_accounts_are_one_question_each_account_once(clock: Clock, store: Store) -> None:
    store.links[BOB] = "bob"
    cache = AnswerCache(1.0, 10, clock)

    assert cache.resolve([BOB, ALICE, BOB], store.fetch) == ["bob", "telegram:1", "bob"]
    assert store.asked == [[BOB, ALICE]]
    assert cache.resolve([], store.fetch) == []


def test_a_ttl_of_zero_remembers_nothing(clock: Clock, store: Store) -> None:
    cache = AnswerCache(0, 10, clock)
    cache.resolve([ALICE], store.fetch)
    store.links[ALICE] = "alice"

    assert cache.resolve([ALICE], store.fetch) == ["alice"]


def test_accounts_that_cannot_be_linked_are_not_asked_for(clock: Clock, store: Store) -> None:
    cache = AnswerCache(1.0, 10, clock)

    assert cache.resolve([("telegram", "a\x00b"), ("telegram", "\ud800")], store.fetch) == [
        "telegram:a\x00b",
        "telegram:\ud800",
    ]
    with pytest.raises(InvalidIdentity, match="user id is int: give it as text"):
        cache.resolve([("telegram", 5)], store.fetch)  # type: ignore[list-item]
    assert store.asked == []


@pytest.mark.parametrize(("ttl_s", "size"), [(1.1, 10), (-0.1, 10), (1.0, 0)])
def test_a_cache_that_breaks_the_promise_is_refused(ttl_s: float, size: int) -> None:
    with pytest.raises(ResolverError, match="at least"):
        AnswerCache(ttl_s, size)
