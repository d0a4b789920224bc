"""The gate: who goes first, who waits where, and what becomes of a permit that comes too late."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from math import inf

from resolvers import SessionContext
from worker.gate import Gate
from worker.lanes import Lane
from worker.limiter import Ask, Permit
from worker.outbox import Claimed
from worker.resolve import Resolved
from worker.verdict import Place

GO = Permit(granted=True, wait_s=0.0, good_s=0.1)
FREE = Permit(granted=True, wait_s=0.0, good_s=inf)


@dataclass
class Limits:
    """A limiter that answers as it is told, by chat; the last answer for good."""

    answers: dict[str, list[Permit]] = field(default_factory=dict)
    asked: list[list[str]] = field(default_factory=list)

    async def permit(self, asks: Sequence[Ask]) -> list[Permit]:
        self.asked.append([ask.chat_id for ask in asks])
        return [self._next(ask.chat_id) for ask in asks]

    def _next(self, chat: str) -> Permit:
        answers = self.answers.get(chat, [GO])
        return answers.pop(0) if len(answers) > 1 else answers[0]


def resolved(chat: str, lane: Lane = Lane.CRON) -> Resolved:
    claim = Claimed(
        **dict.fromkeys(Claimed.__slots__)  # type: ignore[arg-type]
        | {"id": chat, "lane": lane, "attempt": 1, "receipt": None}
    )
    return Resolved(claim, Place("telegram", "", chat, None, None), SessionContext())


def run(
    limits: Limits, act: Callable[[Gate, list[tuple[str, float]]], Awaitable[None]]
) -> list[tuple[str, float]]:
    """Use a gate; give what was handed back to wait in its row."""
    later: list[tuple[str, float]] = []

    async def main() -> None:
        gate = Gate(limits, lambda r, s, _why: later.append((r.claim.id, s)))  # type: ignore[arg-type]
        waking = asyncio.create_task(gate.run())
        async with asyncio.timeout(10):
            await act(gate, later)
        waking.cancel()

    asyncio.run(main())
    return later


async def taken(gate: Gate, count: int) -> list[str]:
    """Take with so many senders at once."""
    return [each.claim.id for each in await asyncio.gather(*(gate.take() for _ in range(count)))]


async def used_to(gate: Gate, count: int) -> None:
    """Let it see that senders take fast enough for it to ask for so many ahead."""
    # It counts over a quarter of a second what it asks for a twentieth ahead.
    before = 5 * count
    gate.admit([resolved("before") for _ in range(before)])
    await taken(gate, before)


def test_the_best_lane_goes_first_and_in_it_what_is_under_a_limit() -> None:
    async def act(gate: Gate, _: object) -> None:
        gate.admit(
            [
                resolved("1", Lane.BROADCAST),
                resolved("2", Lane.REMINDER),
                resolved("free", Lane.REMINDER),
                resolved("4", Lane.REMINDER),
                resolved("5", Lane.REPLY),
            ]
        )
        assert await taken(gate, 5) == ["5", "2", "4", "free", "1"]

    run(Limits({"free": [FREE]}), act)


def test_what_may_go_soon_waits_here_and_what_has_to_wait_longer_in_its_row() -> None:
    limits = Limits(
        {
            "soon": [replace(GO, wait_s=0.05)],
            "again": [Permit(granted=False, wait_s=0.1, good_s=0.1), GO],
            "long": [Permit(granted=False, wait_s=9.0, good_s=0.1)],
        }
    )

    async def act(gate: Gate, later: list[tuple[str, float]]) -> None:
        await used_to(gate, 4)
        gate.admit([resolved(chat) for chat in ("again", "long", "soon", "now")])
        assert await taken(gate, 3) == ["now", "soon", "again"]
        assert later == [("long", 9.0)]

    run(limits, act)
    assert limits.asked[1:] == [["again", "long", "soon", "now"], ["again"]]


def test_a_permit_that_comes_to_be_used_late_is_asked_for_anew() -> None:
    limits = Limits({"1": [replace(GO, good_s=0.02), GO], "free": [FREE]})

    async def act(gate: Gate, _: object) -> None:
        await used_to(gate, 2)
        gate.admit([resolved("1"), resolved("free")])
        await asyncio.sleep(0.06)
        assert sorted(await taken(gate, 2)) == ["1", "free"]

    run(limits, act)
    assert limits.asked[1:] == [["1", "free"], ["1"]]


def test_permits_are_asked_for_as_fast_as_they_are_used() -> None:
    limits = Limits()

    async def act(gate: Gate, _: object) -> None:
        async def send_slowly() -> None:
            while True:
                await gate.take()
                await asyncio.sleep(0.02)
                came.release()

        came = asyncio.Semaphore(0)
        senders = [asyncio.create_task(send_slowly()) for _ in range(4)]
        # Five times as many as the senders can use while a permit is good.
        gate.admit([resolved(str(n)) for n in range(100)])
        for _ in range(100):
            await came.acquire()
        for sender in senders:
            sender.cancel()

    run(limits, act)
    assert sorted(chat for chats in limits.asked for chat in chats) == sorted(
        str(n) for n in range(100)
    )


def test_those_that_are_refused_in_many_batches_come_again_one_after_the_other() -> None:
    refused = Permit(granted=False, wait_s=0.1, good_s=0.1)
    chats = [str(n) for n in range(300)]

    async def act(gate: Gate, later: list[tuple[str, float]]) -> None:
        senders = [asyncio.create_task(gate.take()) for _ in range(20)]
        for first in range(0, 300, 20):
            gate.admit(resolved(chat) for chat in chats[first : first + 20])
            await asyncio.sleep(0.001)
        # At Telegram's thirty a second: ten seconds' worth.
        assert 9 < max(seconds for _, seconds in later) < 11
        assert len({round(seconds, 1) for _, seconds in later}) > 50
        for sender in senders:
            sender.cancel()

    run(Limits({chat: [refused] for chat in chats}), act)


def test_what_waits_long_for_a_sender_goes_back_to_its_row() -> None:
    async def act(gate: Gate, later: list[tuple[str, float]]) -> None:
        await asyncio.sleep(0.01)
        gate.admit([resolved("1", Lane.REPLY), resolved("2", Lane.BROADCAST)])
        await asyncio.sleep(1.2)
        gate.admit([resolved("new")])
        await asyncio.sleep(1.1)
        # No sender came, and none has to.
        assert sorted(later) == [("1", 0.0), ("2", 1.5)]
        assert gate.claimed_ahead == 1
        assert await taken(gate, 1) == ["new"]

    run(Limits(), act)


def test_what_slow_senders_will_soon_take_stays_unless_it_is_a_broadcast() -> None:
    replies = [f"reply {n}" for n in range(20)]
    broadcasts = [f"broadcast {n}" for n in range(20)]

    async def act(gate: Gate, later: list[tuple[str, float]]) -> None:
        async def send_slowly() -> None:
            while True:
                took.append((await gate.take()).claim.id)
                await asyncio.sleep(0.2)

        took: list[str] = []
        sender = asyncio.create_task(send_slowly())
        gate.admit(resolved(each, Lane.REPLY) for each in replies)
        gate.admit(resolved(each, Lane.BROADCAST) for each in broadcasts)
        await asyncio.sleep(2.2)
        sender.cancel()
        assert set(took) < set(replies)
        assert [id_ for id_, _ in later] == broadcasts

    run(Limits(), act)


def test_a_reply_is_asked_for_before_the_broadcasts_that_were_there_first() -> None:
    limits = Limits()

    async def act(gate: Gate, _: object) -> None:
        gate.admit([resolved(str(n), Lane.BROADCAST) for n in range(50)])
        await asyncio.sleep(0.01)
        gate.admit([resolved("reply", Lane.REPLY)])
        assert await taken(gate, 1) == ["reply"]

    run(limits, act)


def test_what_nobody_will_be_asked_about_needs_no_permit() -> None:
    limits = Limits()

    async def act(gate: Gate, _: object) -> None:
        nowhere = resolved("1")
        gate.admit([replace(nowhere, place=replace(nowhere.place, platform=None))])
        assert await taken(gate, 1) == ["1"]

    run(limits, act)
    assert limits.asked == []


def test_all_that_waits_can_be_taken_back() -> None:
    limits = Limits({"soon": [replace(GO, wait_s=5.0)]})

    async def act(gate: Gate, _: object) -> None:
        await used_to(gate, 2)
        gate.admit([resolved(chat) for chat in ("soon", "now", "not asked for")])
        await asyncio.sleep(0.01)
        assert gate.claimed_ahead == 3
        assert {each.claim.id for each in gate.empty()} == {"soon", "now", "not asked for"}
        assert gate.claimed_ahead == 0

    run(limits, act)


def test_a_limiter_that_fails_ends_nothing_and_what_asked_waits_in_its_row() -> None:
    class Fails(Limits):
        async def permit(self, asks: Sequence[Ask]) -> list[Permit]:
            permits = await super().permit(asks)
            if [ask.chat_id for ask in asks] == ["bad"]:
                raise ValueError("a defect")
            return permits

    async def act(gate: Gate, later: list[tuple[str, float]]) -> None:
        await used_to(gate, 2)
        gate.admit([resolved("bad"), resolved("soon")])
        assert await taken(gate, 1) == ["soon"]
        assert [id_ for id_, _ in later] == ["bad"]
        gate.admit([resolved("bad"), resolved("last")])
        assert await taken(gate, 1) == ["last"]
        # It asks again after some hundredths, on a machine that may have other work.
        await asyncio.sleep(1)
        assert [id_ for id_, _ in later] == ["bad", "bad"]

    again = Permit(granted=False, wait_s=0.02, good_s=0.1)
    run(Fails({"bad": [again], "soon": [replace(GO, wait_s=0.2)]}), act)
