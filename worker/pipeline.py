"""The pipeline: claim, resolve, permit, send, settle, mirror; many rows at once.

One `Drain` a worker process, on one event loop. Celery tasks hand it ids and wait until they
are claimed: from there on the lease keeps them, and a platform that hangs holds up no task
and so nobody else's delivery. It claims ahead of its senders, and one short transaction a
turn settles and mirrors what came back and claims what is next. While it is busy it also
takes queued rows that no task has named yet, so the senders never idle between two tasks.
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

import structlog
from sqlalchemy import Engine
from sqlalchemy.exc import InterfaceError, OperationalError, SQLAlchemyError

from resolvers import IdentityResolverProtocol
from worker.asked import Asked
from worker.bots import Bots
from worker.etiquette import Rules
from worker.failpoints import reach
from worker.http import Client
from worker.leases import RENEWALS, Leases
from worker.limiter import Limiter
from worker.outbox import Claimed
from worker.resolve import Resolved
from worker.senders import Senders, begin
from worker.settings import Settings
from worker.turn import MANY, Finished, Turns, Wanted
from worker.verdict import Settlement

_log = structlog.get_logger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

#: Rows claimed ahead of the senders; bounds what is in doubt after a crash.
AHEAD = 384
#: Seconds that outcomes wait for company before they are committed.
_LINGER_S = 0.03
#: Seconds before a transaction that failed is tried again.
_DATABASE_RETRY_S = 0.5


class Drain:
    """Deliver what is asked for; `start` and use it on one loop."""

    def __init__(
        self,
        *,
        engine: Engine,
        resolver: IdentityResolverProtocol,
        client: Client,
        limiter: Limiter,
        bots: Bots,
        owner: str,
        settings: Settings,
    ) -> None:
        self._settings = settings
        self._turns = Turns(
            engine=engine,
            resolver=resolver,
            bots=bots,
            owner=owner,
            lease_s=settings.lease_s,
            rules=Rules.of(settings),
        )
        self._database = ThreadPoolExecutor(1, thread_name_prefix="database")
        self._asked = Asked()
        self._held = Leases(settings.lease_s)
        self._senders = Senders(
            client=client,
            limiter=limiter,
            bots=bots,
            settings=settings,
            held=self._held,
            note=self._note,
            finish=self._finish,
        )
        self._finished: list[Finished] = []
        self._bell = asyncio.Event()
        self._more = False
        self._stopping = False
        self._turning = asyncio.Lock()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to work."""
        self._tasks = [begin(self._pump()), begin(self._renewer())]

    async def deliver(self, ids: Sequence[str]) -> None:
        """Deliver these rows; return when each is claimed, or is not ours to try."""
        fresh = [i for i in dict.fromkeys(ids) if i not in self._asked and i not in self._held]
        if not fresh or self._stopping:
            return
        claimed = self._asked.add(fresh)
        self._more = self._more or self._asked.is_stream
        self._bell.set()
        await claimed.wait()

    async def stop(self, within_s: float) -> None:
        """Give back what is not under way, wait for what is, and settle it."""
        self._stopping = True
        self._asked.forget(self._asked.first(len(self._asked)))
        # A claim that is under way ends first, and gives back what it took.
        async with self._turning:
            pass
        try:
            async with asyncio.timeout(within_s):
                while self._held:
                    # Again and again: some may just have been asking for a permit.
                    await self._give_back(self._senders.empty())
                    self._bell.set()
                    await asyncio.sleep(0.02)
        except TimeoutError:
            _log.warning("stopped_with_sends_under_way", deliveries=len(self._held))
        await self._senders.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._in_database(self._turns.close)
        self._database.shutdown(wait=True)

    async def _pump(self) -> None:
        while True:
            await self._bell.wait()
            self._bell.clear()
            more = True
            while more:
                async with self._turning:
                    more = await self._turn()

    async def _turn(self) -> bool:
        """Settle, mirror and claim in one transaction; tell whether there was anything to do."""
        if not self._finished and not self._claims():
            return False
        await self._gather_company()
        finished, self._finished = self._finished, []
        room = 0 if self._stopping else self._room()
        claims = self._claims()
        ids = self._asked.first(room) if claims else []
        wanted = Wanted(ids, anything=claims and self._more, limit=room)
        until = self._held.until()
        try:
            got = await self._in_database(self._turns.take, finished, wanted)
        except (OperationalError, InterfaceError) as error:
            _log.warning("database_unreachable", error=type(error).__name__)
            self._finished = finished + self._finished
            await asyncio.sleep(_DATABASE_RETRY_S)
            return True
        except Exception as error:  # noqa: BLE001 - whatever one row does, the others go on
            self._asked.forget(ids)
            await self._settle_singly(finished, error)
            return True
        if finished:
            reach("after_settle")
        if got.claimed:
            reach("after_claim")
        self._held.let_go((f.settlement.id, f.settlement.attempt) for f in finished)
        self._more = got.more or (self._more and not wanted.anything)
        self._held.add((r.claim for r in got.claimed), until)
        # What was asked for is claimed now, or is ended, not due, or somebody else's.
        self._asked.forget(ids)
        if self._stopping:
            await self._give_back(got.claimed)
        else:
            self._senders.admit(got.claimed)
        return True

    async def _give_back(self, waiting: Sequence[Resolved]) -> None:
        """Return what was claimed and is not sent; what cannot be returned ends with its lease."""
        if not waiting:
            return
        try:
            await self._in_database(self._turns.give_back, waiting)
        except SQLAlchemyError as error:
            _log.warning("not_given_back", error=type(error).__name__, deliveries=len(waiting))
        self._held.let_go((each.claim.id, each.claim.attempt) for each in waiting)

    def _claims(self) -> bool:
        """Tell whether there is something to claim and room for it."""
        wanted = len(self._asked) > 0 or self._more
        return wanted and not self._stopping and self._room() >= MANY

    def _room(self) -> int:
        """Give how many more may be claimed ahead of the senders."""
        return max(0, AHEAD - self._senders.claimed_ahead)

    def _is_worth_a_transaction(self) -> bool:
        return self._claims() or not self._senders.under_way or len(self._finished) >= MANY

    async def _gather_company(self) -> None:
        """Wait, shortly, until a transaction is worth its cost."""
        try:
            async with asyncio.timeout(_LINGER_S):
                while not self._is_worth_a_transaction():
                    self._bell.clear()
                    await self._bell.wait()
        except TimeoutError:
            pass

    async def _renewer(self) -> None:
        """Keep the leases of what is held, so that a slow platform takes none away."""
        while True:
            await asyncio.sleep(self._settings.lease_s / RENEWALS)
            old, until = self._held.old(), self._held.until()
            if not old:
                continue
            try:
                kept = await self._in_database(self._turns.renew, old)
            except SQLAlchemyError as error:
                _log.warning("leases_not_renewed", error=type(error).__name__)
                continue
            self._held.renew(old, kept, until)

    async def _note(self, claim: Claimed) -> bool:
        return await self._in_database(self._turns.note, claim)

    def _finish(self, resolved: Resolved, settlement: Settlement) -> None:
        self._finished.append(Finished(resolved, settlement))
        if len(self._finished) == 1 or self._is_worth_a_transaction():
            self._bell.set()

    async def _in_database(
        self, function: Callable[P, T], *arguments: P.args, **named: P.kwargs
    ) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._database, partial(function, *arguments, **named))

    async def _settle_singly(self, finished: Sequence[Finished], error: Exception) -> None:
        """Settle one by one after a batch was refused; the lease ends what cannot be written."""
        _log.error("settle_refused", error=type(error).__name__, deliveries=len(finished))
        for each in finished:
            try:
                await self._in_database(self._turns.take, [each], Wanted())
            except Exception as refused:  # noqa: BLE001 - as above
                _log.error(
                    "settle_refused", delivery=each.settlement.id, error=type(refused).__name__
                )
            self._held.let_go([(each.settlement.id, each.settlement.attempt)])
        if not finished:
            await asyncio.sleep(_DATABASE_RETRY_S)
