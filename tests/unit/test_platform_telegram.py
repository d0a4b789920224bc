import orjson
import pytest

from worker.platforms.base import Bot, Dedup, Message, Response
from worker.platforms.telegram import Telegram
from worker.taxonomy import ErrorKind, Failure, Receipt, Scope

TOKEN = "123456:AAH-secret_secret_secret"
BOT = Bot(
    "telegram",
    "",
    {"TELEGRAM_BOT_TOKEN": TOKEN, "TELEGRAM_API_BASE": "https://api.telegram.org"},
)
TELEGRAM = Telegram()


def message(chat_id: str = "42", text: str = "hello", **fields: object) -> Message:
    return Message("d1", chat_id, text, 1_700_000_000, **fields)  # type: ignore[arg-type]


def refusal(code: int, description: str, **parameters: object) -> Response:
    body: dict[str, object] = {"ok": False, "error_code": code, "description": description}
    if parameters:
        body["parameters"] = parameters
    return Response(code, {"content-type": "application/json"}, orjson.dumps(body))


def failed(response: Response) -> Failure:
    outcome = TELEGRAM.outcome(response)
    assert isinstance(outcome, Failure)
    return outcome


def test_the_smallest_message_is_a_number_and_a_text() -> None:
    request = TELEGRAM.request(message(), BOT)
    assert request.method == "POST"
    assert request.url == f"https://api.telegram.org/bot{TOKEN}/sendMessage"
    assert request.headers == {"content-type": "application/json"}
    assert orjson.loads(request.content) == {"chat_id": 42, "text": "hello"}
    assert not request.guarded


def test_topic_reply_and_silence_go_along() -> None:
    full = message("-1001234567890", thread_id="77", reply_to="5", silent=True)
    assert orjson.loads(TELEGRAM.request(full, BOT).content) == {
        "chat_id": -1001234567890,
        "text": "hello",
        "message_thread_id": 77,
        "disable_notification": True,
        "reply_parameters": {"message_id": 5, "allow_sending_without_reply": True},
    }


def test_a_public_name_stays_text() -> None:
    request = TELEGRAM.request(message("@news_channel"), BOT)
    assert orjson.loads(request.content)["chat_id"] == "@news_channel"


def test_markup_in_a_text_is_sent_as_it_is_written() -> None:
    text = "*no* _mode_ <b>at all</b> [x](y) \\ \u2028 \U0001f600"
    body = orjson.loads(TELEGRAM.request(message(text=text), BOT).content)
    assert body == {"chat_id": 42, "text": text}


def test_a_base_address_may_end_with_a_slash() -> None:
    bot = Bot("telegram", "", {**BOT.values, "TELEGRAM_API_BASE": "http://127.0.0.1:1/x/"})
    assert TELEGRAM.request(message(), bot).url == f"http://127.0.0.1:1/x/bot{TOKEN}/sendMessage"


def test_no_repr_holds_the_token_but_the_url_of_a_request() -> None:
    assert TOKEN not in repr(BOT)


@pytest.mark.parametrize("chat", ["1", "42", "-42", "-1001234567890", "@durov", "@a_channel9"])
def test_numbers_and_public_names_are_chats(chat: str) -> None:
    assert TELEGRAM.check_chat(chat) is None


@pytest.mark.parametrize(
    "chat",
    ["", "0", "-", "1.5", "12 3", "alice", "@", "@ab", "@9abc", "@a-b-c", "٣", "9" * 17, "1\n"],
)
def test_other_text_is_no_chat(chat: str) -> None:
    wrong = TELEGRAM.check_chat(chat)
    assert wrong is not None
    assert "number" in wrong


def test_a_topic_is_a_positive_number() -> None:
    assert TELEGRAM.check_thread("77") is None
    for thread in ("0", "-1", "general", "", "7.5", "²"):
        assert TELEGRAM.check_thread(thread) is not None, thread


def test_length_is_counted_in_utf16_units() -> None:
    assert TELEGRAM.capability.max_length == 4096
    assert TELEGRAM.capability.measure("\U0001f600") == 2
    assert TELEGRAM.capability.measure("a" * 4096) == 4096


def test_what_telegram_can_do() -> None:
    capability = TELEGRAM.capability
    assert capability.threads
    assert not capability.colon_in_ids
    assert capability.dm_by_user_id
    assert capability.dedup is Dedup.NONE


def test_a_message_id_is_the_receipt() -> None:
    body = b'{"ok":true,"result":{"message_id":123,"date":1,"chat":{"id":42}}}'
    assert TELEGRAM.outcome(Response(200, {}, body)) == Receipt(("123",))


@pytest.mark.parametrize(
    "body",
    [
        b'{"ok":true}',
        b'{"ok":true,"result":{}}',
        b'{"ok":true,"result":true}',
        b'{"ok":true,"result":{"message_id":true}}',
        b'{"ok":true,"result":{"message_id":null}}',
        b"{}",
        b"",
        b"<html>ok</html>",
        b"[1]",
    ],
)
def test_a_success_without_a_message_id_is_ambiguous(body: bytes) -> None:
    assert failed(Response(200, {}, body)).kind is ErrorKind.AMBIGUOUS


GONE, FORBIDDEN, INVALID = ErrorKind.TARGET_GONE, ErrorKind.FORBIDDEN, ErrorKind.INVALID


@pytest.mark.parametrize(
    ("code", "description", "kind"),
    [
        (403, "Forbidden: bot was blocked by the user", GONE),
        (403, "Forbidden: user is deactivated", GONE),
        (403, "Forbidden: bot was kicked from the group chat", GONE),
        (403, "Forbidden: bot was kicked from the supergroup chat", GONE),
        (403, "Forbidden: bot was kicked from the channel chat", GONE),
        (403, "Forbidden: the group chat was deleted", GONE),
        (403, "Forbidden: bot is not a member of the group chat", FORBIDDEN),
        (403, "Forbidden: bot is not a member of the supergroup chat", FORBIDDEN),
        (403, "Forbidden: bot is not a member of the channel chat", FORBIDDEN),
        (403, "Forbidden: bot can't initiate conversation with a user", FORBIDDEN),
        (403, "Forbidden: the bot can't send messages to the bot", FORBIDDEN),
        (403, "Forbidden: bot can't send messages to bots", FORBIDDEN),
        (403, "Forbidden: nobody has seen this yet", ErrorKind.UNKNOWN_ERROR),
        (400, "Bad Request: chat not found", GONE),
        (400, "Bad Request: private chat not found", GONE),
        (400, "Bad Request: chat_id is empty", GONE),
        (400, "Bad Request: message thread not found", GONE),
        (400, "Bad Request: topic not found", GONE),
        (400, "Bad Request: have no write access to the chat", FORBIDDEN),
        (400, "Bad Request: need administrator rights in the channel chat", FORBIDDEN),
        (400, "Bad Request: not enough rights to send text messages to the chat", FORBIDDEN),
        (400, "Bad Request: not enough rights to send photos to the chat", FORBIDDEN),
        (400, "Bad Request: TOPIC_CLOSED", FORBIDDEN),
        (400, "Bad Request: CHAT_WRITE_FORBIDDEN", FORBIDDEN),
        (400, "Bad Request: group chat was upgraded to a supergroup chat", GONE),
        (400, "Bad Request: message is too long", ErrorKind.TOO_LONG),
        (400, "Bad Request: text is too long", ErrorKind.TOO_LONG),
        (400, "Bad Request: message caption is too long", ErrorKind.TOO_LONG),
        (400, "Bad Request: can't parse entities: Can't find end of Bold entity", INVALID),
        (400, "Bad Request: message text is empty", INVALID),
        (400, "Bad Request: entity URL 'x' is invalid: Wrong HTTP URL", INVALID),
        (400, "Bad Request: Entity URL 'x' is invalid: Wrong HTTP URL", INVALID),
        (400, "Bad Request: message to be replied not found", INVALID),
        (400, "Bad Request: wrong file identifier/HTTP URL specified", INVALID),
        (400, "Bad Request: Wrong file identifier/HTTP URL specified", INVALID),
        (400, "Bad Request: failed to get HTTP URL content", INVALID),
        (400, "Bad Request: nobody has seen this yet", ErrorKind.UNKNOWN_ERROR),
        (401, "Unauthorized", ErrorKind.AUTH),
        (401, "Unauthorized: invalid token specified", ErrorKind.AUTH),
        (404, "Not Found", ErrorKind.AUTH),
        (421, "Misdirected Request: unallowed token specified", ErrorKind.AUTH),
        (429, "Too Many Requests: retry after 5", ErrorKind.RATE_LIMITED),
        (500, "Internal Server Error: restart", ErrorKind.TRANSIENT),
        (500, "Request aborted", ErrorKind.TRANSIENT),
        (500, "Internal Server Error: Request aborted", ErrorKind.TRANSIENT),
        (500, "Internal Server Error", ErrorKind.AMBIGUOUS),
        (502, "Bad Gateway", ErrorKind.AMBIGUOUS),
    ],
)
def test_every_known_refusal_has_its_kind(code: int, description: str, kind: ErrorKind) -> None:
    failure = failed(refusal(code, description))
    assert failure.kind is kind
    assert failure.text == description
    assert failure.code == str(code)
    assert failure.http_status == code


def test_what_is_said_about_a_topic_is_not_said_about_its_group() -> None:
    for words in ("message thread not found", "topic not found", "TOPIC_CLOSED"):
        assert failed(refusal(400, f"Bad Request: {words}")).thread_only
    assert not failed(refusal(400, "Bad Request: chat not found")).thread_only
    assert not failed(refusal(403, "Forbidden: bot was blocked by the user")).thread_only


def test_a_migrated_group_names_its_new_id() -> None:
    description = "Bad Request: group chat was upgraded to a supergroup chat"
    failure = failed(refusal(400, description, migrate_to_chat_id=-1001234567890))
    assert failure.kind is ErrorKind.TARGET_MOVED
    assert failure.moved_to == "-1001234567890"


def test_a_429_holds_the_chat_for_the_bodys_seconds() -> None:
    failure = failed(refusal(429, "Too Many Requests: retry after 17", retry_after=17))
    assert (failure.retry_after_s, failure.scope) == (17.0, Scope.CHAT)


def test_a_wait_longer_than_a_chats_limits_know_holds_the_bot() -> None:
    failure = failed(refusal(429, "Too Many Requests: retry after 5400", retry_after=5400))
    assert (failure.retry_after_s, failure.scope) == (5400.0, Scope.BOT)


def test_the_header_speaks_when_the_body_does_not() -> None:
    response = Response(429, {"retry-after": "9"}, b"<html>slow down</html>")
    failure = failed(response)
    assert (failure.kind, failure.retry_after_s) == (ErrorKind.RATE_LIMITED, 9.0)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (301, ErrorKind.UNKNOWN_ERROR),
        (401, ErrorKind.AUTH),
        (403, ErrorKind.UNKNOWN_ERROR),
        (404, ErrorKind.UNKNOWN_ERROR),
        (408, ErrorKind.TRANSIENT),
        (413, ErrorKind.TOO_LONG),
        (429, ErrorKind.RATE_LIMITED),
        (500, ErrorKind.AMBIGUOUS),
        (502, ErrorKind.AMBIGUOUS),
        (503, ErrorKind.AMBIGUOUS),
        (504, ErrorKind.AMBIGUOUS),
        (524, ErrorKind.AMBIGUOUS),
        (599, ErrorKind.AMBIGUOUS),
    ],
)
def test_a_proxys_page_is_classified_by_status_and_not_quoted(status: int, kind: ErrorKind) -> None:
    page = f"<html>The requested URL /bot{TOKEN}/sendMessage was not found</html>"
    failure = failed(Response(status, {"content-type": "text/html"}, page.encode()))
    assert failure.kind is kind
    assert failure.text == f"HTTP {status}"
    assert failure.http_status == status


def test_a_token_in_a_description_is_redacted() -> None:
    failure = failed(refusal(400, f"Bad Request: no route for /bot{TOKEN}/sendMessage"))
    assert TOKEN not in failure.text
    assert "secret" not in failure.text
    assert "no route for" in failure.text


def test_a_text_is_one_line_of_at_most_500_characters() -> None:
    failure = failed(refusal(400, "Bad Request: " + "word\n" * 500))
    assert len(failure.text) == 500
    assert "\n" not in failure.text


def test_a_refusal_without_its_fields_is_still_an_outcome() -> None:
    assert failed(Response(400, {}, b'{"ok":false}')).kind is ErrorKind.UNKNOWN_ERROR
    odd = b'{"ok":false,"error_code":"x","description":5,"parameters":[]}'
    assert failed(Response(400, {}, odd)).kind is ErrorKind.UNKNOWN_ERROR
