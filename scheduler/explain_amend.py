"""What a delivery changes, and by what its own message was changed, in words.

The part of `scheduler.explain` that is about edits and retractions. Pure but for `amended_by`.
"""

from collections.abc import Sequence

from sqlalchemy import Engine
from sqlmodel import Session, col, select

from worker.actions import Action
from worker.amend import MESSAGE_IDS
from worker.database import reading
from worker.sessions.amend import RETRACTED
from worker.states import State
from worker.tables import DeliveryRow

_DOES = {Action.EDIT: "edits", Action.RETRACT: "takes back"}
_DONE = {Action.EDIT: "edited", Action.RETRACT: "taken back"}


def amended_by(engine: Engine, delivery: DeliveryRow) -> Sequence[DeliveryRow]:
    """Give the deliveries that change what this one has sent, in their order."""
    query = (
        select(DeliveryRow)
        .where(col(DeliveryRow.refers_to).is_not(None), DeliveryRow.refers_to == delivery.id)
        .order_by(col(DeliveryRow.seq))
    )
    with reading(engine) as connection, Session(connection) as session:
        return session.exec(query).all()


def changes(delivery: DeliveryRow) -> list[str]:
    """Say what an amendment changes."""
    if delivery.action == Action.SEND:
        return []
    ids = (delivery.details or {}).get(MESSAGE_IDS)
    named = f", message {', '.join(ids)}" if isinstance(ids, list) else ""
    return [
        f"It {_DOES[Action(delivery.action)]} what delivery {delivery.refers_to} has sent"
        f"{named}. To do that twice does no harm, so what has no answer is tried again."
    ]


def changed(amendments: Sequence[DeliveryRow]) -> list[str]:
    """Say by what a delivery's message was changed, and what came of it."""
    return [
        f"{_wanted(each)} by delivery {each.id}: {each.state}{_why(each)}." for each in amendments
    ]


def _wanted(amendment: DeliveryRow) -> str:
    was = "It was" if amendment.state == State.SENT else "It is to be"
    return f"{was} {_DONE[Action(amendment.action)]}"


def _why(amendment: DeliveryRow) -> str:
    return f" ({amendment.error_text})" if amendment.error_text else ""


def mirrored(delivery: DeliveryRow) -> list[str]:
    """Say whether the history knows what an amendment has changed."""
    whose = delivery.unified_user or "its person"
    says = RETRACTED if delivery.action == Action.RETRACT else "the new text"
    match delivery.mirror:
        case "done":
            return [f"The history of {whose} says {says} where it has the message."]
        case "failed":
            return [f"The history of {whose} does not say {says} yet; a scheduler repairs that."]
        case _:
            return []
