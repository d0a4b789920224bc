"""Limiters as tests ask them."""

from collections.abc import Callable, Sequence

from redis.asyncio import Redis

from worker.lanes import Lane
from worker.limiter import Ask, Limiter


class Pauses(Limiter):
    """A worker's limiter, asked only for how long places are stopped."""

    def __init__(self, redis: Redis, clock: Callable[[], float] | None = None) -> None:
        super().__init__(redis, share=None, **({"clock": clock} if clock else {}))

    async def left_s(self, places: Sequence[tuple[str, str, str]]) -> list[float]:
        """Give the seconds for which each (platform, account, chat) has to wait."""
        permits = await self.permit([Ask(*place, Lane.REPLY) for place in places])
        return [permit.wait_s for permit in permits]
