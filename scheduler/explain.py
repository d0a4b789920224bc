"""Why something happened to a delivery, in words, from its row and its attempts.

`explain` is pure: what it says follows from what is stored. `explain_stored` reads that.
"""

from collections.abc import Sequence

from sqlalchemy import Engine

from scheduler.broadcasts.tables import BroadcastRow
from scheduler.deliveries import attempts_of, broadcast_of, head_of, noted_of
from scheduler.explain_amend import amended_by, changed, changes
from scheduler.explain_amend import mirrored as amendment_mirrored
from scheduler.explain_etiquette import silence
from scheduler.explain_state import standing, until_when
from scheduler.occasion import Occasion, occasion_of
from scheduler.words import meaning, span, time_of
from worker.database import now_ms, reading
from worker.order import WAITS
from worker.states import ENDS, State
from worker.tables import AttemptRow, DeadTargetRow, DeliveryRow


def explain_stored(engine: Engine, delivery: DeliveryRow) -> list[str]:
    """Explain a delivery from what the database holds."""
    attempts = attempts_of(engine, delivery.id)
    with reading(engine) as connection:
        now = now_ms(connection)
    return explain(
        delivery,
        attempts,
        now_ms=now,
        occasion=occasion_of(engine, delivery.key),
        noted=noted_of(engine, delivery),
        head=head_of(engine, delivery) if delivery.error_kind == WAITS else None,
        broadcast=broadcast_of(engine, delivery),
        amendments=amended_by(engine, delivery),
    )


def explain(
    delivery: DeliveryRow,
    attempts: Sequence[AttemptRow],
    *,
    now_ms: int,
    occasion: Occasion | None = None,
    noted: DeadTargetRow | None = None,
    head: str | None = None,
    broadcast: BroadcastRow | None = None,
    amendments: Sequence[DeliveryRow] = (),
) -> list[str]:
    """Say why a delivery is where it is, one sentence or two a line, in the order of events.

    Args:
        noted: What is noted of its chat now.
        head: The delivery for which it is held in the order of its chat.
        broadcast: What it is a part of.
        amendments: The deliveries that change what it has sent, in their order.
    """
    return [
        f"Delivery {delivery.id} to {delivery.target}: {delivery.state}.",
        _origin(delivery, occasion, broadcast),
        *changes(delivery),
        *_timing(delivery),
        *silence(delivery),
        *_route(delivery),
        *(_tried(attempt) for attempt in attempts),
        *standing(delivery, now_ms, head, broadcast),
        *until_when(delivery, noted, now_ms),
        *_doubt(delivery),
        *(_mirrored(delivery) if delivery.refers_to is None else amendment_mirrored(delivery)),
        *changed(amendments),
    ]


def _origin(
    delivery: DeliveryRow, occasion: Occasion | None, broadcast: BroadcastRow | None
) -> str:
    if broadcast is not None:
        return f"It is a part of broadcast {broadcast.name!r}, made {time_of(delivery.created_ms)}."
    if occasion is not None:
        missed = ""
        if occasion.missed:
            since = occasion.missed_since_ms or occasion.occurrence_ms
            missed = (
                f" {occasion.missed} earlier occurrence{_s(occasion.missed)} since "
                f"{time_of(since)} passed while no scheduler ran and did not go out."
            )
        late = occasion.fired_at_ms - occasion.occurrence_ms
        return (
            f"Schedule {occasion.schedule!r} made it for its occurrence of "
            f"{time_of(occasion.occurrence_ms)}, noticed {span(late)} later.{missed}"
        )
    if _is_run_by_hand(delivery.key):
        return f"Somebody ran {delivery.source} by hand at {time_of(delivery.created_ms)}."
    who = repr(delivery.source) if delivery.source else "a producer that did not name itself"
    key = f", under the key {delivery.key!r}" if delivery.key else ""
    return f"Asked for by {who} at {time_of(delivery.created_ms)}, on lane {delivery.lane}{key}."


def _is_run_by_hand(key: str | None) -> bool:
    """Tell keys of `scheduler.schedules.run` from others."""
    kind, _, rest = (key or "").partition(":")
    return kind == "schedule" and rest.partition(":")[2].startswith("run:")


def _timing(delivery: DeliveryRow) -> list[str]:
    lines = []
    if delivery.state == State.SCHEDULED or (
        not delivery.attempt and delivery.due_ms > delivery.created_ms
    ):
        lines.append(f"It was asked for {time_of(delivery.due_ms)}.")
    if delivery.expires_ms is not None:
        lines.append(f"It must not go out after {time_of(delivery.expires_ms)}.")
    return lines


def _route(delivery: DeliveryRow) -> list[str]:
    if not delivery.target.startswith("user:") or delivery.platform is None:
        return []
    account = f"@{delivery.account}" if delivery.account else ""
    place = f"{delivery.platform}{account}"
    if delivery.chat_id is None:
        return [f"The best way to reach {delivery.target[5:]} is {place}."]
    return [f"{delivery.target[5:]} was reached at {place}:{delivery.chat_id}."]


def _tried(attempt: AttemptRow) -> str:
    part = f", part {attempt.part + 1}" if attempt.part else ""
    begun = f"Attempt {attempt.attempt}{part} at {time_of(attempt.started_ms)}"
    late = (
        " Its worker came back after its lease had ended, so this changed nothing."
        if attempt.fenced
        else ""
    )
    if attempt.outcome == "sent":
        return f"{begun}: accepted after {attempt.took_ms} ms.{late}"
    status = f"HTTP {attempt.http_status}, " if attempt.http_status is not None else ""
    words = f" It said: {attempt.text}." if attempt.text else ""
    after = ""
    if attempt.retry_after_ms is not None:
        after = f" It asked to wait {span(attempt.retry_after_ms)}."
    return f"{begun}: {status}{attempt.outcome}, {meaning(attempt.outcome)}.{words}{after}{late}"


def _doubt(delivery: DeliveryRow) -> list[str]:
    if not delivery.maybe_duplicate:
        if delivery.doubt_ms is None or delivery.state in ENDS:
            return []
        return [
            f"An attempt since {time_of(delivery.doubt_ms)} may have been accepted: its platform "
            "makes one message of two, or is asked before it is sent again."
        ]
    return [
        "It may have arrived twice: an earlier attempt had no answer, and its policy is to "
        "rather double a message than to lose it."
    ]


def _mirrored(delivery: DeliveryRow) -> list[str]:
    whose = delivery.unified_user or "its person"
    match delivery.mirror:
        case "done":
            return [f"It is in the history of {whose}."]
        case "failed":
            return [
                f"It is not in the history of {whose} yet: writing it failed, and a scheduler "
                "repairs that from the row."
            ]
        case _:
            return []


def _s(count: int) -> str:
    return "" if count == 1 else "s"
