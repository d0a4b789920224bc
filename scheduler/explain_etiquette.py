"""What a person's wishes did to a delivery, in words, from its row. Pure."""

from scheduler.words import span, time_of
from worker.outbox.spare import FREQUENCY_CAP, OPTED_OUT, QUIET_HOURS
from worker.tables import DeliveryRow


def silence(delivery: DeliveryRow) -> list[str]:
    """Say that nobody is notified of it."""
    if not delivery.silent:
        return []
    return ["It is silent: asked for so, or because its time fell into quiet hours."]


def waits_for_time(delivery: DeliveryRow, now_ms: int) -> str | None:
    """Say of what is held until a time why, and what happens then; `None` for other reasons."""
    left = delivery.due_ms - now_ms
    when = f"at {time_of(delivery.due_ms)}, in {span(left)}" if left > 0 else "now"
    if delivery.error_kind == QUIET_HOURS:
        return (
            f"It is held: {delivery.error_text}. It goes out {when}, when they are over; a reply "
            "would have gone at once."
        )
    if delivery.error_kind == FREQUENCY_CAP:
        return (
            f"It is held: {delivery.error_text}. It is looked {when}, whether there is room: it "
            "leaves then, as one message with whatever else waits for that chat."
        )
    return None


def why_spared(delivery: DeliveryRow) -> list[str]:
    """Say of what was suppressed for its person's sake how that comes about."""
    who = delivery.unified_user or delivery.target.removeprefix("user:")
    if delivery.error_kind == OPTED_OUT:
        return [f"That was {who}'s wish, see mirrorpost optout list {who}; replies still go out."]
    if delivery.error_kind != FREQUENCY_CAP:
        return []
    if (delivery.error_text or "").startswith("in the digest"):
        return ["Its text left with that one."]
    return [
        f"All that {who} gets from every producer counts, but replies: see "
        "MIRRORPOST_FREQUENCY_CAP, and MIRRORPOST_FREQUENCY_CAP_ACTION=digest to have such "
        "messages wait."
    ]
