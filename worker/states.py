"""The states of a delivery and the one table of legal changes between them.

`worker.outbox` is the only module that writes the state column, and only along this table.
"""

from enum import StrEnum


class State(StrEnum):
    """Where a delivery is on its way."""

    SCHEDULED = "scheduled"
    QUEUED = "queued"
    SENDING = "sending"
    RETRYING = "retrying"
    HELD = "held"
    UNKNOWN = "unknown"
    SENT = "sent"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    SUPPRESSED = "suppressed"


S = State
TRANSITIONS: dict[State, frozenset[State]] = {
    S.SCHEDULED: frozenset({S.QUEUED, S.HELD, S.CANCELLED, S.EXPIRED, S.SUPPRESSED}),
    S.QUEUED: frozenset({S.SENDING, S.HELD, S.CANCELLED, S.EXPIRED, S.SUPPRESSED}),
    S.SENDING: frozenset(
        {S.SENT, S.RETRYING, S.QUEUED, S.HELD, S.UNKNOWN, S.FAILED, S.EXPIRED, S.SUPPRESSED}
    ),
    S.RETRYING: frozenset({S.QUEUED, S.HELD, S.CANCELLED, S.EXPIRED, S.FAILED, S.SUPPRESSED}),
    S.HELD: frozenset({S.QUEUED, S.CANCELLED, S.EXPIRED, S.SUPPRESSED}),
    S.UNKNOWN: frozenset({S.QUEUED, S.SENT, S.CANCELLED}),
    S.FAILED: frozenset({S.QUEUED}),
    # By hand: the person unblocked the bot.
    S.SUPPRESSED: frozenset({S.QUEUED}),
    S.SENT: frozenset(),
    S.CANCELLED: frozenset(),
    S.EXPIRED: frozenset(),
}

#: States after which nothing more happens by itself.
ENDS = frozenset({S.SENT, S.FAILED, S.CANCELLED, S.EXPIRED, S.SUPPRESSED, S.UNKNOWN})


def sources(target: State) -> tuple[State, ...]:
    """Give the states from which a delivery may go to `target`, in a stable order."""
    return tuple(state for state in State if target in TRANSITIONS[state])
