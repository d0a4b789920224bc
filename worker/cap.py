"""The frequency cap at send time: what is over it ends, or waits for a digest.

Called by `worker.etiquette` in its transaction. Counted are the mirrors in a person's history
and what is under way to them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from sqlalchemy import Connection

from worker.outbox import spare as outbox
from worker.outbox.spare import FREQUENCY_CAP, Let, Stopped, Waiting
from worker.people.cap import Cap, OverCap
from worker.people.lookup import Topics, sent_times
from worker.platforms import platform
from worker.resolve import Resolved
from worker.states import State

#: Milliseconds after which it is looked again whether there is room, where that hangs on
#: deliveries which are under way and may yet fail.
_LOOK_AGAIN_MS = 60_000
#: Characters of a digest.
_LONGEST = 100_000
#: What stands between the texts of a digest.
_BETWEEN = "\n\n"


@dataclass(frozen=True, slots=True)
class Capped:
    """What the cap leaves.

    Attributes:
        going: What may go on; `lets` is what to note of it.
        stops: What is over the cap.
        folded: What leaves with another one, by id: that one's id.
    """

    going: Sequence[Resolved]
    lets: Sequence[Let] = ()
    stops: Sequence[Stopped] = ()
    folded: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class _Person:
    """What somebody was sent or is being sent, in epoch milliseconds, and what waits for them."""

    times: list[int]
    under_way: int
    waiting: list[Waiting]


def decide(
    connection: Connection,
    going: Sequence[Resolved],
    names: Mapping[str, Sequence[str]],
    topics: Topics,
    *,
    cap: Cap,
    over: OverCap,
    now: int,
) -> Capped:
    """Decide for a chunk, in its order, what there is room for.

    Args:
        names: Those of its person, the first one the same for all, by id of what counts.
        now: Epoch milliseconds by the database's clock.
    """
    if not names:
        return Capped(going)
    outbox.one_at_a_time(connection)
    people = _look_up(connection, names, topics, cap=cap, over=over, now=now)
    passed: list[Resolved] = []
    lets: list[Let] = []
    stops: list[Stopped] = []
    folded: dict[str, str] = {}
    for each in going:
        id_ = each.claim.id
        if id_ not in names:
            passed.append(each)
            continue
        if id_ in folded:
            continue
        person = people[names[id_][0]]
        if len(person.times) + person.under_way >= cap.count:
            stops.append(_over(each, person, cap=cap, over=over, now=now))
            continue
        person.under_way += 1
        digest = _digest(each, [w for w in person.waiting if w.id not in folded])
        folded |= {waits.id: id_ for waits in digest if waits.id != id_}
        person.waiting = [w for w in person.waiting if w.id != id_]
        text = _BETWEEN.join(w.text for w in digest) if len(digest) > 1 else None
        if text is not None:
            each = replace(each, claim=replace(each.claim, text=text))  # noqa: PLW2901 - it goes out so
        passed.append(each)
        user = each.place.unified_user
        lets.append(Let(id_, each.claim.attempt, user, text, each.claim.silent))
    return Capped(passed, lets, stops, folded)


def _look_up(
    connection: Connection,
    names: Mapping[str, Sequence[str]],
    topics: Topics,
    *,
    cap: Cap,
    over: OverCap,
    now: int,
) -> dict[str, _Person]:
    everyone = {name for theirs in names.values() for name in theirs}
    since = now - cap.window_ms
    sent = sent_times(connection, everyone, since_ms=since, limit=cap.count)
    under_way = outbox.under_way(connection, everyone, but=names)
    waiting = outbox.waiting(connection, everyone) if over is OverCap.DIGEST else {}
    people: dict[str, _Person] = {}
    for theirs in names.values():
        if theirs[0] in people:
            continue
        out = {topic for name in theirs for topic in topics.get(name, ())}
        people[theirs[0]] = _Person(
            sorted(t for name in theirs for t in sent.get(name, ())),
            sum(under_way.get(name, 0) for name in theirs),
            [w for name in theirs for w in waiting.get(name, ()) if w.topic not in out],
        )
    return people


def _over(resolved: Resolved, person: _Person, *, cap: Cap, over: OverCap, now: int) -> Stopped:
    claim, user = resolved.claim, resolved.place.unified_user
    why = f"over the frequency cap of {cap}"
    if over is OverCap.SUPPRESS:
        return Stopped(claim.id, claim.attempt, State.SUPPRESSED, FREQUENCY_CAP, why, user)
    due_ms = cap.room_at(person.times) or min(now + _LOOK_AGAIN_MS, now + cap.window_ms)
    return Stopped(claim.id, claim.attempt, State.HELD, FREQUENCY_CAP, why, user, due_ms)


def _digest(resolved: Resolved, waiting: Sequence[Waiting]) -> list[Waiting]:
    """Give what leaves as one message with a delivery, itself too, in order of creation."""
    claim, capability = resolved.claim, platform(resolved.place.platform or "").capability
    own = Waiting(claim.id, claim.target, claim.topic, claim.text)
    longest = _LONGEST if capability.splits else min(_LONGEST, capability.max_length)
    taken, length = [own], capability.measure(own.text)
    for waits in waiting:
        if waits.target != claim.target or waits.id == claim.id:
            continue
        length += capability.measure(_BETWEEN + waits.text)
        if length > longest:
            break
        taken.append(waits)
    return sorted(taken, key=lambda each: each.id)
