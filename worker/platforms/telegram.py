"""Telegram's Bot API: plain text is sent, edited and deleted.

Facts: https://core.telegram.org/bots/api and telegram-bot-api's `Client.cpp`. The token is
in the address, so nothing here may ever quote one.
"""

import re
from dataclasses import replace
from types import MappingProxyType

import orjson

from worker.platforms.answers import by_status, child, failure, json_object, message_id
from worker.platforms.base import (
    Bot,
    Capability,
    Counts,
    Message,
    Pace,
    Request,
    Response,
    Variable,
    Window,
    utf16_units,
)
from worker.platforms.retry_after import seconds
from worker.taxonomy import ErrorKind, Failure, Outcome, Receipt, Scope

_HEADERS = MappingProxyType({"content-type": "application/json"})
#: Group ids are negative, ids fit 52 bits; `@name` is a public channel or group.
_CHAT = re.compile(r"-?[1-9][0-9]{0,15}|@[A-Za-z][A-Za-z0-9_]{3,31}", re.ASCII)
_NUMBER = re.compile(r"-?[0-9]{1,18}", re.ASCII)

#: Seconds. The limits of one chat (1/s, 20/min in a group) never ask for more than a
#: minute; a longer wait is a flood ban of the whole bot.
LONGEST_CHAT_WAIT_S = 60.0

K = ErrorKind
#: (error_code, start of the description without its prefix, kind); the first match counts.
#: An empty start is what that code means with any other words.
ERRORS: tuple[tuple[int, str, ErrorKind], ...] = (
    (400, "group chat was upgraded to a supergroup chat", K.TARGET_GONE),
    (400, "chat not found", K.TARGET_GONE),
    (400, "private chat not found", K.TARGET_GONE),
    (400, "chat_id is empty", K.TARGET_GONE),
    (400, "message thread not found", K.TARGET_GONE),
    (400, "topic not found", K.TARGET_GONE),
    (400, "have no write access to the chat", K.FORBIDDEN),
    (400, "need administrator rights in the channel chat", K.FORBIDDEN),
    (400, "not enough rights to send", K.FORBIDDEN),
    (400, "TOPIC_CLOSED", K.FORBIDDEN),
    (400, "CHAT_WRITE_FORBIDDEN", K.FORBIDDEN),
    (400, "message is too long", K.TOO_LONG),
    (400, "text is too long", K.TOO_LONG),
    (400, "message caption is too long", K.TOO_LONG),
    (400, "can't parse entities", K.INVALID),
    (400, "message text is empty", K.INVALID),
    (400, "entity URL", K.INVALID),
    (400, "message to be replied not found", K.INVALID),
    (400, "wrong file identifier/HTTP URL specified", K.INVALID),
    (400, "failed to get HTTP URL content", K.INVALID),
    (400, "message to edit not found", K.INVALID),
    (400, "message can't be edited", K.INVALID),
    # Also what is older than 48 hours.
    (400, "message can't be deleted", K.INVALID),
    (400, "MESSAGE_DELETE_FORBIDDEN", K.INVALID),
    (400, "MESSAGE_ID_INVALID", K.INVALID),
    (401, "", K.AUTH),
    (403, "bot was blocked by the user", K.TARGET_GONE),
    (403, "user is deactivated", K.TARGET_GONE),
    (403, "bot was kicked from the ", K.TARGET_GONE),
    (403, "the group chat was deleted", K.TARGET_GONE),
    (403, "bot is not a member of the ", K.FORBIDDEN),
    (403, "bot can't initiate conversation with a user", K.FORBIDDEN),
    (403, "the bot can't send messages to the bot", K.FORBIDDEN),
    (403, "bot can't send messages to ", K.FORBIDDEN),
    # A method that exists answers 404 only when the path, that is the token, is wrong.
    (404, "", K.AUTH),
    (421, "", K.AUTH),
    (429, "", K.RATE_LIMITED),
    # Both are said before the request is worked on.
    (500, "restart", K.TRANSIENT),
    (500, "Request aborted", K.TRANSIENT),
)
#: Starts of descriptions that are about the topic; its group lives on.
ABOUT_TOPIC = ("message thread not found", "topic not found", "TOPIC_CLOSED")
#: Starts of descriptions that say that an edit or a deletion was made before.
_EDITED = "message is not modified"
_DELETED = "message to delete not found"
_PREFIX = re.compile(r"(Bad Request|Forbidden|Internal Server Error|Unauthorized): ")


class Telegram:
    """Telegram, one bot token an account."""

    name = "telegram"
    #: Without entities the server counts code points; UTF-16 units are never fewer and are
    #: what its entities and clients count.
    capability = Capability(
        max_length=4096,
        measure=utf16_units,
        threads=True,
        dm_by_user_id=True,
        # core.telegram.org/bots/faq: "about 30 messages per second", one a second in a chat
        # with short bursts, 20 a minute in a group.
        limits=(
            Pace(Counts.BOT, 30.0, burst=10),
            Pace(Counts.CHAT, 1.0, burst=2),
            Window(Counts.GROUP, 20, 60.0),
        ),
        is_group=lambda chat_id: chat_id.startswith("-"),
        silent=True,
    )
    variables: tuple[Variable, ...] = (
        Variable("TELEGRAM_BOT_TOKEN"),
        Variable("TELEGRAM_API_BASE", secret=False, default="https://api.telegram.org"),
    )

    def check_chat(self, chat_id: str) -> str | None:
        """Demand a number or `@name`."""
        if _CHAT.fullmatch(chat_id):
            return None
        return "a Telegram chat is a whole number (groups are negative) or a public @name"

    def check_thread(self, thread_id: str) -> str | None:
        """Demand a topic's number; the server reads other text as no topic at all."""
        if thread_id.isascii() and thread_id.isdecimal() and int(thread_id) > 0:
            return None
        return "a Telegram topic is a positive whole number"

    def request(self, message: Message, bot: Bot) -> Request:
        """Give `sendMessage` without a parse mode: the text appears as it was written."""
        body: dict[str, object] = {"chat_id": _id(message.chat_id), "text": message.text}
        if message.thread_id is not None:
            body["message_thread_id"] = _id(message.thread_id)
        if message.silent:
            body["disable_notification"] = True
        if message.reply_to is not None:
            # A reply to something deleted meanwhile still has to arrive.
            body["reply_parameters"] = {
                "message_id": _id(message.reply_to),
                "allow_sending_without_reply": True,
            }
        return _post(bot, "sendMessage", body)

    def outcome(self, response: Response) -> Outcome:
        """Read the answer; only `ok` with a `message_id` is a receipt."""
        answer = json_object(response.content)
        if answer.get("ok") is True:
            sent = message_id(child(answer, "result").get("message_id"))
            if sent is not None:
                return Receipt((sent,))
        elif answer.get("ok") is False:
            return _refusal(response, answer)
        return failure(response, by_status(response))

    def editing(self, message: Message, message_id: str, bot: Bot) -> Request:
        """Give `editMessageText`; it notifies nobody."""
        body = {**_named(message, message_id), "text": message.text}
        return _post(bot, "editMessageText", body)

    def edited(self, response: Response, message_id: str) -> Outcome:
        """Read the answer: the message, or `true`."""
        return _amended(response, message_id, _EDITED)

    def retracting(self, message: Message, message_id: str, bot: Bot) -> Request:
        """Give `deleteMessage`, which Telegram allows for 48 hours."""
        return _post(bot, "deleteMessage", _named(message, message_id))

    def retracted(self, response: Response, message_id: str) -> Outcome:
        """Read the answer: `true`, or that there is no such message."""
        return _amended(response, message_id, _DELETED)


def _named(message: Message, message_id: str) -> dict[str, object]:
    return {"chat_id": _id(message.chat_id), "message_id": _id(message_id)}


def _post(bot: Bot, method: str, body: dict[str, object]) -> Request:
    base, token = bot.values["TELEGRAM_API_BASE"], bot.values["TELEGRAM_BOT_TOKEN"]
    return Request("POST", f"{base.rstrip('/')}/bot{token}/{method}", _HEADERS, orjson.dumps(body))


def _amended(response: Response, message_id: str, before: str) -> Outcome:
    answer = json_object(response.content)
    if answer.get("ok") is True or _begins(str(answer.get("description", "")), before):
        return Receipt((message_id,))
    if answer.get("ok") is False:
        return _refusal(response, answer)
    return failure(response, by_status(response))


def _refusal(response: Response, answer: dict[str, object]) -> Failure:
    given = answer.get("error_code")
    code = given if isinstance(given, int) else response.status
    description = str(answer.get("description", ""))
    parameters = child(answer, "parameters")
    # Nothing was sent: the group lives on under the new id and is sent to at once.
    moved_to = message_id(parameters.get("migrate_to_chat_id"))
    kind = K.TARGET_MOVED if moved_to is not None else _kind(code, description, response)
    retry_after_s = seconds(parameters.get("retry_after"))
    # A 429 does not say whose limit it was. Holding only the chat is the safe guess: if it
    # was the bot's, the next chat learns it at the price of one request; the other guess
    # would let one busy group silence everybody.
    long = retry_after_s is not None and retry_after_s > LONGEST_CHAT_WAIT_S
    refusal = failure(
        response,
        kind,
        description,
        code=code,
        retry_after_s=retry_after_s,
        scope=Scope.BOT if long else Scope.CHAT,
        moved_to=moved_to,
    )
    return replace(refusal, thread_only=_begins(description, *ABOUT_TOPIC))


def _begins(description: str, *starts: str) -> bool:
    """Tell whether it begins so; the server writes most first letters small, and not all."""
    words = _PREFIX.sub("", description, count=1).casefold()
    return words.startswith(tuple(start.casefold() for start in starts))


def _kind(code: int, description: str, response: Response) -> ErrorKind:
    for known_code, start, kind in ERRORS:
        if code == known_code and _begins(description, start):
            return kind
    return by_status(response)


def _id(text: str) -> int | str:
    """Give a number as JSON's own number, `@name` as it is."""
    return int(text) if _NUMBER.fullmatch(text) else text
