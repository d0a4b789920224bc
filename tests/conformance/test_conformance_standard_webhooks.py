import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook as Judge
from standardwebhooks import WebhookVerificationError

from worker.platforms.base import Bot, Message
from worker.platforms.webhook import Webhook

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
BOT = Bot("webhook", "", {"MIRRORPOST_WEBHOOK_SECRET": SECRET})
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))


@given(TEXTS, st.dictionaries(TEXTS, TEXTS))
def test_the_reference_library_verifies_what_is_sent(text: str, metadata: dict[str, str]) -> None:
    message = Message("d1", "https://hooks.example/", text, 1_700_000_000, extra=metadata)
    request = Webhook().request(message, BOT)
    event = Judge(SECRET).verify(request.content, dict(request.headers))
    assert event["data"]["text"] == text
    assert event["data"]["metadata"] == metadata


def test_another_secret_or_another_body_is_not_verified() -> None:
    message = Message("d1", "https://hooks.example/", "hello", 1_700_000_000)
    request = Webhook().request(message, BOT)
    other = "whsec_" + base64.b64encode(b"x" * 32).decode()
    with pytest.raises(WebhookVerificationError):
        Judge(other).verify(request.content, dict(request.headers))
    with pytest.raises(WebhookVerificationError):
        Judge(SECRET).verify(request.content + b" ", dict(request.headers))


def test_a_repeated_attempt_keeps_id_and_body_and_is_verified_again() -> None:
    message = Message("d1", "https://hooks.example/", "hello", 1_700_000_000)
    first, again = (Webhook().request(message, BOT) for _ in range(2))
    assert first.headers["webhook-id"] == again.headers["webhook-id"] == "d1"
    assert first.content == again.content
    assert json.loads(again.content) == Judge(SECRET).verify(again.content, dict(again.headers))


def test_a_secret_without_prefix_or_padding_signs_the_same() -> None:
    bare = base64.b64encode(b"k" * 25).decode()
    message = Message("d1", "https://hooks.example/", "hello", 1_700_000_000)
    for spelled in (bare, "whsec_" + bare, bare.rstrip("=")):
        bot = Bot("webhook", "", {"MIRRORPOST_WEBHOOK_SECRET": spelled})
        request = Webhook().request(message, bot)
        Judge("whsec_" + bare).verify(request.content, dict(request.headers))
