"""The session context: contextvars, so that what runs beside never sees it."""

import asyncio
import threading
from contextvars import ContextVar, Token, copy_context
from dataclasses import FrozenInstanceError

import pytest

from resolvers import (
    SessionContext,
    clear_session_context,
    get_session_context,
    set_session_context,
)

ALICE = SessionContext(
    platform="telegram",
    chat_id="-100:1",
    chat_name="Family",
    thread_id="7",
    user_id="42",
    user_name="Alice",
    unified_user_id="alice",
)


def test_unset_context_is_empty() -> None:
    assert copy_context().run(get_session_context) == SessionContext()
    assert set(SessionContext().to_dict().values()) == {""}


def test_context_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        ALICE.platform = "discord"  # type: ignore[misc]


def test_context_survives_a_round_trip_through_a_dict() -> None:
    assert SessionContext.from_dict(ALICE.to_dict()) == ALICE
    assert list(ALICE.to_dict()) == [
        "platform",
        "chat_id",
        "chat_name",
        "thread_id",
        "user_id",
        "user_name",
        "unified_user_id",
    ]


def test_from_dict_ignores_unknown_keys_and_makes_everything_text() -> None:
    given = {"platform": "telegram", "chat_id": -100123, "thread_id": None, "origin": {"a": 1}}

    assert SessionContext.from_dict(given) == SessionContext(platform="telegram", chat_id="-100123")


def test_set_takes_fields_or_a_whole_context_and_never_both() -> None:
    def check() -> None:
        set_session_context("telegram", "-100:1", unified_user_id="alice")
        assert get_session_context() == SessionContext(
            platform="telegram", chat_id="-100:1", unified_user_id="alice"
        )
        set_session_context(ALICE)
        assert get_session_context() == ALICE
        set_session_context(context=SessionContext(platform="slack"))
        assert get_session_context() == SessionContext(platform="slack")
        with pytest.raises(TypeError, match="not both"):
            set_session_context(ALICE, user_id="43")
        assert get_session_context() == SessionContext(platform="slack")

    copy_context().run(check)


def test_clear_puts_back_the_outer_context() -> None:
    def check() -> None:
        outer = set_session_context(ALICE)
        inner = set_session_context(platform="discord")
        clear_session_context(inner)
        assert get_session_context() == ALICE
        clear_session_context(outer)
        assert get_session_context() == SessionContext()

    copy_context().run(check)


def test_clearing_twice_leaves_the_outer_context_alone() -> None:
    def check() -> None:
        set_session_context(ALICE)
        inner = set_session_context(platform="discord")
        clear_session_context(inner)
        clear_session_context(inner)
        assert get_session_context() == ALICE

    copy_context().run(check)


def _token_of_another_variable() -> Token[str]:
    return ContextVar[str]("other").set("value")


def _token_of_another_context() -> Token[SessionContext]:
    return copy_context().run(set_session_context, "slack")


@pytest.mark.parametrize(
    "make_token",
    [_token_of_another_variable, _token_of_another_context, lambda: None, lambda: "garbage"],
    ids=["another variable", "another context", "None", "garbage"],
)
def test_a_foreign_token_empties_the_context_and_never_raises(make_token: object) -> None:
    def check() -> None:
        assert callable(make_token)
        set_session_context(ALICE)
        clear_session_context(make_token())
        assert get_session_context() == SessionContext()

    copy_context().run(check)


def test_a_thousand_tasks_never_see_each_others_context() -> None:
    everybody_has_set = 0

    async def deliver(number: int, all_set: asyncio.Event) -> tuple[str, str]:
        nonlocal everybody_has_set
        token = set_session_context(user_id=str(number))
        everybody_has_set += 1
        if everybody_has_set == 1000:
            all_set.set()
        await all_set.wait()
        # A hook called in a child task and one in a thread see their delivery's context.
        in_child = await asyncio.create_task(_user_id())
        in_thread = await asyncio.to_thread(lambda: get_session_context().user_id)
        assert in_child == in_thread
        clear_session_context(token)
        return in_child, get_session_context().user_id

    async def main() -> list[tuple[str, str]]:
        all_set = asyncio.Event()
        return await asyncio.gather(*(deliver(number, all_set) for number in range(1000)))

    seen = copy_context().run(asyncio.run, main())

    assert seen == [(str(number), "") for number in range(1000)]


async def _user_id() -> str:
    return get_session_context().user_id


def test_64_threads_never_see_each_others_context() -> None:
    all_set = threading.Barrier(64)
    seen: dict[int, tuple[str, str, str]] = {}

    def deliver(number: int) -> None:
        before = get_session_context().user_id
        token = set_session_context(user_id=str(number))
        all_set.wait(timeout=30)
        during = get_session_context().user_id
        all_set.wait(timeout=30)
        clear_session_context(token)
        seen[number] = (before, during, get_session_context().user_id)

    threads = [threading.Thread(target=deliver, args=(number,)) for number in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)

    assert seen == {number: ("", str(number), "") for number in range(64)}
