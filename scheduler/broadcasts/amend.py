"""What a broadcast has sent is edited or taken back, in chunks that can be interrupted.

Run again after a crash, or because more was sent meanwhile, it makes what is missing.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from sqlalchemy import JSON, Engine, text

from scheduler.amend import plan
from scheduler.broadcasts.states import BroadcastState
from scheduler.publish import publish
from worker.actions import Action
from worker.database import reading
from worker.errors import NotFound, Refused
from worker.intake import check_words
from worker.lanes import Lane
from worker.outbox import insert_amendments
from worker.states import ENDS

#: Deliveries of one transaction.
_CHUNK = 500
#: Index: ix_delivery_broadcast.
SENT = text(
    "SELECT id, state, action, platform, text, lane, receipt FROM delivery "
    "WHERE broadcast_id = :broadcast AND state = 'sent' AND id > :after "
    "ORDER BY id LIMIT :limit"
).columns(receipt=JSON())
_BY_STATE = text(
    "SELECT state, count(*) AS deliveries FROM delivery WHERE broadcast_id = :broadcast "
    "GROUP BY state"
)


@dataclass(frozen=True, slots=True)
class Found:
    """A broadcast, and how many of its deliveries were sent and may still be."""

    id: str
    sent: int
    not_sent_yet: int


@dataclass(slots=True)
class Amended:
    """What came of amending a broadcast.

    Attributes:
        made: Amendments that were stored and published.
        there: Deliveries for which the same was asked for before.
        refused: Deliveries that cannot be changed so, counted by the reason.
    """

    made: int = 0
    there: int = 0
    refused: Counter[str] = field(default_factory=Counter)


def find_broadcast(engine: Engine, name: str) -> Found:
    """Find the broadcast whose messages are to be changed.

    Raises:
        NotFound: There is none of this name.
        Refused: It is running, so that more would be sent behind the change.
    """
    with reading(engine) as connection:
        row = connection.execute(
            text("SELECT id, state FROM broadcast WHERE name = :name"), {"name": name}
        ).one_or_none()
        if row is None:
            raise NotFound(f"there is no broadcast {name!r}: see mirrorpost broadcast list")
        if row.state == BroadcastState.RUNNING:
            raise Refused(
                f"broadcast {name!r} is running and would send more behind this: pause or cancel "
                f"it first, mirrorpost broadcast pause {name}"
            )
        states = connection.execute(_BY_STATE, {"broadcast": row.id})
        counts: dict[str, int] = {each.state: each.deliveries for each in states}
    waiting = sum(count for state, count in counts.items() if state not in ENDS)
    return Found(row.id, counts.get("sent", 0), waiting)


def amend_broadcast(
    engine: Engine,
    broadcast_id: str,
    action: Action,
    words: str | None = None,
    *,
    advance: Callable[[int], None] = lambda _: None,
) -> Amended:
    """Make an amendment for every delivery of a broadcast that was sent; give what came of it.

    They go on the lane of broadcasts. What cannot be changed is counted with the reason.

    Args:
        words: What the messages are to say, with `Action.EDIT`.
        advance: Called with the number of deliveries of each chunk.

    Raises:
        Refused: The text is not acceptable; nothing was stored.
    """
    if action is Action.EDIT:
        check_words(words or "")
    amended, after = Amended(), ""
    while True:
        with engine.begin() as connection:
            values = {"broadcast": broadcast_id, "after": after, "limit": _CHUNK}
            rows = connection.execute(SENT, values).all()
            if not rows:
                return amended
            planned = plan(connection, rows, action, words or "", lane=Lane.BROADCAST)
            made = insert_amendments(connection, planned.new)
        publish(engine, [_Made(id_) for id_ in sorted(made)])
        after = rows[-1].id
        amended.made += len(made)
        amended.there += len(planned.there) + len(planned.new) - len(made)
        amended.refused.update(planned.refused.values())
        advance(len(rows))


@dataclass(frozen=True, slots=True)
class _Made:
    id: str
    lane: Lane = Lane.BROADCAST
