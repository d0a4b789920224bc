"""Start: a checked broadcast begins to run."""

from sqlalchemy import Engine, text

from scheduler.broadcasts.drafts import Broadcast, find
from scheduler.broadcasts.states import BroadcastState
from worker.database import NOW_MS
from worker.errors import Refused

_WHY_NOT = {
    BroadcastState.DRAFT: "is not checked yet: mirrorpost broadcast preflight {name}",
    BroadcastState.RUNNING: "is running already",
    BroadcastState.PAUSED: "is paused: mirrorpost broadcast resume {name}",
    BroadcastState.HALTED: "is halted: mirrorpost broadcast resume {name}",
    BroadcastState.DONE: "is done: create another one",
    BroadcastState.CANCELLED: "is cancelled: create another one",
}


def start(engine: Engine, name: str) -> Broadcast:
    """Let a checked broadcast run; a scheduler fans it out.

    Raises:
        Refused: It is not checked, or was started before.
    """
    with engine.begin() as connection:
        found = find(connection, name)
        started = connection.execute(
            text(
                "UPDATE broadcast SET state = 'running', started_ms = "
                f"{NOW_MS[connection.dialect.name]} WHERE id = :id AND state = 'checked'"
            ),
            {"id": found.id},
        ).rowcount
        found = find(connection, found.id)
        if not started:
            raise Refused(f"{found.name} {_WHY_NOT[found.state].format(name=found.name)}")
        return found
