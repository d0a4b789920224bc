"""Why a delivery waits for its broadcast, in words; `scheduler.explain` says the rest."""

from scheduler.broadcasts.states import BroadcastState
from scheduler.broadcasts.tables import BroadcastRow


def why_it_waits(broadcast: BroadcastRow | None) -> str:
    """Say for what a delivery waits that its broadcast has not let go."""
    if broadcast is None:
        return "It waits for its broadcast, which is not there any more."
    name, why = broadcast.name, f" ({broadcast.reason})" if broadcast.reason else ""
    match BroadcastState(broadcast.state):
        case BroadcastState.RUNNING:
            return (
                f"It waits for its turn: broadcast {name!r} is running and lets some seconds' "
                "worth go at a time."
            )
        case BroadcastState.CANCELLED:
            return f"It is about to be cancelled, as broadcast {name!r} was."
        case state:
            return (
                f"It waits for broadcast {name!r}, which is {state}{why}: "
                f"mirrorpost broadcast resume {name}"
            )
