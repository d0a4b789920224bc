import orjson
import pytest

from worker.errors import Misconfigured
from worker.platforms.base import Bot, Dedup, Message, Response
from worker.platforms.webhook import Webhook
from worker.taxonomy import ErrorKind, Failure, Receipt

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
BOT = Bot("webhook", "", {"MIRRORPOST_WEBHOOK_SECRET": SECRET})
URL = "https://hooks.example/in?k=1"
WEBHOOK = Webhook()


def message(**fields: object) -> Message:
    return Message("d1", URL, "hello", 1_700_000_000, **fields)  # type: ignore[arg-type]


def failed(status: int, body: bytes = b"", **headers: str) -> Failure:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    outcome = WEBHOOK.outcome(Response(status, named, body))
    assert isinstance(outcome, Failure)
    return outcome


def test_the_event_is_complete_and_guarded() -> None:
    request = WEBHOOK.request(message(reply_to="r", silent=True, extra={"b": 1, "a": [2]}), BOT)
    assert (request.method, request.url, request.guarded) == ("POST", URL, True)
    assert orjson.loads(request.content) == {
        "type": "message.outbound",
        "timestamp": "2023-11-14T22:13:20Z",
        "data": {
            "id": "d1",
            "text": "hello",
            "reply_to": "r",
            "silent": True,
            "metadata": {"a": [2], "b": 1},
        },
    }
    assert request.headers["webhook-id"] == "d1"


def test_the_body_is_the_same_whatever_order_the_metadata_comes_back_in() -> None:
    one = WEBHOOK.request(message(extra={"a": 1, "b": {"x": 1, "y": 2}}), BOT)
    two = WEBHOOK.request(message(extra={"b": {"y": 2, "x": 1}, "a": 1}), BOT)
    assert one.content == two.content


@pytest.mark.parametrize("secret", ["whsec_", "whsec_!!!", "whsec_c2hvcnQ=", "", "whsec_äöü"])
def test_a_secret_that_is_none_is_refused_and_not_shown(secret: str) -> None:
    bot = Bot("webhook", "", {"MIRRORPOST_WEBHOOK_SECRET": secret})
    with pytest.raises(Misconfigured, match="MIRRORPOST_WEBHOOK_SECRET must read whsec_") as raised:
        WEBHOOK.request(message(), bot)
    assert "c2hvcnQ" not in str(raised.value)


def test_what_a_webhook_can_do() -> None:
    capability = WEBHOOK.capability
    assert capability.colon_in_ids
    assert not capability.threads
    assert not capability.dm_by_user_id
    assert (capability.dedup, capability.dedup_window_s) == (Dedup.KEY, None)
    assert capability.measure("ü") == 2


@pytest.mark.parametrize(
    "url",
    ["https://hooks.example/in", "http://hooks.example:8080", "https://[2606:4700::1]/x?y=z"],
)
def test_plain_urls_are_chats(url: str) -> None:
    assert WEBHOOK.check_chat(url) is None


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("", "https://host"),
        ("hooks.example/in", "https://host"),
        ("ftp://hooks.example/", "https://host"),
        ("file:///etc/passwd", "https://host"),
        ("https://", "https://host"),
        ("https://:8080/", "https://host"),
        ("https://hooks.example:99999/", "https://host"),
        ("https://[::1/", "https://host"),
        ("https://user:pass@hooks.example/", "password"),
        ("https://user@hooks.example/", "password"),
        ("https://hooks.example/#top", "fragment"),
        ("https://hooks.example/a b", "spaces"),
        ("https://good.example\\@evil.example/", "spaces"),
        ("https://hooks.example/\r\nx: y", "spaces"),
        ("https://hooks.example/" + "a" * 2048, "2048"),
    ],
)
def test_other_urls_are_refused_with_what_would_be_right(url: str, why: str) -> None:
    wrong = WEBHOOK.check_chat(url)
    assert wrong is not None
    assert why in wrong


def test_any_2xx_is_a_receipt_with_the_receivers_id_where_it_gives_one() -> None:
    assert WEBHOOK.outcome(Response(200, {}, b'{"id":"r1"}')) == Receipt(("r1",))
    assert WEBHOOK.outcome(Response(200, {}, b'{"id":7}')) == Receipt(("7",))
    by_header = Response(202, {"x-request-id": "q1"}, b"")
    assert WEBHOOK.outcome(by_header) == Receipt(("q1",))
    assert WEBHOOK.outcome(Response(204, {}, b"")) == Receipt(("http-204",))


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (301, ErrorKind.INVALID),
        (302, ErrorKind.INVALID),
        (308, ErrorKind.INVALID),
        (400, ErrorKind.UNKNOWN_ERROR),
        (401, ErrorKind.UNKNOWN_ERROR),
        (403, ErrorKind.UNKNOWN_ERROR),
        (404, ErrorKind.UNKNOWN_ERROR),
        (410, ErrorKind.TARGET_GONE),
        (413, ErrorKind.TOO_LONG),
        (429, ErrorKind.RATE_LIMITED),
        (500, ErrorKind.AMBIGUOUS),
        (502, ErrorKind.AMBIGUOUS),
        (504, ErrorKind.AMBIGUOUS),
    ],
)
def test_every_status_has_its_kind(status: int, kind: ErrorKind) -> None:
    failure = failed(status, b"<html>")
    assert (failure.kind, failure.text) == (kind, f"HTTP {status}")


def test_one_receivers_401_does_not_stop_the_others() -> None:
    assert failed(401).kind is not ErrorKind.AUTH


def test_both_forms_of_retry_after_are_honoured() -> None:
    assert failed(429, retry_after="120").retry_after_s == 120.0
    by_date = failed(
        503,
        retry_after="Tue, 24 Nov 2026 12:02:00 GMT",
        date="Tue, 24 Nov 2026 12:00:00 GMT",
    )
    assert (by_date.kind, by_date.retry_after_s) == (ErrorKind.TRANSIENT, 120.0)


def test_a_receivers_words_are_kept_without_what_looks_like_a_secret() -> None:
    failure = failed(400, orjson.dumps({"error": f"bad signature for {SECRET}"}))
    assert failure.text == "bad signature for [redacted]"
