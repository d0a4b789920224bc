"""Pauses at their edges: two at once, shorter ones, ended ones, and Redis away or empty."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from redis.asyncio import Redis

from tests.limiters import Pauses
from tests.servers import RedisServer
from worker.taxonomy import Scope

HERE = ("matrix", "", "1")
ELSEWHERE = ("matrix", "", "2")
OTHER_BOT = ("matrix", "second", "1")
OTHER_PLATFORM = ("webhook", "", "1")


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def worker(url: str, clock: Clock | None = None) -> AsyncIterator[Pauses]:
    async with Redis.from_url(url, socket_timeout=2, socket_connect_timeout=2) as redis:
        yield Pauses(redis, clock or Clock())


def two_workers(url: str, act: Callable[[Pauses, Pauses], Awaitable[None]]) -> None:
    async def run() -> None:
        async with worker(url) as first, worker(url) as second:
            await act(first, second)

    asyncio.run(run())


def test_of_a_bot_s_and_a_chat_s_pause_the_longer_one_counts(redis_url: str) -> None:
    async def act(first: Pauses, second: Pauses) -> None:
        await first.pause(*HERE, Scope.BOT, 30)
        await first.pause(*HERE, Scope.CHAT, 300)
        here, elsewhere = await second.left_s([HERE, ELSEWHERE])
        assert here > 250
        assert 25 < elsewhere <= 30

    two_workers(redis_url, act)


def test_a_pause_is_only_ever_made_longer(redis_url: str) -> None:
    async def act(first: Pauses, second: Pauses) -> None:
        await first.pause(*HERE, Scope.CHAT, 30)
        await second.pause(*HERE, Scope.CHAT, 1)
        [left] = await first.left_s([HERE])
        assert left > 25
        await second.pause(*HERE, Scope.CHAT, 300)
        [left] = await first.left_s([HERE])
        assert left > 250

    two_workers(redis_url, act)


def test_a_pause_ends_by_itself(redis_url: str) -> None:
    async def act(first: Pauses, second: Pauses) -> None:
        await first.pause(*HERE, Scope.CHAT, 0.05)
        async with asyncio.timeout(5):
            while any(await second.left_s([HERE])):
                pass
        await first.pause(*HERE, Scope.CHAT, 0.0)

    two_workers(redis_url, act)


def test_nothing_asked_is_nothing_answered(redis_url: str) -> None:
    async def act(first: Pauses, second: Pauses) -> None:
        assert await first.left_s([]) == []

    two_workers(redis_url, act)


def test_without_redis_a_worker_goes_by_the_pauses_that_it_saw_itself(
    redis_server: RedisServer,
) -> None:
    async def run() -> None:
        clock = Clock()
        async with worker(redis_server.url, clock) as saw, worker(redis_server.url) as other:
            await saw.pause(*HERE, Scope.CHAT, 30)
            redis_server.kill()
            assert await saw.left_s([HERE, ELSEWHERE]) == [30.0, 0.0]
            assert await other.left_s([HERE]) == [0.0]
            clock.now += 29
            assert await saw.left_s([HERE]) == [1.0]
            clock.now += 2
            assert await saw.left_s([HERE]) == [0.0]

    asyncio.run(run())


def test_without_redis_a_new_pause_is_kept_and_only_made_longer(redis_server: RedisServer) -> None:
    async def run() -> None:
        async with worker(redis_server.url) as pauses:
            redis_server.kill()
            await pauses.pause(*HERE, Scope.BOT, 30)
            await pauses.pause(*HERE, Scope.BOT, 1)
            assert await pauses.left_s([ELSEWHERE]) == [30.0]
            await pauses.pause(*HERE, Scope.BOT, 60)
            assert await pauses.left_s([ELSEWHERE]) == [60.0]

    asyncio.run(run())


def test_a_redis_that_came_back_empty_is_used_again(redis_server: RedisServer) -> None:
    async def run() -> None:
        async with worker(redis_server.url) as first, worker(redis_server.url) as second:
            await first.pause(*HERE, Scope.CHAT, 30)
            redis_server.kill()
            await first.left_s([HERE])
            redis_server.start()
            await first.pause(*HERE, Scope.CHAT, 30)
            [left] = await second.left_s([HERE])
            assert left > 25

    asyncio.run(run())


@pytest.mark.parametrize("seconds", [1e-9, 86_400.0])
def test_any_length_can_be_written(redis_url: str, seconds: float) -> None:
    async def act(first: Pauses, second: Pauses) -> None:
        await first.pause(*HERE, Scope.CHAT, seconds)
        [left] = await second.left_s([HERE])
        assert left <= seconds + 0.001

    two_workers(redis_url, act)
