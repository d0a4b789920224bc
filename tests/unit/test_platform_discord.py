import orjson
import pytest

from worker.platforms.base import Bot, Dedup, Message, OpensChats, Response
from worker.platforms.discord import Discord, nonce
from worker.taxonomy import ErrorKind, Failure, Receipt, Scope

BASE = "https://discord.com/api/v10"
BOT = Bot("discord", "", {"DISCORD_BOT_TOKEN": "t0ken", "DISCORD_API_BASE": BASE})
DISCORD = Discord()


def message(text: str = "hello", **fields: object) -> Message:
    return Message("d1", "1001", text, 1_700_000_000, **fields)  # type: ignore[arg-type]


def answer(status: int, body: object, **headers: str) -> Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Response(status, named, orjson.dumps(body))


def failed(response: Response) -> Failure:
    outcome = DISCORD.outcome(response)
    assert isinstance(outcome, Failure)
    return outcome


def test_a_message_pings_nobody_and_carries_an_enforced_nonce() -> None:
    request = DISCORD.request(message("hi @everyone <@1>"), BOT)
    assert (request.method, request.url) == ("POST", f"{BASE}/channels/1001/messages")
    assert orjson.loads(request.content) == {
        "content": "hi @everyone <@1>",
        "allowed_mentions": {"parse": []},
        "nonce": nonce("d1"),
        "enforce_nonce": True,
    }


def test_the_headers_are_those_that_discord_asks_for() -> None:
    headers = DISCORD.request(message(), BOT).headers
    assert headers["authorization"] == "Bot t0ken"
    assert headers["content-type"] == "application/json"
    assert headers["user-agent"].startswith("DiscordBot (")


def test_reply_and_silence_go_along() -> None:
    body = orjson.loads(DISCORD.request(message(reply_to="77", silent=True), BOT).content)
    assert body["message_reference"] == {"message_id": "77", "fail_if_not_exists": False}
    assert body["flags"] == 4096


def test_a_thread_is_the_channel_that_is_written_to() -> None:
    request = DISCORD.request(message(thread_id="2002"), BOT)
    assert request.url == f"{BASE}/channels/2002/messages"


def test_a_nonce_is_25_characters_stable_and_different_for_each_delivery() -> None:
    assert nonce("d1") == nonce("d1")
    made = {nonce(f"delivery-{n}") for n in range(10_000)}
    assert len(made) == 10_000
    assert {len(one) for one in made} == {25}


def test_what_discord_can_do() -> None:
    capability = DISCORD.capability
    assert (capability.max_length, capability.measure("\U0001f600")) == (2000, 1)
    assert capability.threads
    assert capability.dm_by_user_id
    assert not capability.colon_in_ids
    assert (capability.dedup, capability.dedup_window_s) == (Dedup.KEY, 120.0)


@pytest.mark.parametrize("chat", ["1", "1001", "175928847299117063"])
def test_ids_are_chats(chat: str) -> None:
    assert DISCORD.check_chat(chat) is None
    assert DISCORD.check_thread(chat) is None


@pytest.mark.parametrize("chat", ["", "general", "#general", "-1", "1/2", "1?x", "1" * 21, "٣"])
def test_other_text_is_no_chat(chat: str) -> None:
    assert DISCORD.check_chat(chat) is not None
    assert DISCORD.check_thread(chat) is not None


def test_the_messages_id_is_the_receipt() -> None:
    assert DISCORD.outcome(answer(200, {"id": "9001", "content": "x"})) == Receipt(("9001",))


@pytest.mark.parametrize(("status", "body"), [(200, {}), (204, None), (200, {"id": None})])
def test_a_success_without_an_id_is_ambiguous(status: int, body: object) -> None:
    assert failed(answer(status, body)).kind is ErrorKind.AMBIGUOUS


GONE, FORBIDDEN, AUTH, INVALID, LIMITED = (
    ErrorKind.TARGET_GONE,
    ErrorKind.FORBIDDEN,
    ErrorKind.AUTH,
    ErrorKind.INVALID,
    ErrorKind.RATE_LIMITED,
)
CODES = {
    GONE: ((404, 10003), (404, 10004), (404, 10013), (404, 10015), (401, 50027), (403, 50007)),
    FORBIDDEN: tuple(
        (403, code)
        for code in (
            *(50001, 50278, 50013, 50008, 50009, 50024, 40007, 40058, 50083, 160005, 50095),
        )
    ),
    AUTH: ((401, 0), (401, 40001), (403, 50014), (400, 50025), (403, 40002), (403, 40012)),
    INVALID: tuple(
        (400, code)
        for code in (
            *(50035, 50006, 50109, 50045, 50046, 50110, 50123, 50146, 200000, 240000, 20009),
            *(220001, 220002, 220003, 10008, 160002, 50005, 50021),
        )
    ),
    LIMITED: ((429, 0), (403, 20016), (403, 20028), (403, 20029), (403, 40062), (403, 40003)),
    ErrorKind.TOO_LONG: ((413, 40005), (400, 40005)),
    ErrorKind.TRANSIENT: ((403, 40004), (403, 40006), (503, 130000), (400, 30046)),
    ErrorKind.AMBIGUOUS: ((500, 0), (502, 0), (503, 0), (504, 0)),
    ErrorKind.UNKNOWN_ERROR: ((403, 0), (400, 987654), (404, 0)),
}


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [(status, code, kind) for kind, pairs in CODES.items() for status, code in pairs],
)
def test_every_known_code_has_its_kind(status: int, code: int, kind: ErrorKind) -> None:
    failure = failed(answer(status, {"message": "words", "code": code}))
    assert (failure.kind, failure.code, failure.text) == (kind, str(code), "words")


def test_too_long_a_content_is_told_from_other_invalid_forms() -> None:
    complaint = {"code": "BASE_TYPE_MAX_LENGTH", "message": "Must be 2000 or fewer in length."}
    body = {
        "message": "Invalid Form Body",
        "code": 50035,
        "errors": {"content": {"_errors": [complaint]}},
    }
    failure = failed(answer(400, body))
    assert failure.kind is ErrorKind.TOO_LONG
    assert failure.text == "Invalid Form Body; Must be 2000 or fewer in length."


def test_a_429_gives_the_bodys_fraction_and_holds_the_channel() -> None:
    body = {"message": "You are being rate limited.", "retry_after": 0.65, "global": False}
    failure = failed(answer(429, body, retry_after="1", x_ratelimit_scope="user"))
    assert (failure.retry_after_s, failure.scope) == (0.65, Scope.CHAT)


def test_a_global_429_holds_the_bot() -> None:
    body = {"message": "You are being rate limited.", "retry_after": 2.5, "global": True}
    assert failed(answer(429, body)).scope is Scope.BOT
    by_header = answer(429, {"retry_after": 2.5}, x_ratelimit_scope="global")
    assert failed(by_header).scope is Scope.BOT


def test_cloudflares_429_holds_the_bot_for_the_headers_seconds() -> None:
    failure = failed(Response(429, {"retry-after": "3600"}, b"<html>1015</html>"))
    assert (failure.retry_after_s, failure.scope) == (3600.0, Scope.BOT)


def test_reset_after_speaks_when_nothing_else_does() -> None:
    failure = failed(answer(429, {"message": "x"}, x_ratelimit_reset_after="1.250"))
    assert failure.retry_after_s == 1.25


@pytest.mark.parametrize("body", [b"<html>", b"", b"[]", b"null", b'{"errors":[1,{"code":1}]}'])
def test_no_answer_raises(body: bytes) -> None:
    assert failed(Response(404, {}, body)).kind is ErrorKind.UNKNOWN_ERROR
    assert failed(Response(502, {}, body)).kind is ErrorKind.AMBIGUOUS


def test_a_direct_channel_is_opened_by_the_persons_id() -> None:
    assert isinstance(DISCORD, OpensChats)
    request = DISCORD.opening("42", BOT)
    assert (request.method, request.url) == ("POST", f"{BASE}/users/@me/channels")
    assert orjson.loads(request.content) == {"recipient_id": "42"}
    assert request.headers["authorization"] == "Bot t0ken"
    assert DISCORD.opened(answer(200, {"id": "7007", "type": 1})) == "7007"


def test_opening_too_fast_holds_the_bot() -> None:
    failure = DISCORD.opened(answer(403, {"message": "too fast", "code": 40003}))
    assert isinstance(failure, Failure)
    assert (failure.kind, failure.scope) == (ErrorKind.RATE_LIMITED, Scope.BOT)


@pytest.mark.parametrize(("status", "body"), [(200, {}), (500, {}), (502, None)])
def test_opening_is_never_ambiguous_because_nothing_is_sent(status: int, body: object) -> None:
    failure = DISCORD.opened(answer(status, body))
    assert isinstance(failure, Failure)
    assert failure.kind is ErrorKind.TRANSIENT
