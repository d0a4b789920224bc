import orjson
import pytest

from worker.platforms.base import Bot, Dedup, Message, Response
from worker.platforms.matrix import Matrix
from worker.taxonomy import ErrorKind, Failure, Receipt, Scope

BOT = Bot(
    "matrix",
    "",
    {"MATRIX_HOMESERVER": "https://hs.example/", "MATRIX_ACCESS_TOKEN": "syt_secret"},
)
MATRIX = Matrix()
ROOM = "!abc/def:hs.example:8448"


def message(text: str = "hello", **fields: object) -> Message:
    return Message("d/1 ü", ROOM, text, 1_700_000_000, **fields)  # type: ignore[arg-type]


def content(made: Message) -> dict[str, object]:
    body: dict[str, object] = orjson.loads(MATRIX.request(made, BOT).content)
    return body


def failed(status: int, body: object, **headers: str) -> Failure:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    outcome = MATRIX.outcome(Response(status, named, orjson.dumps(body)))
    assert isinstance(outcome, Failure)
    return outcome


def test_room_and_transaction_are_percent_encoded_whole() -> None:
    request = MATRIX.request(message(), BOT)
    assert request.method == "PUT"
    assert request.url == (
        "https://hs.example/_matrix/client/v3/rooms/%21abc%2Fdef%3Ahs.example%3A8448"
        "/send/m.room.message/mirrorpost-d%2F1%20%C3%BC"
    )
    assert request.headers["authorization"] == "Bearer syt_secret"


def test_every_attempt_has_the_same_transaction_and_another_delivery_another() -> None:
    first, again = MATRIX.request(message(), BOT), MATRIX.request(message(), BOT)
    other = MATRIX.request(Message("d2", ROOM, "hello", 1), BOT)
    assert first.url == again.url != other.url


def test_a_message_notifies_and_mentions_nobody_by_accident() -> None:
    assert content(message()) == {"msgtype": "m.text", "body": "hello", "m.mentions": {}}


def test_a_silent_message_is_a_notice() -> None:
    assert content(message(silent=True))["msgtype"] == "m.notice"


def test_a_thread_falls_back_to_an_answer_to_its_first_event() -> None:
    assert content(message(thread_id="$root"))["m.relates_to"] == {
        "rel_type": "m.thread",
        "event_id": "$root",
        "is_falling_back": True,
        "m.in_reply_to": {"event_id": "$root"},
    }


def test_a_reply_inside_a_thread_is_a_real_one() -> None:
    assert content(message(thread_id="$root", reply_to="$x"))["m.relates_to"] == {
        "rel_type": "m.thread",
        "event_id": "$root",
        "is_falling_back": False,
        "m.in_reply_to": {"event_id": "$x"},
    }


def test_a_reply_alone_names_only_its_event() -> None:
    relation = content(message(reply_to="$x"))["m.relates_to"]
    assert relation == {"m.in_reply_to": {"event_id": "$x"}}


def test_what_matrix_can_do() -> None:
    capability = MATRIX.capability
    assert capability.max_length == 60_000
    assert capability.threads
    assert capability.colon_in_ids
    assert not capability.dm_by_user_id
    assert (capability.dedup, capability.dedup_window_s) == (Dedup.KEY, None)


def test_length_is_what_the_event_takes_in_bytes() -> None:
    measure = MATRIX.capability.measure
    assert measure("abc") == 3
    assert measure("ü") == 2
    assert measure("\U0001f600") == 4
    assert measure('"\n') == 4


@pytest.mark.parametrize("room", ["!a:b", ROOM, "!31hneApxJ_1o-63DmFrpeqnkFfWppnzWso1JvH3ogLM"])
def test_room_ids_are_chats_with_or_without_a_server(room: str) -> None:
    assert MATRIX.check_chat(room) is None


def test_an_alias_is_refused_with_what_to_use_instead() -> None:
    wrong = MATRIX.check_chat("#ops:hs.example")
    assert wrong is not None
    assert "room id" in wrong


@pytest.mark.parametrize("chat", ["", "!", "@alice:hs.example", "a:b", "!a b", "!" + "a" * 255])
def test_other_text_is_no_chat(chat: str) -> None:
    assert MATRIX.check_chat(chat) is not None


def test_a_thread_is_an_event_id() -> None:
    assert MATRIX.check_thread("$abc") is None
    assert MATRIX.check_thread("abc") is not None


def test_the_event_id_is_the_receipt() -> None:
    assert MATRIX.outcome(Response(200, {}, b'{"event_id":"$e"}')) == Receipt(("$e",))


def test_a_success_without_an_event_id_is_ambiguous() -> None:
    assert failed(200, {}).kind is ErrorKind.AMBIGUOUS


@pytest.mark.parametrize(
    ("status", "errcode", "kind"),
    [
        (401, "M_MISSING_TOKEN", ErrorKind.AUTH),
        (401, "M_UNKNOWN_TOKEN", ErrorKind.AUTH),
        (403, "M_USER_DEACTIVATED", ErrorKind.AUTH),
        (403, "M_USER_SUSPENDED", ErrorKind.AUTH),
        (403, "M_USER_LOCKED", ErrorKind.AUTH),
        (403, "M_FORBIDDEN", ErrorKind.FORBIDDEN),
        (404, "M_NOT_FOUND", ErrorKind.TARGET_GONE),
        (400, "M_NOT_JSON", ErrorKind.INVALID),
        (400, "M_BAD_JSON", ErrorKind.INVALID),
        (400, "M_INVALID_PARAM", ErrorKind.INVALID),
        (400, "M_DUPLICATE_ANNOTATION", ErrorKind.INVALID),
        (413, "M_TOO_LARGE", ErrorKind.TOO_LONG),
        (429, "M_LIMIT_EXCEEDED", ErrorKind.RATE_LIMITED),
        (403, "M_RESOURCE_LIMIT_EXCEEDED", ErrorKind.TRANSIENT),
        (404, "M_UNRECOGNIZED", ErrorKind.UNKNOWN_ERROR),
        (403, "M_NEW", ErrorKind.UNKNOWN_ERROR),
        (500, "M_UNKNOWN", ErrorKind.AMBIGUOUS),
        (502, "M_UNKNOWN", ErrorKind.AMBIGUOUS),
    ],
)
def test_every_known_errcode_has_its_kind(status: int, errcode: str, kind: ErrorKind) -> None:
    failure = failed(status, {"errcode": errcode, "error": "words"})
    assert (failure.kind, failure.code, failure.text) == (kind, errcode, "words")


def test_milliseconds_in_the_body_win_over_seconds_in_the_header() -> None:
    body = {"errcode": "M_LIMIT_EXCEEDED", "error": "Too Many Requests", "retry_after_ms": 84}
    failure = failed(429, body, retry_after="1")
    assert (failure.retry_after_s, failure.scope) == (0.084, Scope.BOT)


def test_seconds_in_the_header_speak_when_the_body_does_not() -> None:
    assert failed(429, {"errcode": "M_LIMIT_EXCEEDED"}, retry_after="3").retry_after_s == 3.0


def test_a_proxys_page_is_classified_by_status() -> None:
    outcome = MATRIX.outcome(Response(504, {}, b"<html>"))
    assert isinstance(outcome, Failure)
    assert outcome.kind is ErrorKind.AMBIGUOUS
