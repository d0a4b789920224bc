"""The pipeline: claim, resolve, permit, send, settle, mirror; many rows at once.

One `Drain` a worker process, on one event loop. Celery tasks hand it ids and wait until they
are claimed: from there on the lease keeps them, and a platform that hangs holds up no task
and so nobody else's delivery. It claims ahead of its senders, and one short transaction a
turn settles and mirrors what came back and claims what is next. While it is busy it also
takes queued rows that no task has named yet, so the senders never idle between two tasks.
"""

import asyncio
import math
import os
from collections import defaultdict
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
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
from worker.gate import Gate
from worker.http import Client
from worker.leases import RENEWALS, Leases
from worker.limiter import Limiter
from worker.outbox import Claimed
from worker.platforms.base import Dedup
from worker.resolve import Resolved
from worker.send import send
from worker.settings import Settings
from worker.states import State
from worker.taxonomy import ErrorKind, Failure
from worker.turn import MANY, Finished, Turns, Wanted
from worker.verdict import Settlement, judge

_log = structlog.get_logger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

#: Sends under way at once to one platform: enough to hide an API's latency, few enough for one
#: loop. Each platform has its own, so that one that hangs holds up no other.
IN_FLIGHT = 64
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
        self._client = client
        self._settings = settings
        self._limiter = limiter
        self._gates: dict[str, Gate] = {}
        self._bots = bots
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
        self._finished: list[Finished] = []
        self._bell = asyncio.Event()
        self._more = False
        #: Messages under way to a platform, whose outcome comes soon.
        self._sending = 0
        self._stopping = False
        self._turning = asyncio.Lock()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to work."""
        self._begin(self._pump())
        self._begin(self._renewer())

    def _begin(self, coroutine: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(coroutine)
        task.add_done_callback(_end_with)
        self._tasks.append(task)

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
                    left = [each for gate in self._gates.values() for each in gate.empty()]
                    await self._give_back(left)
                    self._bell.set()
                    await asyncio.sleep(0.02)
        except TimeoutError:
            _log.warning("stopped_with_sends_under_way", deliveries=len(self._held))
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
            self._admit(got.claimed)
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
        return max(0, AHEAD - sum(gate.claimed_ahead for gate in self._gates.values()))

    def _admit(self, claimed: Sequence[Resolved]) -> None:
        by_platform: defaultdict[str, list[Resolved]] = defaultdict(list)
        for each in claimed:
            by_platform[each.place.platform or ""].append(each)
        for platform, resolved in by_platform.items():
            if platform not in self._gates:
                gate = self._gates[platform] = Gate(self._limiter, self._wait_in_its_row)
                self._begin(gate.run())
                for _ in range(IN_FLIGHT):
                    self._begin(self._sender(gate))
            self._gates[platform].admit(resolved)

    def _is_worth_a_transaction(self) -> bool:
        return self._claims() or not self._sending or len(self._finished) >= MANY

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

    def _wait_in_its_row(self, resolved: Resolved, seconds: float, why: str) -> None:
        self._finish(resolved, _not_now(resolved, seconds, why))

    def _finish(self, resolved: Resolved, settlement: Settlement) -> None:
        self._finished.append(Finished(resolved, settlement))
        if len(self._finished) == 1 or self._is_worth_a_transaction():
            self._bell.set()

    async def _sender(self, gate: Gate) -> None:
        while True:
            resolved = await gate.take()
            if not self._held.lasts(resolved.claim, self._settings.http_timeout_s):
                # Its lease may end before an answer comes: somebody else takes it up.
                self._finish(resolved, _not_now(resolved, 0.0, "the lease was nearly over"))
                continue
            reach("before_send", resolved.claim.text)
            self._sending += 1
            settlement = await self._send(resolved)
            self._sending -= 1
            reach("after_answer")
            self._finish(resolved, settlement)
            await self._heed(settlement)

    async def _heed(self, settlement: Settlement) -> None:
        """Tell every worker what the platform said of its limits."""
        failure, place = settlement.failure, settlement.place
        at = (place.platform or "", place.account, place.chat_id or "")
        if settlement.told is not None:
            await self._limiter.learn(*at, settlement.told)
        if failure is not None and failure.kind is ErrorKind.RATE_LIMITED and failure.retry_after_s:
            await self._limiter.pause(*at, failure.scope, failure.retry_after_s)

    async def _send(self, resolved: Resolved) -> Settlement:
        try:
            return await send(
                resolved,
                client=self._client,
                bots=self._bots,
                note=self._note,
                settings=self._settings,
            )
        except Exception as error:  # noqa: BLE001 - an adapter may be anybody's; its defect ends one attempt
            _log.exception("send_raised", delivery=resolved.claim.id)
            failure = Failure(ErrorKind.UNKNOWN_ERROR, f"the adapter raised {type(error).__name__}")
            return judge(
                resolved.claim,
                failure,
                resolved.place,
                dedup=Dedup.NONE,
                credential_print="",
                started_ms=0,
                took_ms=0,
            )

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


def _not_now(resolved: Resolved, seconds: float, why: str) -> Settlement:
    """Give the settlement of a delivery that is not tried now: no attempt, no cost."""
    claim, place = resolved.claim, resolved.place
    if resolved.opens is not None:
        place = replace(place, platform=None, chat_id=None)
    return Settlement(
        claim.id,
        claim.attempt,
        State.RETRYING,
        place,
        delay_ms=math.ceil(seconds * 1000),
        receipt=tuple(claim.receipt) if claim.receipt else None,
        failure=Failure(ErrorKind.RATE_LIMITED, why),
        maybe_duplicate=claim.maybe_duplicate,
    )


def _end_with(task: asyncio.Task[None]) -> None:
    """End the process with a part that ended by a defect: its leases would be renewed for ever."""
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.critical("worker_ends", exc_info=error)
        os._exit(70)
