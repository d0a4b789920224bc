"""What a delivery's state means and what happens next, in words, from its row.

The part of `scheduler.explain` that is about where a delivery stands. Pure.
"""

from scheduler.broadcasts.tables import BroadcastRow
from scheduler.broadcasts.words import why_it_waits
from scheduler.explain_etiquette import waits_for_time, why_spared
from scheduler.words import meaning, span, time_of
from worker.backoff import MAX_ATTEMPTS
from worker.order import WAITS, WAITS_FOR_BROADCAST
from worker.states import State
from worker.tables import DeadTargetRow, DeliveryRow
from worker.taxonomy import CONSEQUENCES, Again, ErrorKind


def standing(  # noqa: PLR0911 - one a state
    delivery: DeliveryRow, now_ms: int, head: str | None, broadcast: BroadcastRow | None
) -> list[str]:
    """Say what the state means and what happens next."""
    why = delivery.error_text or "no reason is stored"
    ended = time_of(delivery.ended_ms) if delivery.ended_ms is not None else "an unknown time"
    match State(delivery.state):
        case State.SCHEDULED:
            return [f"It is not due yet: it goes out in {span(delivery.due_ms - now_ms)}."]
        case State.QUEUED:
            return [_queued(delivery, now_ms)]
        case State.SENDING:
            return [_sending(delivery, now_ms)]
        case State.RETRYING:
            left = delivery.due_ms - now_ms
            when = f"in {span(left)}" if left > 0 else "now"
            return [
                f"It is tried again {when}, at {time_of(delivery.due_ms)} ({why}). "
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


def until_when(delivery: DeliveryRow, noted: DeadTargetRow | None, now_ms: int) -> list[str]:
    """Say of a dead chat when it is tried next."""
    dead = (ErrorKind.TARGET_GONE, ErrorKind.FORBIDDEN)
    if delivery.state != State.SUPPRESSED or delivery.error_kind not in dead:
        return []
    if noted is None:
        return ["That is not noted any more: what is asked for now goes out."]
    left = noted.probe_ms - now_ms
    after = f" after {time_of(noted.probe_ms)}, in {span(left)}," if left > 0 else ""
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
    waited = span(max(0, now_ms - delivery.published_ms))
    return f"It waits for a worker, which was told of it {waited} ago."


def _sending(delivery: DeliveryRow, now_ms: int) -> str:
    left = (delivery.lease_until_ms or now_ms) - now_ms
    if left > 0:
        return f"Worker {delivery.owner} is sending it; it has {span(left)} left for that."
    return f"Worker {delivery.owner} did not come back; a scheduler takes the delivery up again."


def _why_failed(delivery: DeliveryRow) -> str:
    kind = delivery.error_kind or ErrorKind.UNKNOWN_ERROR
    never = kind in CONSEQUENCES and CONSEQUENCES[ErrorKind(kind)].again is Again.NEVER
    if delivery.attempts_used >= MAX_ATTEMPTS and not never:
        return f"All {MAX_ATTEMPTS} attempts are used up."
    return f"It is not tried again, because {meaning(kind)}."


def _why_no_more(delivery: DeliveryRow) -> str:
    if delivery.attempts_used >= MAX_ATTEMPTS:
        return f"all {MAX_ATTEMPTS} attempts are used up"
    return "its policy is to rather lose it than to double it"


def _delay(delivery: DeliveryRow) -> str:
    """Say how long it took; a retry moves the due time, so only of the first attempt."""
    if delivery.ended_ms is None or delivery.attempt > 1:
        return ""
    return f", {span(delivery.ended_ms - delivery.due_ms)} after it was due"
