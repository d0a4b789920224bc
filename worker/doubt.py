"""Doubt: what to do about a delivery that an earlier attempt may have sent.

`choose` is pure and decides by what the platform declares and by the delivery's policy;
`ask` holds the dialogue with a platform that can tell. Called by `worker.send`.
"""

from dataclasses import replace
from enum import StrEnum

from worker.http import Client
from worker.intake import Policy
from worker.outbox import Claimed
from worker.platforms.base import Asks, Bot, Capability, Dedup, Message, Platform, Response
from worker.taxonomy import ErrorKind, Failure, Receipt

#: Requests of one dialogue; a busy channel has some pages.
_MOST_QUESTIONS = 10
#: What keeps a platform from answering for now; with any other failure it never will.
_LATER = frozenset(
    {
        ErrorKind.RATE_LIMITED,
        ErrorKind.TRANSIENT,
        ErrorKind.UNKNOWN_ERROR,
        # With another credential, for which the delivery is held.
        ErrorKind.AUTH,
    }
)


class Way(StrEnum):
    """How a delivery goes on."""

    #: There is no doubt, or the platform makes one message of two with the same key.
    SEND = "send"
    ASK = "ask"
    #: Send it although it may be the second time, and mark it.
    RESEND = "resend"
    #: Leave it to a person.
    STOP = "stop"


def choose(adapter: Platform, policy: str, doubt_s: float | None) -> Way:
    """Choose the strongest way that the platform allows.

    Args:
        doubt_s: Seconds since an attempt that may have been accepted; `None` without one.
    """
    if doubt_s is None or _keeps_key(adapter.capability, doubt_s):
        return Way.SEND
    return Way.ASK if isinstance(adapter, Asks) else by_policy(policy)


def by_policy(policy: str) -> Way:
    """Choose where the platform can do nothing."""
    return Way.STOP if policy == Policy.HOLD else Way.RESEND


def needs_note(claim: Claimed, capability: Capability) -> bool:
    """Tell whether a send has to be noted before it leaves.

    Only so can it be said of a worker that died which of its rows it had not begun. Elsewhere
    a second send is harmless, or wanted.
    """
    return claim.policy == Policy.HOLD and capability.dedup is Dedup.NONE


def _keeps_key(capability: Capability, seconds: float) -> bool:
    if capability.dedup is not Dedup.KEY:
        return False
    return capability.dedup_window_s is None or seconds < capability.dedup_window_s


async def ask(
    adapter: Asks, message: Message, bot: Bot, client: Client
) -> Receipt | Failure | None:
    """Ask whether a message arrived.

    Gives its receipt, `None` when it certainly did not, and a failure when it cannot be told.
    A `transient` or `rate_limited` one passes.
    """
    request = adapter.asking(message, bot)
    for _ in range(_MOST_QUESTIONS):
        answer = await client.send(request)
        found = (
            adapter.asked(request, answer, message, bot) if isinstance(answer, Response) else answer
        )
        if isinstance(found, Failure) and found.kind is ErrorKind.AMBIGUOUS:
            # A question changes nothing, so it is asked again.
            return replace(found, kind=ErrorKind.TRANSIENT)
        if found is None or isinstance(found, Receipt | Failure):
            return found
        request = found
    return Failure(ErrorKind.FORBIDDEN, "its history is too long to be read")


def passes(failure: Failure) -> bool:
    """Tell whether the platform may answer the question later."""
    return failure.kind in _LATER
