"""Progress: how far a broadcast is, counted in one index whatever its size.

Called by the command line. Reads only.
"""

from collections import defaultdict
from dataclasses import asdict, dataclass

from sqlalchemy import Connection, Engine, text
from sqlmodel import Session, select

from scheduler.broadcasts.states import TRANSITIONS, BroadcastState
from scheduler.broadcasts.tables import BroadcastRow
from worker.database import now_ms, reading
from worker.errors import NotFound
from worker.states import ENDS, State
from worker.tables import HELD_OTHERWISE

#: Milliseconds over which the rate is measured.
_RATE_MS = 10_000
#: The platform of people whose route is chosen at the send.
NOT_CHOSEN = "not chosen yet"
_UNDER_WAY = frozenset({State.SCHEDULED, State.QUEUED, State.SENDING, State.RETRYING})

_COUNTS = text(
    "SELECT platform, state, count(*) AS n FROM delivery WHERE broadcast_id = :id "
    "GROUP BY platform, state"
)
_HELD = text(f"SELECT count(*) FROM delivery WHERE {HELD_OTHERWISE} AND broadcast_id = :id")
_LATELY = text(
    "SELECT count(*) FROM delivery WHERE broadcast_id = :id AND ended_ms IS NOT NULL "
    "AND ended_ms >= :since AND state = 'sent'"
)


@dataclass(frozen=True, slots=True)
class Counts:
    """Deliveries by where they are; what has no delivery yet is not among them.

    Attributes:
        waiting: Held: until the feed lets them go, or for another reason.
        under_way: With the workers, or waiting for another attempt.
        gone: Of whom nothing is kept any more: forgotten, or past the retention.
    """

    waiting: int = 0
    under_way: int = 0
    sent: int = 0
    failed: int = 0
    unknown: int = 0
    suppressed: int = 0
    cancelled: int = 0
    expired: int = 0
    gone: int = 0


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a broadcast is.

    Attributes:
        counts: Of all recipients; those without a delivery are waiting, or cancelled.
        held: Those of the waiting that are held for another reason than the broadcast's pace,
            such as a missing credential.
        rate: Messages a second, over the last ten seconds.
        eta_s: Seconds that it takes yet at that rate; `None` when nobody can say.
        platforms: The deliveries that there are, by platform.
    """

    id: str
    name: str
    state: BroadcastState
    reason: str | None
    recipients: int
    counts: Counts
    held: int
    rate: float
    eta_s: int | None
    platforms: dict[str, Counts]

    @property
    def is_over(self) -> bool:
        """Tell whether nothing more happens to it by itself."""
        return not TRANSITIONS[self.state]

    @property
    def ended(self) -> int:
        """Count the recipients of whom it is known what became."""
        return self.recipients - self.counts.waiting - self.counts.under_way

    def as_object(self) -> dict[str, object]:
        """Give it as JSON shows it."""
        found = asdict(self)
        counts = found.pop("counts")
        platforms = found.pop("platforms")
        return {**found, **counts, "platforms": platforms}


def named(engine: Engine, name: str) -> BroadcastRow:
    """Give the broadcast of a name.

    Raises:
        NotFound: There is none.
    """
    with reading(engine) as connection, Session(connection) as session:
        row = session.exec(select(BroadcastRow).where(BroadcastRow.name == name)).one_or_none()
    if row is None:
        raise NotFound(f"there is no broadcast {name!r}: see mirrorpost broadcast list")
    return row


def progress_of(engine: Engine, name: str) -> Progress:
    """Tell how far a broadcast is.

    Raises:
        NotFound: There is none of that name.
    """
    row = named(engine, name)
    with reading(engine) as connection:
        by_platform = _by_platform(connection, row.id)
        held = connection.execute(_HELD, {"id": row.id}).scalar_one()
        rate = _rate(connection, row)
    state = BroadcastState(row.state)
    counts = _all(row, state, by_platform)
    left = counts.waiting + counts.under_way
    eta_s = round(left / rate) if state is BroadcastState.RUNNING and rate else None
    return Progress(
        row.id, row.name, state, row.reason, row.recipients, counts, held, rate, eta_s, by_platform
    )


def _by_platform(connection: Connection, broadcast_id: str) -> dict[str, Counts]:
    found: defaultdict[str, defaultdict[str, int]] = defaultdict(lambda: defaultdict(int))
    for platform, state, n in connection.execute(_COUNTS, {"id": broadcast_id}):
        found[platform or NOT_CHOSEN][_where(State(state))] += n
    return {platform: Counts(**found[platform]) for platform in sorted(found)}


def _where(state: State) -> str:
    if state in ENDS:
        return state.value
    return "under_way" if state in _UNDER_WAY else "waiting"


def _all(row: BroadcastRow, state: BroadcastState, by_platform: dict[str, Counts]) -> Counts:
    total: defaultdict[str, int] = defaultdict(int)
    for counts in by_platform.values():
        for name, n in asdict(counts).items():
            total[name] += n
    without = max(0, row.recipients - sum(total.values()))
    # Whoever has had his turn and has no delivery, has none any more.
    to_come = min(without, row.recipients - row.fanned_out)
    total["cancelled" if state is BroadcastState.CANCELLED else "waiting"] += to_come
    total["gone"] += without - to_come
    return Counts(**total)


def _rate(connection: Connection, row: BroadcastRow) -> float:
    now = now_ms(connection)
    since = max(now - _RATE_MS, row.started_ms or 0)
    sent: int = connection.execute(_LATELY, {"id": row.id, "since": since}).scalar_one()
    return round(sent / max(1.0, (now - since) / 1000), 1)
