"""Send: the next part of one resolved delivery, once, to its platform.

Check, render, end a doubt, send; the outcome is a value. Called by the pipeline on its loop,
after the chunk's permits.
"""

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

from resolvers import clear_session_context, set_session_context
from worker.actions import Action
from worker.amend import amend, message_ids, steps
from worker.bots import Bots
from worker.doubt import Way, ask, by_policy, choose, needs_note, passes
from worker.errors import Misconfigured
from worker.http import Client
from worker.outbox import Claimed
from worker.platforms import platform, platforms
from worker.platforms.base import (
    Asks,
    Bot,
    Dedup,
    Message,
    OpensChats,
    Platform,
    Response,
    TellsLimits,
    Told,
)
from worker.rendering.split import parts_of
from worker.resolve import Resolved, Stop
from worker.settings import Settings, missing_variables
from worker.states import State
from worker.taxonomy import ErrorKind, Failure, Outcome, Receipt
from worker.verdict import Place, Settlement, judge

# With `Bots`, which callers of `send` take from here.
#: Notes before a send, and for good, that it may be accepted from now on; `False` when the
#: delivery is not this worker's any more.
Note = Callable[[Claimed], Awaitable[bool]]


@dataclass(frozen=True, slots=True)
class _Ready:
    """A delivery that can be tried; `parts` is its whole text, or what each message gets."""

    resolved: Resolved
    adapter: Platform
    bot: Bot
    credential_print: str
    way: Way
    parts: Sequence[str]


@dataclass(frozen=True, slots=True)
class _Trial:
    """What came of one part.

    Attributes:
        outcome: `None` when it may have arrived before and must not be sent again.
        blind: It was sent although it may be the second time.
        cleared: The platform said that no earlier attempt had arrived.
        told: What the answer said of its chat's limit.
    """

    outcome: Outcome | None
    place: Place
    blind: bool = False
    cleared: bool = False
    told: Told | None = None


async def send(
    resolved: Resolved, *, client: Client, bots: Bots, note: Note, settings: Settings
) -> Settlement:
    """Try the next part of one delivery and decide what follows."""
    ready = _check(resolved, bots, settings)
    if isinstance(ready, Settlement):
        return ready
    claim, capability = resolved.claim, ready.adapter.capability
    if needs_note(claim, capability) and not await note(claim):
        return _stopped(resolved, State.QUEUED)
    token = set_session_context(resolved.context)
    started_ms, begun = time.time_ns() // 1_000_000, time.monotonic()
    try:
        trial = await _try(ready, client, settings.duplicate_line)
    except Misconfigured as error:
        # The adapter cannot make a request of this credential: what waits for another one
        # is held, as if the platform had refused it.
        trial = _Trial(Failure(ErrorKind.AUTH, str(error)), resolved.place)
    finally:
        clear_session_context(token)
    if trial.outcome is None:
        return _stopped(resolved, State.UNKNOWN)
    outcome = bots.hide(trial.outcome) if isinstance(trial.outcome, Failure) else trial.outcome
    if isinstance(outcome, Failure) and outcome.kind is ErrorKind.AUTH:
        bots.refuse(ready.bot.platform, ready.bot.account, outcome)
    settlement = judge(
        claim,
        outcome,
        trial.place,
        dedup=capability.dedup,
        credential_print=ready.credential_print,
        started_ms=started_ms,
        took_ms=int((time.monotonic() - begun) * 1000),
        parts=len(ready.parts),
        min_age_s=settings.dead_letter_age_h * 3600,
    )
    if trial.told is not None:
        settlement = replace(settlement, told=trial.told)
    if trial.blind:
        return replace(settlement, maybe_duplicate=True)
    if trial.cleared and settlement.doubt is None:
        return replace(settlement, doubt=False)
    return settlement


def _check(resolved: Resolved, bots: Bots, settings: Settings) -> _Ready | Settlement:
    """Give what is needed for a try, or what follows without one."""
    claim, place = resolved.claim, resolved.place
    if claim.expires_ms is not None and claim.expires_ms <= time.time_ns() // 1_000_000:
        return _stopped(resolved, State.EXPIRED)
    stop = resolved.stop or bots.refused(place.platform or "", place.account, resolved.read_s)
    if stop is not None:
        return _stop(resolved, stop)
    if resolved.failure is not None:
        return _not_asked(resolved, bots.hide(resolved.failure), place, settings)
    name = place.platform or ""
    adapter = platform(name)
    bot, fingerprint = bots.get(name, place.account)
    if bot is None:
        missing = " and ".join(missing_variables(adapter, place.account))
        where = Place(None, "", None, None, place.unified_user) if resolved.opens else place
        return replace(
            _not_asked(resolved, Failure(ErrorKind.AUTH, f"{missing} is not set"), where, settings),
            # Kept although a route is chosen anew: it says whose credential is awaited.
            place=replace(where, platform=name, account=place.account),
        )
    doubt_s = None if claim.doubt_ms is None else claim.doubt_ms / 1000
    way = choose(adapter, claim.policy, doubt_s)
    if way is Way.STOP:
        return _stopped(resolved, State.UNKNOWN)
    sends = claim.action == Action.SEND
    parts = parts_of(claim.text, adapter.capability) if sends else steps(claim, place, adapter)
    return (
        _not_asked(resolved, parts, place, settings)
        if isinstance(parts, Failure)
        else _Ready(resolved, adapter, bot, fingerprint, way, parts)
    )


async def _try(ready: _Ready, client: Client, duplicate_line: str) -> _Trial:
    """Open the direct chat and end the doubt where that is needed, then send."""
    resolved, adapter, bot, way = ready.resolved, ready.adapter, ready.bot, ready.way
    claim, place = resolved.claim, resolved.place
    if resolved.opens is not None and isinstance(adapter, OpensChats):
        opened = await _open(adapter, resolved.opens, bot, client)
        if isinstance(opened, Failure):
            # Its route is chosen anew; the bot says whose credential may be awaited.
            return _Trial(opened, replace(place, chat_id=None))
        place = replace(place, chat_id=opened)
    message = _message(claim, place, ready.parts)
    if claim.action != Action.SEND:
        changed = message_ids(claim)[message.part]
        outcome = await amend(adapter, message, changed, bot, client)
        return _Trial(_of_thread(outcome, message, adapter), place)
    cleared = False
    if way is Way.ASK and isinstance(adapter, Asks):
        found = await ask(adapter, message, bot, client)
        if isinstance(found, Receipt) or (isinstance(found, Failure) and passes(found)):
            return _Trial(found, place)
        cleared = found is None
        way = Way.SEND if cleared else by_policy(claim.policy)
        if way is Way.STOP:
            return _Trial(None, place)
    blind = way is Way.RESEND
    if (blind or claim.maybe_duplicate) and duplicate_line:
        message = _with_line(message, duplicate_line, adapter)
    answer = await client.send(adapter.request(message, bot))
    outcome = adapter.outcome(answer) if isinstance(answer, Response) else answer
    told = None
    if adapter.capability.tells_limits and isinstance(answer, Response):
        told = adapter.told(answer) if isinstance(adapter, TellsLimits) else None
    return _Trial(_of_thread(outcome, message, adapter), place, blind, cleared, told)


def _of_thread(outcome: Outcome, message: Message, adapter: Platform) -> Outcome:
    """Say of a failure in a thread that is a chat of its own that it is about the thread."""
    if isinstance(outcome, Failure) and message.thread_id and adapter.capability.threads_are_chats:
        return replace(outcome, thread_only=True)
    return outcome


def _message(claim: Claimed, place: Place, parts: Sequence[str]) -> Message:
    """Render the part that comes next: as many as there are receipts were sent before."""
    part = min(len(claim.receipt or ()), len(parts) - 1)
    return Message(
        delivery_id=claim.id,
        chat_id=place.chat_id or "",
        text=parts[part],
        created_s=claim.created_ms // 1000,
        thread_id=place.thread_id,
        reply_to=claim.reply_to,
        silent=claim.silent,
        extra=claim.metadata or {},
        part=part,
        # The first claim is forgotten when a person lets it be tried anew, a doubt is not.
        begun_s=int(time.time() - max(claim.age_ms, claim.doubt_ms or 0) / 1000),
    )


async def _open(adapter: OpensChats, user_id: str, bot: Bot, client: Client) -> str | Failure:
    answer = await client.send(adapter.opening(user_id, bot))
    opened = adapter.opened(answer) if isinstance(answer, Response) else answer
    # Nothing was sent yet, so a broken connection is no ambiguity here.
    if isinstance(opened, Failure) and opened.kind is ErrorKind.AMBIGUOUS:
        return replace(opened, kind=ErrorKind.TRANSIENT)
    return opened


def _with_line(message: Message, line: str, adapter: Platform) -> Message:
    """Add a line under the text, where it has room."""
    text = f"{message.text}\n{line}"
    fits = adapter.capability.measure(text) <= adapter.capability.max_length
    return replace(message, text=text) if fits else message


def _stopped(resolved: Resolved, state: State) -> Settlement:
    """Give the settlement of a delivery that is not tried: no attempt, no cost."""
    claim = resolved.claim
    doubt = Failure(ErrorKind.AMBIGUOUS, "an earlier attempt may have sent it")
    return Settlement(
        claim.id,
        claim.attempt,
        state,
        resolved.place,
        receipt=tuple(claim.receipt) if claim.receipt else None,
        failure=doubt if state is State.UNKNOWN else None,
        maybe_duplicate=claim.maybe_duplicate,
    )


def _stop(resolved: Resolved, stop: Stop) -> Settlement:
    """Give the settlement of a delivery whose place or bot is dead."""
    place = resolved.place
    if stop.state is State.HELD and resolved.opens is not None:
        # Its route is chosen anew.
        place = replace(place, chat_id=None)
    return replace(
        _stopped(resolved, stop.state),
        place=place,
        failure=stop.failure,
        credential_print=stop.credential_print,
    )


def _not_asked(
    resolved: Resolved, failure: Failure, place: Place, settings: Settings
) -> Settlement:
    """Decide about a delivery for which the platform was not asked: no attempt is recorded."""
    claim = resolved.claim
    capability = platforms()[place.platform].capability if place.platform else None
    settled = judge(
        claim,
        failure,
        place,
        dedup=capability.dedup if capability else Dedup.NONE,
        credential_print="",
        started_ms=0,
        took_ms=0,
        min_age_s=settings.dead_letter_age_h * 3600,
    )
    return replace(settled, outcome=None)
