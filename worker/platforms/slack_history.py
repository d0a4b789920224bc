"""Ask Slack whether a message arrived: its history is read back by the message's metadata.

The other half of `worker.platforms.slack`. Needs the scopes to read histories
(`channels:history` and its like, `im:write` for persons), which a bot that only writes may not
have; then Slack refuses, and the delivery's policy decides.
Facts: https://docs.slack.dev/reference/methods/conversations.history.
"""

from collections.abc import Mapping
from dataclasses import replace
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from worker.platforms.answers import by_status, child, failure, json_object, message_id
from worker.platforms.base import Bot, Message, Request, Response
from worker.taxonomy import ErrorKind, Failure, Receipt

#: The type of the metadata by which a sent message is found again.
METADATA_EVENT = "mirrorpost_delivery"
#: Seconds before it can have been sent from which on it is looked for: clocks differ.
_MARGIN_S = 300
#: Messages of a page; Slack recommends no more.
_PAGE = 200
#: Seconds to the next page that are worth waiting for. An app that Slack lets read one page a
#: minute would begin at the first one every time and never come to the end.
_LONGEST_WAIT_S = 30.0
#: What keeps this bot from reading, and says nothing of whether it may write.
_UNREADABLE = frozenset(
    {
        "missing_scope",
        "no_permission",
        "not_allowed_token_type",
        "access_denied",
        "channel_is_limited_access",
        "thread_not_found",
        "user_not_visible",
        "invalid_user_combination",
        "app_cannot_join_channel",
        "method_not_supported_for_channel_type",
        "unknown_method",
    }
)


def metadata(message: Message) -> dict[str, object]:
    """Give the metadata under which a message is sent and found again."""
    return {"event_type": METADATA_EVENT, "event_payload": {"delivery_id": message.key}}


def thread_of(message: Message) -> str | None:
    """Give the thread into which a message goes: Slack answers a message by opening one."""
    return message.thread_id or message.reply_to


def ask(message: Message, bot: Bot) -> Request:
    """Ask for the messages since it can have been sent; of a person for the channel first."""
    if message.chat_id.startswith(("U", "W")):
        return _open(message.chat_id, bot)
    return _history(message.chat_id, message, bot)


def read(
    request: Request, response: Response, message: Message, bot: Bot, kind: ErrorKind | None
) -> Receipt | Failure | Request | None:
    """Read an answer, as `worker.platforms.base.Asks` says.

    Args:
        kind: What the answer's error means; `None` when it is none.
    """
    answer = json_object(response.content)
    if kind is not None or answer.get("ok") is not True:
        return _unread(request, response, str(answer.get("error", "")), kind)
    if urlsplit(request.url).path.endswith("/conversations.open"):
        channel = message_id(child(answer, "channel").get("id"))
        return _history(channel, message, bot) if channel else _proves_nothing(response)
    return _look_through(request, response, answer, message)


def _look_through(
    request: Request, response: Response, answer: dict[str, object], message: Message
) -> Receipt | Failure | Request | None:
    """Look for the message in one page; only a last page proves that it is not there."""
    messages = answer.get("messages")
    if not isinstance(messages, list):
        return _proves_nothing(response)
    for found in messages:
        if isinstance(found, dict) and _is(found, message):
            sent = message_id(found.get("ts"))
            return Receipt((sent,)) if sent else _proves_nothing(response)
    cursor = child(answer, "response_metadata").get("next_cursor")
    if isinstance(cursor, str) and cursor:
        return _next_page(request, cursor)
    return _proves_nothing(response) if answer.get("has_more") is True else None


def _proves_nothing(response: Response) -> Failure:
    return failure(response, ErrorKind.TRANSIENT, "Slack's answer does not tell what was asked")


def _is(found: dict[str, object], message: Message) -> bool:
    """Tell whether this is the message; Slack may add fields to what it was given."""
    given = child(found, "metadata")
    payload = child(given, "event_payload")
    return given.get("event_type") == METADATA_EVENT and payload.get("delivery_id") == message.key


def _unread(request: Request, response: Response, error: str, kind: ErrorKind | None) -> Failure:
    refusal = failure(
        response,
        ErrorKind.FORBIDDEN if error in _UNREADABLE else kind or by_status(response),
        error,
        code=error,
    )
    paging = "cursor" in dict(parse_qsl(urlsplit(request.url).query))
    wait_s = refusal.retry_after_s or 0.0
    if paging and refusal.kind is ErrorKind.RATE_LIMITED and wait_s > _LONGEST_WAIT_S:
        return replace(refusal, kind=ErrorKind.FORBIDDEN, retry_after_s=None)
    return refusal


def _open(user_id: str, bot: Bot) -> Request:
    """Ask for the direct channel with a person; asking again gives the same channel."""
    request = _get(bot, "conversations.open", {})
    headers = {**request.headers, "content-type": "application/x-www-form-urlencoded"}
    content = urlencode({"users": user_id}).encode()
    return replace(request, method="POST", headers=headers, content=content)


def _history(channel: str, message: Message, bot: Bot) -> Request:
    # Not since it was made where that can be helped: a reminder may be months old.
    since_s = message.created_s if message.begun_s is None else message.begun_s
    fields = {
        "channel": channel,
        "oldest": str(since_s - _MARGIN_S),
        "include_all_metadata": "true",
        "limit": str(_PAGE),
    }
    thread = thread_of(message)
    if thread is None:
        return _get(bot, "conversations.history", fields)
    return _get(bot, "conversations.replies", {**fields, "ts": thread})


def _get(bot: Bot, method: str, fields: Mapping[str, str]) -> Request:
    base = bot.values["SLACK_API_BASE"].rstrip("/")
    headers = {"authorization": f"Bearer {bot.values['SLACK_BOT_TOKEN']}"}
    query = f"?{urlencode(fields)}" if fields else ""
    return Request("GET", f"{base}/{method}{query}", headers, b"")


def _next_page(request: Request, cursor: str) -> Request:
    parts = urlsplit(request.url)
    query = urlencode({**dict(parse_qsl(parts.query)), "cursor": cursor})
    return Request("GET", urlunsplit(parts._replace(query=query)), request.headers, b"")
