"""Amend: what was sent is edited or taken back, by deliveries like any other.

`edit` and `retract` are for one delivery; `plan` decides for any number of them and stores
nothing, so that a broadcast is amended by the same rules.
"""

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import JSON, Connection, Engine, Row, bindparam, text

from scheduler.deliveries import find
from scheduler.forget import FORGOTTEN
from scheduler.publish import publish
from worker.actions import Action
from worker.amend import MESSAGE_IDS, why_not
from worker.errors import Refused
from worker.intake import check_words, new_id
from worker.lanes import Lane
from worker.outbox import NewAmendment, insert_amendments
from worker.platforms import platforms
from worker.states import State

_FIELDS = "id, state, action, platform, text, lane, receipt"
#: Index: the primary key.
ORIGINALS = (
    text(f"SELECT {_FIELDS} FROM delivery WHERE id IN :ids ORDER BY id")
    .bindparams(bindparam("ids", expanding=True))
    .columns(receipt=JSON())
)
#: Index: ix_delivery_refers_to.
_AMENDMENTS = (
    text(
        "SELECT id, state, action, body_hash, lane, receipt, refers_to FROM delivery "
        "WHERE refers_to IS NOT NULL AND refers_to IN :ids ORDER BY seq"
    )
    .bindparams(bindparam("ids", expanding=True))
    .columns(receipt=JSON())
)
#: These changed nothing and never will; the same may be asked for again.
_VOID = frozenset({State.CANCELLED, State.EXPIRED})
#: A message is still there although somebody wanted it to be taken back.
_IN_VAIN = frozenset({State.FAILED, State.SUPPRESSED})


@dataclass(frozen=True, slots=True)
class Amendment:
    """A stored delivery that changes another one.

    Attributes:
        created: False when the same change was asked for before and is the last one.
    """

    id: str
    lane: Lane
    created: bool
    state: State


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be stored for some deliveries, by their ids.

    Attributes:
        there: Those for which the same change was asked for before.
        refused: Those that cannot be changed so, with the reason.
    """

    new: Sequence[NewAmendment]
    there: Mapping[str, Amendment]
    refused: Mapping[str, str]


def edit(engine: Engine, delivery_id: str, words: str) -> Amendment:
    """Put another text in the place of what a delivery has sent.

    The same text again is the same amendment, as long as it is the last one.

    Args:
        delivery_id: Its id, or the id's beginning.

    Raises:
        NotFound: The id names none or several.
        Refused: It is not `sent`, its platform cannot, or the text does not fit.
    """
    check_words(words)
    return _amend(engine, delivery_id, Action.EDIT, words)


def retract(engine: Engine, delivery_id: str) -> Amendment:
    """Take back what a delivery has sent.

    Args:
        delivery_id: Its id, or the id's beginning.

    Raises:
        NotFound: The id names none or several.
        Refused: It is not `sent`, or its platform cannot.
    """
    return _amend(engine, delivery_id, Action.RETRACT, "")


def _amend(engine: Engine, delivery_id: str, action: Action, words: str) -> Amendment:
    id_ = find(engine, delivery_id).id
    with engine.begin() as connection:
        originals = connection.execute(ORIGINALS, {"ids": [id_]}).all()
        planned = plan(connection, originals, action, words)
        if planned.refused:
            raise Refused(f"delivery {id_}: {planned.refused[id_]}")
        if planned.there:
            return planned.there[id_]
        [new] = planned.new
        stored = insert_amendments(connection, planned.new)
    if not stored:
        # Somebody asked for the same at the same time: it is there now.
        return _amend(engine, id_, action, words)
    made = Amendment(new.id, Lane(new.lane), created=True, state=State.QUEUED)
    publish(engine, [made])
    return made


def plan(
    connection: Connection,
    originals: Sequence[Row[Any]],
    action: Action,
    words: str,
    *,
    lane: Lane | None = None,
) -> Plan:
    """Decide what becomes of a change to these rows of `ORIGINALS`, the same each time.

    Args:
        words: What the messages are to say; nothing when they are retracted.
        lane: On which it goes; the originals' own where not given.
    """
    body_hash = hashlib.sha256(f"{action}:{words}".encode()).hexdigest()
    before: defaultdict[str, list[Row[Any]]] = defaultdict(list)
    found = connection.execute(_AMENDMENTS, {"ids": [row.id for row in originals]})
    for row in found:
        before[row.refers_to].append(row)
    new: list[NewAmendment] = []
    there: dict[str, Amendment] = {}
    refused: dict[str, str] = {}
    for row in originals:
        earlier = before[row.id]
        last = next((each for each in reversed(earlier) if each.state not in _VOID), None)
        if last is not None and (last.action, last.body_hash) == (action, body_hash):
            there[row.id] = Amendment(
                last.id, Lane(last.lane), created=False, state=State(last.state)
            )
            continue
        reason = _why_not(row, action, words, last)
        if reason is not None:
            refused[row.id] = reason
            continue
        new.append(
            NewAmendment(
                id=new_id(),
                key=_key(row.id, action, body_hash, earlier),
                body_hash=body_hash,
                refers_to=row.id,
                action=action,
                text=words,
                metadata={MESSAGE_IDS: _message_ids(row, action, earlier)},
                lane=lane or row.lane,
            )
        )
    return Plan(new, there, refused)


def _why_not(row: Row[Any], action: Action, words: str, last: Row[Any] | None) -> str | None:
    """Say why a delivery cannot be changed so."""
    if row.action != Action.SEND:
        return f"it is an amendment itself ({row.action}): name the delivery that it changes"
    if row.state != State.SENT:
        return f"it is {row.state}: only what was sent can be changed"
    if not row.receipt:
        return "it has no receipt: a person said that it was sent, and its message has no id"
    if action is Action.EDIT and row.text == FORGOTTEN:
        return "its person was forgotten"
    if last is not None and last.action == Action.RETRACT and last.state not in _IN_VAIN:
        return "it was taken back"
    adapter = platforms().get(row.platform or "")
    gone = f"there is no platform {row.platform} any more"
    return gone if adapter is None else why_not(adapter, action, row.receipt, words)


def _key(id_: str, action: Action, body_hash: str, earlier: Sequence[Row[Any]]) -> str:
    """Give the key of an occasion: this change, after the ones that there were."""
    parts = [str(action), id_]
    if action is Action.EDIT:
        parts.append(body_hash[:16])
    return ":".join(parts + [each.id for each in earlier[-1:]])


def _message_ids(row: Row[Any], action: Action, earlier: Sequence[Row[Any]]) -> list[str]:
    """Give the messages to change; with an edit that is a message of its own (Matrix), it too."""
    ids = list(row.receipt)
    if action is Action.RETRACT:
        ids += [id_ for each in earlier if each.state == State.SENT for id_ in each.receipt or ()]
    return list(dict.fromkeys(ids))
