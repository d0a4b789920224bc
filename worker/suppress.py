"""Suppress: what was claimed for a dead place ends, is held or goes elsewhere, unasked.

`look_up` tells what is noted of the places, in the transaction of the claim; `follow` decides
by it; `learn` notes what the next settle shows. Called by `worker.turn`.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from sqlalchemy import Connection

from worker import dead
from worker.dead import Note, Standing, Tried
from worker.outbox import Claimed
from worker.platforms import platforms
from worker.resolve import Resolved, Stop
from worker.states import State
from worker.targets import Target
from worker.taxonomy import CONSEQUENCES, ErrorKind, Failure
from worker.verdict import Place, Settlement

_NOTED_AS = {
    ErrorKind.TARGET_GONE: "gone",
    ErrorKind.FORBIDDEN: "closed to the bot",
    ErrorKind.AUTH: "refused",
}
#: Characters of a reason.
_LONGEST = 500
#: Gives the fingerprint of a bot's credential in this process, by platform and account.
PrintOf = Callable[[str, str], str]


def place_of(claim: Claimed) -> Place:
    """Give the place that a claimed row names, which for a person is not chosen yet."""
    return Place(claim.platform, claim.account, claim.chat_id, claim.thread_id, None)


def look_up(
    connection: Connection, places: Iterable[tuple[str, Place]], print_of: PrintOf
) -> dict[str, Standing]:
    """Give what is noted of places, by delivery id; of most of them nothing.

    Only the one delivery that may try a dead chat now finds its note `due`.
    """
    # Mostly nothing is noted at all, and asking for each place would cost a turn a tenth.
    if not dead.is_any_noted(connection):
        return {}
    known = platforms()
    asked = {
        id_: dead.Place(
            place.platform,
            place.account,
            place.chat_id,
            place.thread_id or "",
            print_of(place.platform, place.account),
        )
        for id_, place in places
        if place.platform is not None and place.platform in known and place.chat_id
    }
    noted = dead.look_up(connection, asked.values())
    found = {id_: noted[place] for id_, place in asked.items() if place in noted}
    free = dead.take_probes(
        connection,
        {s.dead for s in found.values() if s.dead and s.gone and s.gone.due and not s.refused},
    )
    for id_, standing in found.items():
        if standing.dead in free:
            free.discard(standing.dead)
        elif standing.gone is not None and standing.gone.due:
            found[id_] = replace(standing, gone=replace(standing.gone, due=False))
    return found


def follow(resolved: Resolved, standing: Standing | None, print_of: PrintOf) -> Resolved:
    """Send a delivery to where its chat moved, and stop it where the chat or bot is dead."""
    if standing is None:
        return resolved
    place = resolved.place
    if standing.moved_to is not None:
        place = replace(place, chat_id=standing.moved_to)
        context = replace(resolved.context, chat_id=standing.moved_to)
        resolved = replace(resolved, place=place, context=context)
    if standing.refused is not None:
        fingerprint = print_of(place.platform or "", place.account)
        stop = Stop(State.HELD, _as_failure(standing.refused, _bot(place)), fingerprint)
        return replace(resolved, stop=stop)
    if standing.gone is None:
        return resolved
    if standing.gone.due:
        return replace(resolved, probes=standing.dead)
    stop = Stop(State.SUPPRESSED, _as_failure(standing.gone, _chat(place)))
    return replace(resolved, stop=stop)


def _as_failure(note: Note, what: str) -> Failure:
    since = datetime.fromtimestamp(note.since_ms / 1000, UTC)
    noted = f"{what} is noted as {_NOTED_AS[note.kind]} since {since:%Y-%m-%d %H:%M} UTC"
    return Failure(note.kind, f"{noted}: {note.reason}"[:_LONGEST])


def _chat(place: Place) -> str:
    return str(Target(place.platform or "", place.chat_id or "", place.account, place.thread_id))


def _bot(place: Place) -> str:
    account = f"@{place.account}" if place.account else ""
    return f"the credential of {place.platform}{account}"


def learn(connection: Connection, finished: Sequence[tuple[Resolved, Settlement]]) -> None:
    """Note what settled deliveries show: dead, moved and living chats, refused credentials."""
    tries = [
        tried
        for resolved, settlement in finished
        if settlement.failure is not None and settlement.outcome is not None
        for tried in _tries(resolved, settlement, settlement.failure)
    ]
    if tries:
        dead.note(connection, tries)
    probes = [(r.probes, settlement) for r, settlement in finished if r.probes is not None]
    if probes:
        dead.forget(connection, [key for key, s in probes if s.outcome == "sent"])
        dead.delay_probes(connection, {k: s.delay_ms or 0 for k, s in probes if not _tells(s)})


def _tries(resolved: Resolved, settlement: Settlement, failure: Failure) -> list[Tried]:
    """Give what to note of a try; a chat that was opened is known by its user's id as well."""
    asked = resolved.place
    chats = {resolved.opens or asked.chat_id}
    if resolved.opens is not None:
        chats.add(settlement.place.chat_id)
    return [
        Tried(
            settlement.id,
            asked.platform or "",
            asked.account,
            chat,
            asked.thread_id or "",
            failure,
            settlement.credential_print,
        )
        for chat in chats
        if chat
    ]


def _tells(settlement: Settlement) -> bool:
    """Tell whether a platform's answer says if the chat is alive."""
    failure = settlement.failure
    return settlement.outcome is not None and (
        failure is None or CONSEQUENCES[failure.kind].target_dead or failure.moved_to is not None
    )


def give_back(connection: Connection, waiting: Sequence[Resolved]) -> None:
    """Give back the right to try dead chats, of deliveries that were not sent."""
    dead.delay_probes(connection, dict.fromkeys([r.probes for r in waiting if r.probes], 0))
