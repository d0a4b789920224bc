"""The senders: behind each platform's gate so many that send, and what comes of it.

On the drain's loop. A platform's are made with the first delivery for it.
"""

import asyncio
import math
import os
from collections import defaultdict
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace

import structlog

from worker.bots import Bots
from worker.failpoints import reach
from worker.gate import Gate
from worker.http import Client
from worker.leases import Leases
from worker.limiter import Limiter
from worker.platforms.base import Dedup
from worker.resolve import Resolved
from worker.send import Note, send
from worker.settings import Settings
from worker.states import State
from worker.taxonomy import ErrorKind, Failure
from worker.verdict import Settlement, judge

_log = structlog.get_logger(__name__)

#: Sends under way at once to one platform: enough to hide an API's latency, few enough for one
#: loop. Each platform has its own, so that one that hangs holds up no other.
IN_FLIGHT = 64


class Senders:
    """Send what is admitted; use it on one loop.

    Args:
        held: What this process holds by lease.
        note: Notes before a send that it may be accepted from now on.
        finish: Takes what came of a delivery, also of one that was not sent.

    Attributes:
        under_way: Messages under way to a platform, whose outcome comes soon.
    """

    def __init__(
        self,
        *,
        client: Client,
        limiter: Limiter,
        bots: Bots,
        settings: Settings,
        held: Leases,
        note: Note,
        finish: Callable[[Resolved, Settlement], None],
    ) -> None:
        self._client = client
        self._limiter = limiter
        self._bots = bots
        self._settings = settings
        self._held = held
        self._note = note
        self._finish = finish
        self._gates: dict[str, Gate] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self.under_way = 0

    @property
    def claimed_ahead(self) -> int:
        """Give how many are claimed and no sender has them."""
        return sum(gate.claimed_ahead for gate in self._gates.values())

    def admit(self, claimed: Sequence[Resolved]) -> None:
        """Let each go to its platform when its limits allow it."""
        by_platform: defaultdict[str, list[Resolved]] = defaultdict(list)
        for each in claimed:
            by_platform[each.place.platform or ""].append(each)
        for platform, resolved in by_platform.items():
            if platform not in self._gates:
                gate = self._gates[platform] = Gate(self._limiter, self._wait_in_its_row)
                self._tasks.append(begin(gate.run()))
                self._tasks += [begin(self._sender(gate)) for _ in range(IN_FLIGHT)]
            self._gates[platform].admit(resolved)

    def empty(self) -> list[Resolved]:
        """Give all that waits, to be given back."""
        return [each for gate in self._gates.values() for each in gate.empty()]

    async def close(self) -> None:
        """Send nothing more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _wait_in_its_row(self, resolved: Resolved, seconds: float, why: str) -> None:
        self._finish(resolved, _not_now(resolved, seconds, why))

    async def _sender(self, gate: Gate) -> None:
        while True:
            resolved = await gate.take()
            if not self._held.lasts(resolved.claim, self._settings.http_timeout_s):
                # Its lease may end before an answer comes: somebody else takes it up.
                self._finish(resolved, _not_now(resolved, 0.0, "the lease was nearly over"))
                continue
            reach("before_send", resolved.claim.text)
            self.under_way += 1
            settlement = await self._send(resolved)
            self.under_way -= 1
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


def begin(coroutine: Coroutine[None, None, None]) -> asyncio.Task[None]:
    """Begin a part of the process that must not end before it."""
    task = asyncio.create_task(coroutine)
    task.add_done_callback(_end_with)
    return task


def _end_with(task: asyncio.Task[None]) -> None:
    """End the process with a part that ended by a defect: its leases would be renewed for ever."""
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.critical("worker_ends", exc_info=error)
        os._exit(70)


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
