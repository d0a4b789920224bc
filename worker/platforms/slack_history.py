"""Ask Slack whether a message arrived: its history is read back by the message's metadata.

The other half of `worker.platforms.slack`. Needs the scopes to read histories
(`channels:history` and its like, `im:write` for persons), which a bot that only writes may not
have; then Slack refuses, and the delivery's policy decides.
Facts: https://docs.slack.dev/reference/methods/conversations.history.
"""

from collections.abc import Mapping
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from worker.platforms.answers import by_status, child, failure, json_object, message_id
from worker.platforms.base import Bot, Message, Request, Response
from worker.taxonomy import ErrorKind, Failure, Receipt

#: The type of the metadata by which a sent message is found again.
METADATA_EVENT = "mirrorpost_delivery"
#: Seconds before the delivery was made from which on it is looked for: clocks differ.
_MARGIN_S = 300
#: Messages of a page; Slack recommends no more.
_PAGE = 200


def metadata(message: Message) -> dict[str, object]:
    """Give the metadata under which a message is sent and found again."""
    return {"event_type": METADATA_EVENT, "event_payload": {"delivery_id": message.key}}


def thread_of(message: Message) -> str | None:
    """Give the thread into which a message goes: Slack answers a message by opening one."""
    return message.thread_id or message.reply_to


def ask(message: Message, bot: Bot) -> Request:
    """Ask for the newest messages; of a person for the direct channel first."""
    if message.chat_id.startswith(("U", "W")):
        return _get(bot, "conversations.open", {"users": message.chat_id})
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
        error = str(answer.get("error", ""))
        return failure(response, kind or by_status(response), error, code=error)
    if urlsplit(request.url).path.endswith("/conversations.open"):
        channel = message_id(child(answer, "channel").get("id"))
        if channel is None:
            return failure(response, ErrorKind.TRANSIENT, "no channel was opened")
        return _history(channel, message, bot)
    messages = answer.get("messages")
    for found in messages if isinstance(messages, list) else []:
        if isinstance(found, dict) and found.get("metadata") == metadata(message):
            sent = message_id(found.get("ts"))
            return None if sent is None else Receipt((sent,))
    cursor = child(answer, "response_metadata").get("next_cursor")
    return _next_page(request, cursor) if isinstance(cursor, str) and cursor else None


def _history(channel: str, message: Message, bot: Bot) -> Request:
    fields = {
        "channel": channel,
        "oldest": str(message.created_s - _MARGIN_S),
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
    return Request("GET", f"{base}/{method}?{urlencode(fields)}", headers, b"")


def _next_page(request: Request, cursor: str) -> Request:
    parts = urlsplit(request.url)
    query = urlencode({**dict(parse_qsl(parts.query)), "cursor": cursor})
    return Request("GET", urlunsplit(parts._replace(query=query)), request.headers, b"")
