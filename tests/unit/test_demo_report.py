"""The demo says what did not happen, whatever it was."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from scheduler.demo_report import Seen, missing
from worker.sessions import StoredMessage
from worker.tables import DeliveryRow

CHATS = {"telegram": ("1001", "1002", "-1"), "discord": ("9", "5", "6"), "slack": ("U3003", "C0")}


def message(platform: str, *, mirror: bool) -> StoredMessage:
    return StoredMessage(
        id=1,
        session_key="alice",
        role="assistant" if mirror else "user",
        content="x",
        timestamp_ms=0,
        platform=platform,
        chat="1",
        mirror=mirror,
        mirror_source="x" if mirror else None,
        delivery_id=None,
        platform_message_ids=(),
        metadata={},
    )


def good() -> Seen:
    sources = ["schedule:stand-up", "assistant", *["broadcast"] * 6]
    return Seen(
        accepted=[{"platform": p, "chat": chat} for p, chats in CHATS.items() for chat in chats],
        answers={"slack": {"200": 2, "429": 1}},
        deliveries=tuple(
            DeliveryRow(state="sent", receipt=["1"], mirror="done", source=source)
            for source in sources
        ),
        history=(message("discord", mirror=False), *(message(p, mirror=True) for p in CHATS)),
        limited=(),
        mirror_failed=("It is not in the history yet: writing it failed, and so on.",),
        repaired=(),
    )


def twice(seen: Seen) -> Seen:
    return replace(seen, accepted=[*seen.accepted[:-1], seen.accepted[-2]])


def unsent(seen: Seen) -> Seen:
    seen.deliveries[0].state = "retrying"
    return seen


def unproven(seen: Seen) -> Seen:
    seen.deliveries[0].receipt = None
    return seen


def unmirrored(seen: Seen) -> Seen:
    seen.deliveries[0].mirror = "failed"
    return seen


def without_producer(seen: Seen) -> Seen:
    seen.deliveries[1].source = "broadcast"
    return seen


def test_nothing_is_missing_when_all_happened() -> None:
    assert missing(good()) == []


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda seen: replace(seen, accepted=seen.accepted[1:]), "accepted"),
        (twice, "a chat got a message twice"),
        (lambda seen: replace(seen, answers={"slack": {"200": 2}}), "429"),
        (unsent, "not all 8 deliveries are sent"),
        (unproven, "not all 8 deliveries are sent"),
        (unmirrored, "a mirror is missing"),
        (without_producer, "the sources are"),
        (lambda seen: replace(seen, mirror_failed=()), "no mirror failed"),
        (lambda seen: replace(seen, history=seen.history[1:]), "alice's history"),
    ],
)
def test_what_did_not_happen_is_said(spoil: Callable[[Seen], Seen], says: str) -> None:
    assert any(says in line for line in missing(spoil(good())))
