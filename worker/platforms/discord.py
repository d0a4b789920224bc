"""Discord's REST API v10, messages of a bot.

Facts: https://github.com/discord/discord-api-docs. A thread is a channel of its own; a
person is written to through a direct channel that is opened first (`opening`).
"""

import re
from hashlib import blake2b
from importlib.metadata import version

import orjson

from worker.platforms.answers import by_status, failure, json_object, message_id, succeeded
from worker.platforms.base import (
    Bot,
    Capability,
    Counts,
    Dedup,
    Message,
    Pace,
    Request,
    Response,
    Told,
    Variable,
    Window,
)
from worker.platforms.retry_after import seconds
from worker.taxonomy import ErrorKind, Failure, Outcome, Receipt, Scope

_SNOWFLAKE = re.compile(r"[0-9]{1,20}", re.ASCII)
#: Cloudflare in front of Discord refuses clients that do not call themselves so.
_USER_AGENT = f"DiscordBot (mirrorpost, {version('mirrorpost')})"
#: Message flag SUPPRESS_NOTIFICATIONS.
_SILENT = 4096
_RATE_LIMITED = 429
_INVALID_FORM = 50035
_UNKNOWN_MESSAGE = 10008

K = ErrorKind
#: Discord's JSON error codes.
ERRORS: dict[int, ErrorKind] = {
    **dict.fromkeys((10003, 10004, 10013, 10015, 50007, 50027), K.TARGET_GONE),
    **dict.fromkeys(
        (40007, 40058, 50001, 50008, 50009, 50013, 50024, 50083, 50095, 50278, 160005),
        K.FORBIDDEN,
    ),
    **dict.fromkeys((40001, 40002, 40012, 50014, 50025), K.AUTH),
    **dict.fromkeys((_INVALID_FORM, _UNKNOWN_MESSAGE, 20009, 50006, 50109, 160002), K.INVALID),
    **dict.fromkeys((50005, 50021, 50045, 50046, 50110, 50123, 50146), K.INVALID),
    **dict.fromkeys((200000, 220001, 220002, 220003, 240000), K.INVALID),
    40005: K.TOO_LONG,
    **dict.fromkeys((20016, 20028, 20029, 40003, 40062), K.RATE_LIMITED),
    # 30046: a message that is older than an hour was edited too often; later it may be again.
    **dict.fromkeys((30046, 40004, 40006, 130000), K.TRANSIENT),
}
#: Counted over all persons, unlike the limits of a channel.
_OPENING_TOO_FAST = 40003


class Discord:
    """Discord, one bot token an account."""

    name = "discord"
    #: Discord counts code points, as Python does (discord-api-docs#1315).
    capability = Capability(
        max_length=2000,
        threads=True,
        threads_are_chats=True,
        dedup=Dedup.KEY,
        # "In the past few minutes", says resources/message.mdx of its documentation.
        dedup_window_s=120.0,
        dm_by_user_id=True,
        # topics/rate-limits.mdx: 50 requests a second of a bot, counted in windows that open
        # with the first, so two that bunch up on their way must not be too many. A channel's is
        # observed and goes by the headers.
        limits=(Pace(Counts.BOT, 49.6), Window(Counts.CHAT, 5, 5.0)),
        tells_limits=True,
        silent=True,
    )
    variables: tuple[Variable, ...] = (
        Variable("DISCORD_BOT_TOKEN"),
        Variable("DISCORD_API_BASE", secret=False, default="https://discord.com/api/v10"),
    )

    def check_chat(self, chat_id: str) -> str | None:
        """Demand a channel's or a person's id."""
        if _SNOWFLAKE.fullmatch(chat_id):
            return None
        return "a Discord channel or user is the number that Copy ID gives, not its name"

    def check_thread(self, thread_id: str) -> str | None:
        """Demand a thread's id, which is a channel's."""
        return self.check_chat(thread_id)

    def request(self, message: Message, bot: Bot) -> Request:
        """Give the message with a nonce made of the delivery's id, which Discord enforces."""
        body: dict[str, object] = {
            "content": message.text,
            # The default pings everybody whose mention stands in the text.
            "allowed_mentions": {"parse": []},
            "nonce": nonce(message.key),
            "enforce_nonce": True,
        }
        if message.silent:
            body["flags"] = _SILENT
        if message.reply_to is not None:
            body["message_reference"] = {
                "message_id": message.reply_to,
                "fail_if_not_exists": False,
            }
        return _request(bot, "POST", _messages(message), body)

    def outcome(self, response: Response) -> Outcome:
        """Read the answer; a 2xx without an id is no receipt."""
        answer = json_object(response.content)
        if succeeded(response):
            sent = message_id(answer.get("id"))
            return Receipt((sent,)) if sent is not None else failure(response, by_status(response))
        return _refusal(response, answer)

    def told(self, response: Response) -> Told | None:
        """Read the `X-RateLimit-*` headers of the channel's bucket."""
        headers = response.headers
        limit, left = headers.get("x-ratelimit-limit", ""), headers.get("x-ratelimit-remaining", "")
        reset_after_s = seconds(headers.get("x-ratelimit-reset-after"))
        if not (limit.isdecimal() and left.isdecimal()) or reset_after_s is None or limit == "0":
            return None
        return Told(int(limit), int(left), reset_after_s)

    def editing(self, message: Message, message_id: str, bot: Bot) -> Request:
        """Give the new content of a message."""
        body: dict[str, object] = {"content": message.text, "allowed_mentions": {"parse": []}}
        return _request(bot, "PATCH", f"{_messages(message)}/{message_id}", body)

    def edited(self, response: Response, message_id: str) -> Outcome:
        """Read the answer."""
        if succeeded(response):
            return Receipt((message_id,))
        return _refusal(response, json_object(response.content))

    def retracting(self, message: Message, message_id: str, bot: Bot) -> Request:
        """Give the deletion of a message."""
        return _request(bot, "DELETE", f"{_messages(message)}/{message_id}", None)

    def retracted(self, response: Response, message_id: str) -> Outcome:
        """Read the answer, which is empty, or says that there is no such message."""
        answer = json_object(response.content)
        if succeeded(response) or answer.get("code") == _UNKNOWN_MESSAGE:
            return Receipt((message_id,))
        return _refusal(response, answer)

    def opening(self, user_id: str, bot: Bot) -> Request:
        """Ask for the direct channel with a person; asking again gives the same channel."""
        return _request(bot, "POST", "/users/@me/channels", {"recipient_id": user_id})

    def opened(self, response: Response) -> str | Failure:
        """Read the direct channel's id.

        Nothing is sent by opening, so what would be ambiguous for a message is transient.
        """
        answer = json_object(response.content)
        channel = message_id(answer.get("id")) if succeeded(response) else None
        if channel is not None:
            return channel
        refusal = _refusal(response, answer)
        if refusal.kind is not K.AMBIGUOUS:
            return refusal
        return failure(response, K.TRANSIENT, f"HTTP {response.status} instead of a channel")


def nonce(delivery_id: str) -> str:
    """Give the 25 characters, Discord's most, that stand for a delivery."""
    return "m" + blake2b(delivery_id.encode(), digest_size=12).hexdigest()


def _messages(message: Message) -> str:
    return f"/channels/{message.thread_id or message.chat_id}/messages"


def _request(bot: Bot, method: str, path: str, body: dict[str, object] | None) -> Request:
    headers = {
        "authorization": f"Bot {bot.values['DISCORD_BOT_TOKEN']}",
        "content-type": "application/json",
        "user-agent": _USER_AGENT,
    }
    base = bot.values["DISCORD_API_BASE"].rstrip("/")
    return Request(method, base + path, headers, b"" if body is None else orjson.dumps(body))


def _refusal(response: Response, answer: dict[str, object]) -> Failure:
    code = answer.get("code")
    complaints = list(_complaints(answer.get("errors")))
    return failure(
        response,
        _kind(response, code, complaints),
        "; ".join(filter(None, [str(answer.get("message", "")), *(w for _, w in complaints)])),
        code=code,
        retry_after_s=_retry_after_s(response, answer),
        scope=_scope(response, answer),
    )


def _kind(response: Response, code: object, complaints: list[tuple[str, str]]) -> ErrorKind:
    if response.status == _RATE_LIMITED:
        return K.RATE_LIMITED
    if code == _INVALID_FORM and any(which == "BASE_TYPE_MAX_LENGTH" for which, _ in complaints):
        return K.TOO_LONG
    known = ERRORS.get(code) if isinstance(code, int) else None
    return by_status(response) if known is None else known


def _complaints(errors: object) -> list[tuple[str, str]]:
    """Collect the (code, message) pairs that stand at any depth of `errors`."""
    if isinstance(errors, dict):
        code, words = errors.get("code"), errors.get("message")
        if isinstance(code, str) and isinstance(words, str):
            return [(code, words)]
        return [found for value in errors.values() for found in _complaints(value)]
    if isinstance(errors, list):
        return [found for value in errors for found in _complaints(value)]
    return []


def _retry_after_s(response: Response, answer: dict[str, object]) -> float | None:
    """Prefer the body, which has the fraction, to the headers; the table is in seconds."""
    exact = seconds(answer.get("retry_after"))
    if exact is None and "retry-after" not in response.headers:
        return seconds(response.headers.get("x-ratelimit-reset-after"))
    return exact


def _scope(response: Response, answer: dict[str, object]) -> Scope:
    """Say what a limit stops: Discord tells, and Cloudflare in front stops the machine."""
    named = response.headers.get("x-ratelimit-scope")
    told = answer.get("global") is True or named == "global"
    from_cloudflare = response.status == _RATE_LIMITED and not answer
    bot_wide = told or from_cloudflare or answer.get("code") == _OPENING_TOO_FAST
    return Scope.BOT if bot_wide else Scope.CHAT
