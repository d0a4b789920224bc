"""Amend: the next request of a delivery that edits or retracts what another one has sent.

A message that was sent in parts is changed part by part, one a claim, as it was sent. Making
the same change twice does no harm, so there is never a doubt: what had no answer is tried
again. Called by `worker.send`.
"""

from collections.abc import Sequence
from dataclasses import replace

from worker.actions import Action
from worker.http import Client
from worker.outbox import Claimed
from worker.platforms.base import Bot, Edits, Message, Platform, Response, Retracts
from worker.rendering.split import parts_of
from worker.taxonomy import ErrorKind, Failure, Outcome
from worker.verdict import Place

#: Under this key of its metadata an amendment has the ids of the messages that it changes.
MESSAGE_IDS = "message_ids"
#: What an answer about one message says of its chat, or of an earlier try: nothing.
_MEANS = {
    ErrorKind.AMBIGUOUS: ErrorKind.TRANSIENT,
    ErrorKind.FORBIDDEN: ErrorKind.INVALID,
    ErrorKind.TARGET_MOVED: ErrorKind.INVALID,
}


def why_not(adapter: Platform, action: Action, ids: Sequence[str], text: str) -> str | None:
    """Say why these messages cannot be changed so; `None` when they can."""
    edits, retracts = isinstance(adapter, Edits), isinstance(adapter, Retracts)
    if not (edits if action is Action.EDIT else retracts):
        return f"{adapter.name} cannot {action} what was sent"
    if action is Action.RETRACT:
        return None
    capability = adapter.capability
    needed = len(parts_of(text, capability))
    too_long = not capability.splits and capability.measure(text) > capability.max_length
    if needed > len(ids) or too_long:
        return (
            f"the text is too long for {adapter.name}: it must fit into the {len(ids)} "
            f"message{'' if len(ids) == 1 else 's'} of at most {capability.max_length} each "
            "that were sent"
        )
    if needed < len(ids) and not retracts:
        return f"{adapter.name} cannot retract the {len(ids) - needed} parts that would be left"
    return None


def steps(claim: Claimed, place: Place, adapter: Platform) -> Sequence[str] | Failure:
    """Give the text that each of the messages gets; an empty one is deleted."""
    action, ids = Action(claim.action), message_ids(claim)
    if place.chat_id != claim.chat_id:
        return Failure(ErrorKind.INVALID, "the chat has moved: what was sent before stays as it is")
    reason = why_not(adapter, action, ids, claim.text)
    if reason is not None:
        return Failure(ErrorKind.INVALID, reason)
    texts = parts_of(claim.text, adapter.capability) if action is Action.EDIT else ()
    return [*texts, *("" for _ in ids[len(texts) :])]


def message_ids(claim: Claimed) -> Sequence[str]:
    """Give the ids of the messages that a claimed amendment changes."""
    ids = (claim.metadata or {}).get(MESSAGE_IDS)
    return [str(id_) for id_ in ids] if isinstance(ids, list) else []


async def amend(
    adapter: Platform, message: Message, message_id: str, bot: Bot, client: Client
) -> Outcome:
    """Edit or delete one message, by whether there is a text for it."""
    if message.text and isinstance(adapter, Edits):
        request, read = adapter.editing(message, message_id, bot), adapter.edited
    elif isinstance(adapter, Retracts):
        request, read = adapter.retracting(message, message_id, bot), adapter.retracted
    else:
        raise AssertionError(f"{adapter.name} was checked before")
    answer = await client.send(request)
    outcome = read(answer, message_id) if isinstance(answer, Response) else answer
    if isinstance(outcome, Failure) and outcome.kind in _MEANS:
        return replace(outcome, kind=_MEANS[outcome.kind], moved_to=None)
    return outcome
