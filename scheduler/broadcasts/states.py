"""The states of a broadcast and the one table of legal changes between them."""

from enum import StrEnum


class BroadcastState(StrEnum):
    """Where a broadcast is on its way."""

    DRAFT = "draft"
    CHECKED = "checked"
    RUNNING = "running"
    PAUSED = "paused"
    DONE = "done"
    CANCELLED = "cancelled"
    HALTED = "halted"


B = BroadcastState
TRANSITIONS: dict[BroadcastState, frozenset[BroadcastState]] = {
    # A second preflight draws the recipients anew.
    B.DRAFT: frozenset({B.CHECKED, B.CANCELLED}),
    B.CHECKED: frozenset({B.CHECKED, B.RUNNING, B.CANCELLED}),
    B.RUNNING: frozenset({B.PAUSED, B.DONE, B.CANCELLED, B.HALTED}),
    B.PAUSED: frozenset({B.RUNNING, B.CANCELLED}),
    # Halted by itself for too many failures: a person may let it go on.
    B.HALTED: frozenset({B.RUNNING, B.CANCELLED}),
    B.DONE: frozenset(),
    B.CANCELLED: frozenset(),
}
