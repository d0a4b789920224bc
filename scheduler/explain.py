"""Why something happened to a delivery, in words, from its row and its attempts.

`explain` is pure: what it says follows from what is stored. `explain_stored` reads that.
"""

from collections.abc import Sequence

from sqlalchemy import Engine

from scheduler.broadcasts.tables import BroadcastRow
from scheduler.broadcasts.words import why_it_waits
from scheduler.deliveries import attempts_of, broadcast_of, head_of, noted_of
from scheduler.explain_amend import amended_by, changed, changes
from scheduler.explain_amend import mirrored as amendment_mirrored
from scheduler.explain_etiquette import silence, waits_for_time, why_spared
from scheduler.occasion import Occasion, occasion_of
from scheduler.words import span as _span
from scheduler.words import time_of as _time
from worker.backoff import MAX_ATTEMPTS
from worker.database import now_ms, reading
from worker.order import WAITS, WAITS_FOR_BROADCAST
from worker.states import ENDS, State
from worker.tables import AttemptRow, DeadTargetRow, DeliveryRow
from worker.taxonomy import CONSEQUENCES, Again, ErrorKind

K = ErrorKind
#: What each kind of failure means to somebody who does not know the taxonomy.
_MEANING = {
    K.RATE_LIMITED: "the platform asked to slow down",
    K.TRANSIENT: "it was not accepted, the same may work later",
    K.AMBIGUOUS: "no answer came, so it may have been accepted or not",
    K.TARGET_GONE: "the chat is gone, or has blocked the bot",
    K.TARGET_MOVED: "the chat lives on under another id",
    K.FORBIDDEN: "the bot may not write there",
    K.AUTH: "the bot's credential is missing or refused",
    K.INVALID: "the platform will never accept this content or address",
    K.TOO_LONG: "the text is over the platform's limit",
    K.UNKNOWN_ERROR: "the platform gave an answer that is not known",
}


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
        *_standing(delivery, now_ms, head, broadcast),
        *_until_when(delivery, noted, now_ms),
        *_doubt(delivery),
        *(_mirrored(delivery) if delivery.refers_to is None else amendment_mirrored(delivery)),
        *changed(amendments),
    ]


def _origin(
    delivery: DeliveryRow, occasion: Occasion | None, broadcast: BroadcastRow | None
) -> str:
    if broadcast is not None:
        return f"It is a part of broadcast {broadcast.name!r}, made {_time(delivery.created_ms)}."
    if occasion is not None:
        missed = ""
        if occasion.missed:
            since = occasion.missed_since_ms or occasion.occurrence_ms
            missed = (
                f" {occasion.missed} earlier occurrence{_s(occasion.missed)} since "
                f"{_time(since)} passed while no scheduler ran and did not go out."
            )
        late = occasion.fired_at_ms - occasion.occurrence_ms
        return (
            f"Schedule {occasion.schedule!r} made it for its occurrence of "
            f"{_time(occasion.occurrence_ms)}, noticed {_span(late)} later.{missed}"
        )
    if _is_run_by_hand(delivery.key):
        return f"Somebody ran {delivery.source} by hand at {_time(delivery.created_ms)}."
    who = repr(delivery.source) if delivery.source else "a producer that did not name itself"
    key = f", under the key {delivery.key!r}" if delivery.key else ""
    return f"Asked for by {who} at {_time(delivery.created_ms)}, on lane {delivery.lane}{key}."


def _is_run_by_hand(key: str | None) -> bool:
    """Tell keys of `scheduler.schedules.run` from others."""
    kind, _, rest = (key or "").partition(":")
    return kind == "schedule" and rest.partition(":")[2].startswith("run:")


def _timing(delivery: DeliveryRow) -> list[str]:
    lines = []
    if delivery.state == State.SCHEDULED or (
        not delivery.attempt and delivery.due_ms > delivery.created_ms
    ):
        lines.append(f"It was asked for {_time(delivery.due_ms)}.")
    if delivery.expires_ms is not None:
        lines.append(f"It must not go out after {_time(delivery.expires_ms)}.")
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
    begun = f"Attempt {attempt.attempt}{part} at {_time(attempt.started_ms)}"
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
        after = f" It asked to wait {_span(attempt.retry_after_ms)}."
    return f"{begun}: {status}{attempt.outcome}, {_meaning(attempt.outcome)}.{words}{after}{late}"


def _standing(  # noqa: PLR0911 - one a state
    delivery: DeliveryRow, now_ms: int, head: str | None, broadcast: BroadcastRow | None
) -> list[str]:
    """Say what the state means and what happens next."""
    why = delivery.error_text or "no reason is stored"
    ended = _time(delivery.ended_ms) if delivery.ended_ms is not None else "an unknown time"
    match State(delivery.state):
        case State.SCHEDULED:
            return [f"It is not due yet: it goes out in {_span(delivery.due_ms - now_ms)}."]
        case State.QUEUED:
            return [_queued(delivery, now_ms)]
        case State.SENDING:
            return [_sending(delivery, now_ms)]
        case State.RETRYING:
            left = delivery.due_ms - now_ms
            when = f"in {_span(left)}" if left > 0 else "now"
            return [
                f"It is tried again {when}, at {_time(delivery.due_ms)} ({why}). "
                f"{_used(delivery.attempts_used)}"
            ]
        case State.HELD if delivery.error_kind == WAITS_FOR_BROADCAST:
            return [why_it_waits(broadcast)]
        case State.HELD:
            return [waits_for_time(delivery, now_ms) or _held(delivery, why, head)]
        case State.UNKNOWN:
            return [
                f"Nobody can know whether it was sent ({why}), and it is not sent again: "
                f"{_why_no_more(delivery)}."
            ]
        case State.SENT:
            ids = ", ".join(delivery.receipt or ()) or "none"
            return [f"It was sent at {ended}{_delay(delivery)}. The platform's message id: {ids}."]
        case State.FAILED:
            return [f"It ended failed at {ended}: {why}. {_why_failed(delivery)}"]
        case State.CANCELLED:
            return [f"It was cancelled at {ended}."]
        case State.EXPIRED:
            last = f" What kept it: {delivery.error_text}." if delivery.error_text else ""
            return [f"It expired at {ended}, before it could be sent.{last}"]
        case State.SUPPRESSED:
            return [f"It was suppressed at {ended}: {why}.", *why_spared(delivery)]


def _until_when(delivery: DeliveryRow, noted: DeadTargetRow | None, now_ms: int) -> list[str]:
    """Say of a dead chat when it is tried next."""
    dead = (K.TARGET_GONE, K.FORBIDDEN)
    if delivery.state != State.SUPPRESSED or delivery.error_kind not in dead:
        return []
    if noted is None:
        return ["That is not noted any more: what is asked for now goes out."]
    left = noted.probe_ms - now_ms
    after = f" after {_time(noted.probe_ms)}, in {_span(left)}," if left > 0 else ""
    return [
        f"The next delivery there{after} tries whether that has changed. "
        "Whatever is written in that chat takes the note back at once."
    ]


def _used(attempts: int) -> str:
    if attempts < MAX_ATTEMPTS:
        return f"{attempts} of {MAX_ATTEMPTS} attempts are used up."
    return (
        f"All {MAX_ATTEMPTS} attempts are used up, but it is too young to be given up: see "
        "MIRRORPOST_DEAD_LETTER_AGE_H."
    )


def _held(delivery: DeliveryRow, why: str, head: str | None) -> str:
    if delivery.error_kind == WAITS:
        if head is None:
            return "It waited for an earlier delivery of the same chat and goes out in seconds."
        return f"It waits for an earlier delivery of the same chat, {head}, to end."
    awaited = "another credential" if delivery.credential_print else "what is missing"
    return f"It is held: {why}. It goes out when a worker starts that has {awaited}."


def _queued(delivery: DeliveryRow, now_ms: int) -> str:
    if not delivery.published_ms:
        return (
            "It waits for the broker, which could not be reached: it goes out when "
            "`mirrorpost up`, or a scheduler, runs."
        )
    waited = _span(max(0, now_ms - delivery.published_ms))
    return f"It waits for a worker, which was told of it {waited} ago."


def _sending(delivery: DeliveryRow, now_ms: int) -> str:
    left = (delivery.lease_until_ms or now_ms) - now_ms
    if left > 0:
        return f"Worker {delivery.owner} is sending it; it has {_span(left)} left for that."
    return f"Worker {delivery.owner} did not come back; a scheduler takes the delivery up again."


def _why_failed(delivery: DeliveryRow) -> str:
    kind = delivery.error_kind or K.UNKNOWN_ERROR
    never = kind in CONSEQUENCES and CONSEQUENCES[K(kind)].again is Again.NEVER
    if delivery.attempts_used >= MAX_ATTEMPTS and not never:
        return f"All {MAX_ATTEMPTS} attempts are used up."
    return f"It is not tried again, because {_meaning(kind)}."


def _why_no_more(delivery: DeliveryRow) -> str:
    if delivery.attempts_used >= MAX_ATTEMPTS:
        return f"all {MAX_ATTEMPTS} attempts are used up"
    return "its policy is to rather lose it than to double it"


def _delay(delivery: DeliveryRow) -> str:
    """Say how long it took; a retry moves the due time, so only of the first attempt."""
    if delivery.ended_ms is None or delivery.attempt > 1:
        return ""
    return f", {_span(delivery.ended_ms - delivery.due_ms)} after it was due"


def _doubt(delivery: DeliveryRow) -> list[str]:
    if not delivery.maybe_duplicate:
        if delivery.doubt_ms is None or delivery.state in ENDS:
            return []
        return [
            f"An attempt since {_time(delivery.doubt_ms)} may have been accepted: its platform "
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


def _meaning(kind: str) -> str:
    return _MEANING[ErrorKind(kind)] if kind in _MEANING else kind


def _s(count: int) -> str:
    return "" if count == 1 else "s"
