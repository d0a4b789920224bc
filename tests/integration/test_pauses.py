import asyncio

from redis.asyncio import Redis

from tests.limiters import Pauses
from worker.taxonomy import Scope

CHAT = ("matrix", "", "5")
OTHER = ("matrix", "", "6")
SECOND_BOT = ("matrix", "second", "5")


def with_pauses(url, use):
    async def run():
        one, two = Redis.from_url(url), Redis.from_url(url)
        try:
            return await use(Pauses(one), Pauses(two))
        finally:
            await one.aclose()
            await two.aclose()

    return asyncio.run(run())


def test_a_pause_of_a_chat_is_every_workers_at_once(redis_url):
    async def use(mine, yours):
        await mine.pause(*CHAT, Scope.CHAT, 30)
        return await yours.left_s([CHAT, OTHER, SECOND_BOT])

    chat, other, second = with_pauses(redis_url, use)
    assert 29 < chat <= 30
    assert (other, second) == (0, 0)


def test_a_pause_of_a_bot_stops_all_its_chats_and_no_other_bot(redis_url):
    async def use(mine, yours):
        await mine.pause(*CHAT, Scope.BOT, 30)
        return await yours.left_s([CHAT, OTHER, SECOND_BOT])

    chat, other, second = with_pauses(redis_url, use)
    assert chat > 29
    assert other > 29
    assert second == 0


def test_a_pause_is_only_ever_made_longer(redis_url):
    async def use(mine, yours):
        await mine.pause(*CHAT, Scope.CHAT, 30)
        await yours.pause(*CHAT, Scope.CHAT, 3)
        return await mine.left_s([CHAT])

    assert with_pauses(redis_url, use)[0] > 29


def test_a_worker_goes_by_what_it_saw_itself_while_redis_is_away(redis_server):
    async def use(mine, yours):
        redis_server.kill()
        await mine.pause(*CHAT, Scope.CHAT, 30)
        return await mine.left_s([CHAT]), await yours.left_s([CHAT])

    mine, yours = with_pauses(redis_server.url, use)
    assert mine[0] > 29
    assert yours == [0]
