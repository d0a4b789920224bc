"""The limiter of a worker process: asks Redis for batches, and goes on without it as told.

Called by the gate, on the loop.
"""

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import inf, isfinite
from pathlib import Path

import orjson
import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from worker.limiter.scopes import (
    Ask,
    Batch,
    Paced,
    Paused,
    Spec,
    Windowed,
    batch,
    chat_key,
    pause_keys,
)
from worker.limiter.share import Share
from worker.platforms.base import Told
from worker.taxonomy import Scope

_log = structlog.get_logger(__name__)

_ASK = Path(__file__).with_name("ask.lua").read_text()
#: A pause is only ever made longer.
_PAUSE = """
local time = redis.call('TIME')
local till = time[1] * 1000 + time[2] / 1000 + ARGV[1]
if till > (tonumber(redis.call('GET', KEYS[1])) or 0) then
  redis.call('SET', KEYS[1], string.format('%.3f', till), 'PX', ARGV[1])
end
"""
#: Seconds after which is asked again while Redis is away: one that is frozen holds up, for as
#: long as its time limit, everything that asks.
_AWAY_S = 2.0
#: Chats whose limits are remembered as their platform told them.
_MOST_LEARNED = 10_000


@dataclass(frozen=True, slots=True)
class Permit:
    """What was decided of it.

    Attributes:
        granted: It may go after `wait_s`; else it asks again then.
        wait_s: Seconds from now.
        good_s: Seconds for which it is good after that; infinite where no limit is.
    """

    granted: bool
    wait_s: float
    good_s: float


class Limiter:
    """Give permits in the scopes that all workers share.

    Args:
        share: Of how many processes this one is while Redis is away, and sends at so small a
            part of each pace; `None` to send nothing then that is under a limit.
    """

    def __init__(
        self, redis: Redis, *, share: int | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._ask = redis.register_script(_ASK)
        self._pause = redis.register_script(_PAUSE)
        self._parts = share
        self._share = Share()
        self._clock = clock
        self._away_until = -inf
        self._learned: dict[str, Windowed] = {}

    async def permit(self, asks: Sequence[Ask]) -> list[Permit]:
        """Decide when each of a batch may go, in its order."""
        if not asks:
            return []
        asked = batch(asks, self._learned)
        waits = await self._in_redis(asked) if self._clock() >= self._away_until else None
        if waits is None:
            waits = self._without_redis(asked)
        return [
            Permit(wait >= 0, abs(wait) / 1000, good_s)
            for wait, good_s in zip(waits, asked.good_s, strict=True)
        ]

    async def _in_redis(self, asked: Batch) -> list[float] | None:
        """Give the waits in milliseconds; `None` when Redis does not answer."""
        try:
            answers: list[int] = await self._ask(keys=[], args=[in_json(asked)])
        except (RedisError, OSError) as error:
            count = len(asked.rows)
            _log.warning("limiter_unreachable", error=type(error).__name__, deliveries=count)
            self._away_until = self._clock() + _AWAY_S
            return None
        return [answer / 1000 for answer in answers]

    def _without_redis(self, asked: Batch) -> list[float]:
        now = self._clock() * 1000
        if self._parts is not None:
            parts = [_part(spec, self._parts) for spec in asked.specs]
            return self._share.ask(now, replace(asked, specs=parts))
        # Spread, so that what waits does not come as one when Redis is back.
        away = -1000 * _AWAY_S * random.uniform(0.75, 1.25)  # noqa: S311 - no secret
        # Only the pauses that this process saw itself are left of the scopes.
        pauses = [[*row[:3], *row[-4:]] for row in asked.rows]
        waits = self._share.ask(now, replace(asked, rows=pauses))
        return [
            min(away, -abs(wait)) if isfinite(good_s) else wait
            for wait, good_s in zip(waits, asked.good_s, strict=True)
        ]

    async def pause(
        self, platform: str, account: str, chat_id: str, scope: Scope, seconds: float
    ) -> None:
        """Stop a scope for everybody."""
        bot, chat = pause_keys(platform, account, chat_id)
        key = bot if scope is Scope.BOT else chat
        now = self._clock() * 1000
        self._share.pause(key, now + seconds * 1000, now)
        try:
            await self._pause(keys=[key], args=[max(1, int(seconds * 1000))])
        except (RedisError, OSError) as error:
            _log.warning("limiter_unreachable", error=type(error).__name__)

    async def learn(self, platform: str, account: str, chat_id: str, told: Told) -> None:
        """Go by what a platform said of a chat's limit."""
        if told.left == 0:
            await self.pause(platform, account, chat_id, Scope.CHAT, told.reset_after_s)
        key = chat_key(platform, account, chat_id)
        known = self._learned.pop(key, None)
        period_ms = told.reset_after_s * 1000
        if known is not None and known.count == told.limit:
            # An answer in the middle of a window names only what is left of it.
            period_ms = max(period_ms, known.period_ms)
        elif told.left != told.limit - 1:
            return
        self._learned[key] = Windowed(told.limit, period_ms)
        if len(self._learned) > _MOST_LEARNED:
            del self._learned[next(iter(self._learned))]


def in_json(asked: Batch) -> bytes:
    """Give a batch as the script reads it."""
    return orjson.dumps((asked.keys, [_told(spec) for spec in asked.specs], asked.rows))


def _told(spec: Spec) -> tuple[object, ...]:
    match spec:
        case Paced():
            return "p", spec.pace_ms, spec.slack_ms
        case Windowed():
            return "w", spec.count, spec.period_ms
        case Paused():
            return ("u",)


def _part(spec: Spec, parts: int) -> Spec:
    """Give one process's part of a scope."""
    match spec:
        case Paced():
            return Paced(spec.pace_ms * parts, 0.0)
        case Windowed():
            count = max(1, spec.count // parts)
            return Windowed(count, spec.period_ms * count * parts / spec.count)
        case _:
            return spec
