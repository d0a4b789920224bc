"""What one worker process has: an event loop on a thread of its own, and all that lives on it.

Made after the fork, in each child; Celery's tasks call `deliver` from the main thread.
"""

import asyncio
import os
import socket
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

import structlog
import uvloop
from redis.asyncio import Redis
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from resolvers import IdentityResolverProtocol
from resolvers.load import load_resolver
from worker import outbox
from worker.bots import Bots
from worker.database import check_schema, engine, reading
from worker.errors import Refused
from worker.http import Client
from worker.limiter import Limiter
from worker.pipeline import Drain
from worker.settings import Settings, settings

_log = structlog.get_logger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

#: Seconds for connecting to Redis and for each answer of it.
_REDIS_TIMEOUT_S = 1.0
#: Seconds between looks for what is held for a credential that this process has.
_RELEASE_S = 30.0
#: Seconds that a stop waits for sends under way; platforms kill after ten.
_STOP_S = 5.5


def resolver_of(config: Settings, database: Engine) -> IdentityResolverProtocol:
    """Give the resolver that the settings name, on this process's engine."""
    return load_resolver(
        config.resolver,
        engine_factory=lambda: database,
        redis_url=config.redis,
        identity_path=config.identity_path,
    )


class Runtime:
    """The running parts of one worker process.

    Attributes:
        engine: The process's one engine.

    """

    def __init__(self) -> None:
        config = settings()
        self.engine = engine(config.database)
        check_schema(self.engine)
        self._bots = Bots()
        self._intake = ThreadPoolExecutor(1, thread_name_prefix="intake")
        self._release_held()
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="loop", daemon=True)
        self._thread.start()
        self._drain = asyncio.run_coroutine_threadsafe(self._start(config), self._loop).result()

    async def _start(self, config: Settings) -> Drain:
        self._client = Client(
            allow_private=config.webhook_allow_private,
            timeout_s=config.http_timeout_s,
        )
        self._redis = Redis.from_url(
            config.redis,
            socket_timeout=_REDIS_TIMEOUT_S,
            socket_connect_timeout=_REDIS_TIMEOUT_S,
        )
        drain = Drain(
            engine=self.engine,
            resolver=resolver_of(config, self.engine),
            client=self._client,
            limiter=Limiter(self._redis, share=config.limiter_share),
            bots=self._bots,
            owner=f"{socket.gethostname()}:{os.getpid()}",
            settings=config,
        )
        drain.start()
        self._releasing = asyncio.create_task(self._releaser())
        return drain

    async def _releaser(self) -> None:
        """Look now and then for what another worker held for a credential that is here."""
        while True:
            await asyncio.sleep(_RELEASE_S)
            try:
                await asyncio.to_thread(self._release_held)
            except SQLAlchemyError as error:
                _log.warning("held_not_released", error=type(error).__name__)

    def _release_held(self) -> None:
        """Queue what was held for a credential that is another one now."""
        with reading(self.engine) as connection:
            accounts = outbox.held_accounts(connection)
        for platform, account in accounts:
            try:
                bot, fingerprint = self._bots.get(platform, account)
            except Refused:
                # A platform of an entry point that is not installed here.
                continue
            if bot is not None:
                with self.engine.begin() as connection:
                    outbox.release_held(
                        connection,
                        platform=platform,
                        account=account,
                        credential_print=fingerprint,
                    )

    def deliver(self, ids: Sequence[str], timeout_s: float) -> None:
        """Deliver rows from another thread; raise `TimeoutError` when it takes longer."""
        future = asyncio.run_coroutine_threadsafe(self._drain.deliver(ids), self._loop)
        future.result(timeout=timeout_s)

    def undisturbed(self, function: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        """Call what a signal must not interrupt, and give what it gives.

        A signal ends the main thread in the middle of whatever it does, and while the exit is
        on its way SQLite's write lock stays with the transaction that it ended: the settles
        of `stop` would wait for it in vain.
        """
        return self._intake.submit(function, *arguments, **named).result()

    def stop(self) -> None:
        """End everything; what was claimed and not sent goes back to the queue."""
        self._intake.shutdown(wait=False, cancel_futures=True)
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(_STOP_S + 2)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self.engine.dispose()

    async def _stop(self) -> None:
        self._releasing.cancel()
        await self._drain.stop(_STOP_S)
        await self._client.close()
        await self._redis.aclose()
