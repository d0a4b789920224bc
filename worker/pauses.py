"""Pauses: a platform's retry-after, which is everybody's.

Kept in Redis under a key a scope, so that every worker sees it at once, and asked for a
whole chunk in one call. While Redis is away this process goes by the pauses that it saw
itself.
"""

import time
from collections.abc import Callable, Sequence

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from worker.taxonomy import Scope

_log = structlog.get_logger(__name__)

#: Milliseconds left of each key, on Redis' clock.
_LEFT = "local r = {} for i, k in ipairs(KEYS) do r[i] = redis.call('PTTL', k) end return r"
#: A pause is only ever made longer.
_PAUSE = (
    "if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[1]) then "
    "redis.call('SET', KEYS[1], 1, 'PX', ARGV[1]) end"
)


class Pauses:
    """Which bots and chats must not be written to, and for how long."""

    def __init__(self, redis: Redis, clock: Callable[[], float] = time.monotonic) -> None:
        self._left = redis.register_script(_LEFT)
        self._pause = redis.register_script(_PAUSE)
        self._clock = clock
        self._seen: dict[str, float] = {}

    async def left_s(self, places: Sequence[tuple[str, str, str]]) -> list[float]:
        """Give the seconds for which each (platform, account, chat) has to wait, 0.0 for none."""
        scopes = {key: 0.0 for place in places for key in _keys(*place)}
        keys = list(scopes)
        try:
            for key, left_ms in zip(keys, await self._left(keys=keys), strict=True):
                scopes[key] = max(0, left_ms) / 1000
        except (RedisError, OSError) as error:
            _log.warning("pauses_unreachable", error=type(error).__name__)
            now = self._clock()
            for key in keys:
                scopes[key] = max(0.0, self._seen.get(key, now) - now)
        return [max(scopes[key] for key in _keys(*place)) for place in places]

    async def pause(
        self, platform: str, account: str, chat_id: str, scope: Scope, seconds: float
    ) -> None:
        """Stop a scope for everybody."""
        bot, chat = _keys(platform, account, chat_id)
        key = bot if scope is Scope.BOT else chat
        now = self._clock()
        self._seen = {k: until for k, until in self._seen.items() if until > now}
        self._seen[key] = max(self._seen.get(key, now), now + seconds)
        try:
            await self._pause(keys=[key], args=[max(1, int(seconds * 1000))])
        except (RedisError, OSError) as error:
            _log.warning("pauses_unreachable", error=type(error).__name__)


def _keys(platform: str, account: str, chat_id: str) -> tuple[str, str]:
    bot = f"mirrorpost:pause:{platform}@{account}"
    return bot, f"{bot}:{chat_id}"
