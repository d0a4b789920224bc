"""Identity links in Redis, for several machines that share nothing else.

One hash of all accounts and one per unified user, changed together by a script, so that
no reader and no crash ever sees one without the other.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import cast

import orjson
from redis import Redis
from redis.exceptions import RedisError

from resolvers.cache import DEFAULT_CACHE_SIZE, MAX_STALENESS_S, AnswerCache
from resolvers.errors import StoreUnavailable
from resolvers.protocol import (
    Account,
    IdentityLink,
    by_account,
    check_account,
    check_link,
    link_at,
    now_ms,
)

#: Field: the account as a JSON array. Value: epoch milliseconds, a space, the unified user.
#: The braces keep all keys on one node of a cluster, as a script needs them.
LINKS_KEY = "{mirrorpost:identity}:links"
#: Followed by the unified user. Field: the account as a JSON array. Value: epoch milliseconds.
USER_KEY_PREFIX = "{mirrorpost:identity}:user:"

#: Seconds. Without it a frozen server holds a worker for ever.
SOCKET_TIMEOUT_S = 5.0

_LINK = """
local before = redis.call('HGET', KEYS[1], ARGV[2])
if before then
    local user = string.sub(before, string.find(before, ' ', 1, true) + 1)
    if user == ARGV[3] then return end
    redis.call('HDEL', ARGV[1] .. user, ARGV[2])
end
redis.call('HSET', KEYS[1], ARGV[2], ARGV[4] .. ' ' .. ARGV[3])
redis.call('HSET', ARGV[1] .. ARGV[3], ARGV[2], ARGV[4])
"""

_UNLINK = """
local before = redis.call('HGET', KEYS[1], ARGV[2])
if before then
    local user = string.sub(before, string.find(before, ' ', 1, true) + 1)
    redis.call('HDEL', ARGV[1] .. user, ARGV[2])
    redis.call('HDEL', KEYS[1], ARGV[2])
end
"""


class RedisIdentityResolver:
    """Keep links in the Redis of a client or of a URL (`redis://`, `rediss://`, `unix://`).

    What other processes link is seen within `cache_ttl_s` seconds, at most one. Not for a
    Redis that is a cache: links are as durable as its append-only file, and whoever flushes
    it or lets it evict makes strangers of everybody.

    The methods raise `StoreUnavailable` when Redis cannot be used.
    """

    def __init__(
        self,
        client: Redis | str,
        *,
        cache_ttl_s: float = MAX_STALENESS_S,
        cache_size: int = DEFAULT_CACHE_SIZE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._redis = (
            Redis.from_url(
                client, socket_timeout=SOCKET_TIMEOUT_S, socket_connect_timeout=SOCKET_TIMEOUT_S
            )
            if isinstance(client, str)
            else client
        )
        self._owns_client = isinstance(client, str)
        self._cache = AnswerCache(cache_ttl_s, cache_size, clock)
        self._link = self._redis.register_script(_LINK)
        self._unlink = self._redis.register_script(_UNLINK)

    def resolve(self, platform: str, platform_user_id: str) -> str:
        """Return the unified user of an account, `platform:platform_user_id` when unlinked."""
        return self._cache.resolve([(platform, platform_user_id)], self._fetch)[0]

    def resolve_many(self, accounts: Sequence[Account]) -> list[str]:
        """Return one unified user per account, in order, in one round trip."""
        return self._cache.resolve(accounts, self._fetch)

    def link(self, platform: str, platform_user_id: str, unified_user_id: str) -> None:
        """Make an account one of a unified user's, taking it from whoever had it before.

        Raises `InvalidIdentity`: an id is empty, too long or not text; nothing was stored.
        """
        check_link(platform, platform_user_id, unified_user_id)
        account = (platform, platform_user_id)
        with self._changing(account):
            self._link(
                keys=[LINKS_KEY],
                args=[USER_KEY_PREFIX, _field(account), unified_user_id, now_ms()],
            )

    def unlink(self, platform: str, platform_user_id: str) -> None:
        """Forget an account's link; without one, do nothing."""
        check_account(platform, platform_user_id)
        account = (platform, platform_user_id)
        with self._changing(account):
            self._unlink(keys=[LINKS_KEY], args=[USER_KEY_PREFIX, _field(account)])

    def links_for(self, unified_user_id: str) -> list[IdentityLink]:
        """Return every link of a unified user, ordered by account."""
        with _unavailable():
            stored = self._redis.hgetall(USER_KEY_PREFIX + unified_user_id)
        links = (
            link_at(*_account(field), unified_user_id, int(created_ms))
            for field, created_ms in stored.items()
        )
        return sorted(links, key=by_account)

    def links(self, limit: int = 1000) -> list[IdentityLink]:
        """Return up to `limit` links, ordered by account.

        Beyond the limit, which ones is up to Redis: it keeps no order and to make one would
        take reading all.
        """
        found: dict[Account, IdentityLink] = {}
        with _unavailable():
            scan = cast(
                "Iterator[tuple[bytes | str, bytes | str]]",
                self._redis.hscan_iter(LINKS_KEY, count=1000),
            )
            # A scan may give the same field twice while the hash grows.
            for field, value in scan:
                if len(found) >= limit:
                    break
                created_ms, _, unified_user_id = _text(value).partition(" ")
                account = _account(field)
                found[account] = link_at(*account, unified_user_id, int(created_ms))
        return sorted(islice(found.values(), limit), key=by_account)

    def close(self) -> None:
        """Close the connections, unless they are those of a client that was given."""
        if self._owns_client:
            self._redis.close()

    def _fetch(self, accounts: list[Account]) -> Mapping[Account, str]:
        with _unavailable():
            values = self._redis.hmget(LINKS_KEY, [_field(account) for account in accounts])
        return {
            account: _text(value).partition(" ")[2]
            for account, value in zip(accounts, values, strict=True)
            if value is not None
        }

    @contextmanager
    def _changing(self, account: Account) -> Iterator[None]:
        """Forget the account after what is done inside, also when it is unsure what was."""
        try:
            with _unavailable():
                yield
        finally:
            self._cache.forget(account)


def _field(account: Account) -> str:
    return orjson.dumps(account).decode()


def _account(field: bytes | str) -> Account:
    platform, platform_user_id = orjson.loads(field)
    return platform, platform_user_id


def _text(value: bytes | str) -> str:
    # A client that was given may decode by itself.
    return value.decode() if isinstance(value, bytes) else value


@contextmanager
def _unavailable() -> Iterator[None]:
    try:
        yield
    except RedisError as error:
        raise StoreUnavailable(f"the identity links in Redis cannot be used: {error}") from error
