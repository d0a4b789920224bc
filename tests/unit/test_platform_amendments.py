"""What was sent is edited and taken back in each platform's own words, and twice does no harm."""

from collections.abc import Callable

import orjson
import pytest

from worker.platforms import platform, platforms
from worker.platforms.base import Bot, Edits, Message, Request, Response, Retracts
from worker.platforms.discord import Discord
from worker.platforms.matrix import Matrix
from worker.platforms.slack import Slack
from worker.platforms.telegram import Telegram
from worker.taxonomy import ErrorKind, Failure, Outcome, Receipt

K = ErrorKind
VALUES = {
    "TELEGRAM_BOT_TOKEN": "1:t",
    "TELEGRAM_API_BASE": "https://tg",
    "DISCORD_BOT_TOKEN": "d",
    "DISCORD_API_BASE": "https://dc",
    "SLACK_BOT_TOKEN": "xoxb",
    "SLACK_API_BASE": "https://sl",
    "MATRIX_HOMESERVER": "https://mx",
    "MATRIX_ACCESS_TOKEN": "m",
}
CHATS = {"telegram": "42", "discord": "1001", "slack": "C1", "matrix": "!r:hs"}


def message(name: str, text: str = "new", **fields: object) -> Message:
    return Message("e1", CHATS[name], text, 0, **fields)  # type: ignore[arg-type]


def editing(name: str, **fields: object) -> Request:
    adapter = platform(name)
    assert isinstance(adapter, Edits)
    return adapter.editing(message(name, **fields), "7", Bot(name, "", VALUES))  # type: ignore[arg-type]


def retracting(name: str, **fields: object) -> Request:
    adapter = platform(name)
    assert isinstance(adapter, Retracts)
    return adapter.retracting(message(name, **fields), "7", Bot(name, "", VALUES))  # type: ignore[arg-type]


def answer(body: object, status: int = 200) -> Response:
    return Response(status, {}, b"" if body is None else orjson.dumps(body))


def kind(outcome: Outcome) -> ErrorKind:
    assert isinstance(outcome, Failure), outcome
    return outcome.kind


def test_four_platforms_can_and_the_others_say_nothing_of_it() -> None:
    able = {n for n, p in platforms().items() if isinstance(p, Edits) and isinstance(p, Retracts)}
    assert able == {"telegram", "discord", "slack", "matrix"}
    assert not isinstance(platform("webhook"), Edits | Retracts)


def test_telegram_names_chat_and_message_by_number() -> None:
    edit, retract = editing("telegram"), retracting("telegram")
    assert edit.url == "https://tg/bot1:t/editMessageText"
    assert orjson.loads(edit.content) == {"chat_id": 42, "message_id": 7, "text": "new"}
    assert retract.url == "https://tg/bot1:t/deleteMessage"
    assert orjson.loads(retract.content) == {"chat_id": 42, "message_id": 7}


def test_discord_edits_without_pinging_anybody_and_deletes_in_the_thread() -> None:
    edit, retract = editing("discord"), retracting("discord", thread_id="55")
    assert (edit.method, edit.url) == ("PATCH", "https://dc/channels/1001/messages/7")
    assert orjson.loads(edit.content) == {"content": "new", "allowed_mentions": {"parse": []}}
    assert (retract.method, retract.url) == ("DELETE", "https://dc/channels/55/messages/7")
    assert retract.content == b""


def test_slack_escapes_an_edit_like_a_message() -> None:
    edit = editing("slack", text="<!channel>")
    assert edit.url == "https://sl/chat.update"
    body = {"channel": "C1", "ts": "7", "text": "&lt;!channel&gt;"}
    assert orjson.loads(edit.content) == body
    assert retracting("slack").url == "https://sl/chat.delete"


def test_a_matrix_edit_is_an_event_that_replaces_under_its_own_transaction() -> None:
    edit = editing("matrix", silent=True, part=1)
    assert edit.url.endswith("/rooms/%21r%3Ahs/send/m.room.message/mirrorpost-e1-1")
    assert orjson.loads(edit.content) == {
        "msgtype": "m.notice",
        "body": "* new",
        "m.mentions": {},
        "m.new_content": {"msgtype": "m.notice", "body": "new", "m.mentions": {}},
        "m.relates_to": {"rel_type": "m.replace", "event_id": "7"},
    }
    assert retracting("matrix").url == (
        "https://mx/_matrix/client/v3/rooms/%21r%3Ahs/redact/7/mirrorpost-e1"
    )


def test_the_longest_matrix_text_fits_into_an_edit_that_has_it_twice() -> None:
    edit = editing("matrix", text="é" * 30_000)
    assert len(edit.content) < 64_000
    assert orjson.loads(edit.content)["m.new_content"]["body"] == "é" * 30_000


@pytest.mark.parametrize(
    ("read", "response"),
    [
        (Telegram().edited, answer({"ok": True, "result": {"message_id": 7}})),
        (
            Telegram().edited,
            answer(
                {
                    "ok": False,
                    "error_code": 400,
                    "description": "Bad Request: message is not modified: specified new message "
                    "content and reply markup are exactly the same",
                },
                400,
            ),
        ),
        (Telegram().retracted, answer({"ok": True, "result": True})),
        (
            Telegram().retracted,
            answer(
                {
                    "ok": False,
                    "error_code": 400,
                    "description": "Bad Request: message to delete not found",
                },
                400,
            ),
        ),
        (Discord().edited, answer({"id": "7"})),
        (Discord().retracted, answer(None, 204)),
        (Discord().retracted, answer({"code": 10008, "message": "Unknown Message"}, 404)),
        (Slack().edited, answer({"ok": True, "ts": "7"})),
        (Slack().retracted, answer({"ok": True, "ts": "7"})),
        (Slack().retracted, answer({"ok": False, "error": "message_not_found"})),
        (Matrix().edited, answer({"event_id": "7"})),
        (Matrix().retracted, answer({"event_id": "7"})),
        (Matrix().retracted, answer({"errcode": "M_NOT_FOUND"}, 404)),
    ],
)
def test_done_now_or_done_before_is_a_receipt(
    read: Callable[[Response, str], Outcome], response: Response
) -> None:
    assert read(response, "7") == Receipt(("7",))


@pytest.mark.parametrize(
    ("read", "response", "means"),
    [
        (
            Telegram().retracted,
            answer(
                {
                    "ok": False,
                    "error_code": 400,
                    "description": "Bad Request: message can't be deleted for everyone",
                },
                400,
            ),
            K.INVALID,
        ),
        (
            Telegram().edited,
            answer(
                {
                    "ok": False,
                    "error_code": 400,
                    "description": "Bad Request: message to edit not found",
                },
                400,
            ),
            K.INVALID,
        ),
        (Telegram().edited, answer("a proxy's page", 502), K.AMBIGUOUS),
        (Discord().edited, answer({"code": 10008, "message": "Unknown Message"}, 404), K.INVALID),
        (Discord().retracted, answer({"code": 50013, "message": "No"}, 403), K.FORBIDDEN),
        (Slack().edited, answer({"ok": False, "error": "message_not_found"}), K.INVALID),
        (Slack().edited, answer({"ok": False, "error": "msg_too_long"}), K.TOO_LONG),
        (Slack().retracted, answer({"ok": False, "error": "cant_delete_message"}), K.INVALID),
        (Matrix().edited, answer({"errcode": "M_NOT_FOUND", "error": "no event"}, 404), K.INVALID),
    ],
)
def test_what_cannot_be_changed_has_its_kind(
    read: Callable[[Response, str], Outcome], response: Response, means: ErrorKind
) -> None:
    assert kind(read(response, "7")) is means


def test_a_person_whom_slack_was_named_is_known_by_the_direct_channel_afterwards() -> None:
    into = Slack().outcome(answer({"ok": True, "ts": "1.2", "channel": "D9"}))
    assert into == Receipt(("1.2",), chat_id="D9")
    assert Slack().outcome(answer({"ok": True, "ts": "1.2", "channel": "C1"})) == Receipt(("1.2",))
