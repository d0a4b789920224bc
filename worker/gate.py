"""The gate: between the claim and a platform's senders, where a delivery waits for its permit.

On the drain's loop. Permits are asked for only as fast as the senders use them, as one that
stands in line for long is lost. What may go stands in line by lane; what may go soon waits
here, and asks again if its permit is not for certain; what has to wait longer is handed back,
to get a time in its row. No sender ever waits for a limit.
"""

import asyncio
import heapq
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import count
from math import inf

import structlog

from worker.failpoints import reach
from worker.lanes import Lane
from worker.limiter import Ask, Limiter, rates
from worker.platforms import platforms
from worker.platforms.base import OpensChats
from worker.resolve import Resolved

_log = structlog.get_logger(__name__)

#: Seconds for which a delivery waits here without a permit; longer waits go into its row.
#: A broadcast that is paused or cancelled sends hardly longer, and a platform that hangs takes
#: the room of others for no longer: what waits for a sender goes back as well.
_LONGEST_WAIT_S = 1.5
#: Looks in that time for what waits so long for a sender.
_LOOKS = 3
_LOOK_S = _LONGEST_WAIT_S / _LOOKS
#: Deliveries that wait here without a permit.
_MOST_WAITING = 512
#: Seconds between those that ask again and those that ask along with them.
_TOGETHER_S = 0.01

#: Seconds until what could not be asked for is tried again.
_AFTER_DEFECT_S = 10.0
#: Seconds for which what stands in line should last the senders; a permit is good for longer.
_LINE_S = 0.05
#: Seconds over which is counted what they take; slow ones that begin together take in bursts.
_LATELY_S = 0.25
#: Of what waits long, so many times what the senders took in that time stays: to claim it again
#: and again costs more, and it would lose its place.
_STAYS = 4
#: What is counted at most.
_MOST_LATELY = 2048
#: Seconds ahead for which those that were refused are told apart.
_FURTHEST_S = 60.0

_RANK = {lane: rank for rank, lane in enumerate(Lane)}


class Gate:
    """Let deliveries through when their limits allow it; use it on one loop."""

    def __init__(self, limiter: Limiter, later: Callable[[Resolved, float, str], None]) -> None:
        self._limiter = limiter
        #: Takes what has to wait for so many seconds, and why.
        self._later = later
        self._ready: asyncio.PriorityQueue[tuple[int, float, int, Resolved]] = (
            asyncio.PriorityQueue()
        )
        #: When, a tie-breaker, for how long its permit is good then, and what.
        self._waiting: list[tuple[float, int, float | None, Resolved]] = []
        self._granted = 0
        #: When, of each account and lane, the last one that was refused is to ask again.
        self._refused: dict[tuple[str, str], float] = {}
        #: What nobody has asked for yet: its lane, a tie-breaker, since when, and what.
        self._unasked: list[tuple[int, int, float, Resolved]] = []
        self._asking = 0
        #: Senders that have nothing to do, when others took something lately, and how often one
        #: ever did.
        self._idle = 0
        self._taken: deque[float] = deque(maxlen=_MOST_LATELY)
        self._takes = 0
        self._numbers = count()
        self._bell = asyncio.Event()
        self._room = asyncio.Event()

    @property
    def claimed_ahead(self) -> int:
        """Give how many can go, now or at their time, or will be asked for."""
        return self._ready.qsize() + self._granted + len(self._unasked) + self._asking

    def admit(self, resolved: Iterable[Resolved]) -> None:
        """Let each go, wait or come again, once there is room for it in the line."""
        now = time.monotonic()
        for each in resolved:
            if _asks(each):
                rank = _RANK[Lane(each.claim.lane)]
                heapq.heappush(self._unasked, (rank, next(self._numbers), now, each))
            else:
                self._let_go(each, inf)
        self._look_for_room()

    async def take(self) -> Resolved:
        """Give the next that may go: the best lane first, and in it what is under a limit."""
        while True:
            self._idle += 1
            self._look_for_room()
            try:
                _, until, _, resolved = await self._ready.get()
            finally:
                self._idle -= 1
            now = time.monotonic()
            if now <= until:
                self._taken.append(now)
                self._takes += 1
                self._look_for_room()
                return resolved
            self.admit([resolved])

    def _look_for_room(self) -> None:
        """Ask on when the line is less than half as long as it may be."""
        if self._unasked and 2 * self._ready.qsize() < self._longest():
            self._room.set()

    def _longest(self) -> int:
        """Give how long the line may be, going by what the senders took lately."""
        since = time.monotonic() - _LATELY_S
        while self._taken and self._taken[0] < since:
            self._taken.popleft()
        return self._idle + int(len(self._taken) * _LINE_S / _LATELY_S)

    async def _ask_on(self) -> None:
        while True:
            await self._room.wait()
            self._room.clear()
            room = min(self._longest() - self._ready.qsize(), len(self._unasked))
            asking = [heapq.heappop(self._unasked)[-1] for _ in range(room)]
            if not asking:
                continue
            self._asking += len(asking)
            try:
                await self._ask(asking)
            finally:
                self._asking -= len(asking)
            self._look_for_room()

    async def _hand_back_on(self) -> None:
        """Hand back what waits long for a sender, but for what the senders will soon take."""
        takes = deque([0] * _LOOKS, maxlen=_LOOKS)
        while True:
            await asyncio.sleep(_LOOK_S)
            taken = self._takes - takes[0]
            takes.append(self._takes)
            now = time.monotonic()
            unasked, self._unasked = sorted(self._unasked), []
            for place, entry in enumerate(unasked):
                *_, since, resolved = entry
                # A broadcast may be paused: what would not go within a look goes back a look
                # earlier, and for so long that it can be taken back.
                broadcast = resolved.claim.lane == Lane.BROADCAST
                late_s = (_LOOKS - broadcast) * _LOOK_S
                stays = taken / _LOOKS if broadcast else taken * _STAYS
                if now - since > late_s and place >= stays:
                    again_s = _LONGEST_WAIT_S if broadcast else 0.0
                    self._later(resolved, again_s, "its platform answers slowly")
                else:
                    self._unasked.append(entry)

    async def _ask(self, asking: Sequence[Resolved]) -> None:
        try:
            permits = await self._limiter.permit([_asked(each) for each in asking])
        except Exception:  # noqa: BLE001 - whoever asks here is a loop that must not end
            _log.exception("limiter_raised", deliveries=len(asking))
            for each in asking:
                self._later(each, _AFTER_DEFECT_S, "its limits could not be asked for")
            return
        reach("after_permit")
        now = time.monotonic()
        for each, permit in zip(asking, permits, strict=True):
            if permit.granted and permit.wait_s <= 0:
                self._let_go(each, now + permit.good_s)
            elif permit.granted:
                self._wait(each, now + permit.wait_s, permit.good_s)
            else:
                self._refuse(each, self._in_turn(each, permit.wait_s, now), now)

    def _in_turn(self, resolved: Resolved, wait_s: float, now: float) -> float:
        """Give for how long it waits: what comes in many batches would all come again at once.

        Broadcasts wait in a line that all workers know.
        """
        place, lane = resolved.place, resolved.claim.lane
        per_s = rates(place.platform or "", place.account).per_s
        if per_s is None or lane == Lane.BROADCAST:
            return wait_s
        turn = max(now, self._refused.get((place.account, lane), 0.0)) + 1 / per_s
        self._refused[place.account, lane] = min(turn, now + _FURTHEST_S)
        return max(wait_s, turn - now)

    def _refuse(self, resolved: Resolved, wait_s: float, now: float) -> None:
        if wait_s <= _LONGEST_WAIT_S and len(self._waiting) - self._granted < _MOST_WAITING:
            self._wait(resolved, now + wait_s, None)
        else:
            self._later(resolved, wait_s, "waits for a limit of its platform")

    def empty(self) -> list[Resolved]:
        """Give all that waits, to be given back."""
        left = [each for *_, each in self._unasked] + [each for *_, each in self._waiting]
        self._unasked, self._waiting, self._granted = [], [], 0
        while not self._ready.empty():
            left.append(self._ready.get_nowait()[-1])
        return left

    async def run(self) -> None:
        """Ask as there is room, and wake what waits at its time, until it is cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._ask_on())
            group.create_task(self._wake_on())
            group.create_task(self._hand_back_on())

    async def _wake_on(self) -> None:
        while True:
            self._bell.clear()
            timeout = self._waiting[0][0] - time.monotonic() if self._waiting else None
            try:
                async with asyncio.timeout(timeout):
                    await self._bell.wait()
            except TimeoutError:
                self._wake(time.monotonic())

    def _wake(self, now: float) -> None:
        asking = []
        while self._waiting:
            at, _, good_s, resolved = self._waiting[0]
            if at > now + (_TOGETHER_S if good_s is None else 0):
                break
            heapq.heappop(self._waiting)
            if good_s is None:
                asking.append(resolved)
            else:
                self._granted -= 1
                self._let_go(resolved, at + good_s)
        self.admit(asking)

    def _wait(self, resolved: Resolved, at: float, good_s: float | None) -> None:
        """Wait until `at`, with a permit that is good from then on, or to ask for one."""
        self._granted += good_s is not None
        heapq.heappush(self._waiting, (at, next(self._numbers), good_s, resolved))
        if self._waiting[0][0] == at:
            self._bell.set()

    def _let_go(self, resolved: Resolved, good_until: float) -> None:
        # In its lane what is under a limit goes first: its permit is not good for long.
        rank = 2 * _RANK[Lane(resolved.claim.lane)] + (good_until == inf)
        self._ready.put_nowait((rank, good_until, next(self._numbers), resolved))


def _asks(resolved: Resolved) -> bool:
    """Tell whether its platform will be asked at all."""
    return (
        resolved.place.platform is not None and resolved.stop is None and resolved.failure is None
    )


def _asked(resolved: Resolved) -> Ask:
    place = resolved.place
    name = place.platform or ""
    # To open a direct chat is a request of its own.
    opens = resolved.opens is not None and isinstance(platforms().get(name), OpensChats)
    return Ask(name, place.account, place.chat_id or "", Lane(resolved.claim.lane), 1 + opens)
