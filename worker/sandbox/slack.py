"""Slack's side: messages posted, updated, deleted and read, opening, `auth.test`.

Errors are HTTP 200.
"""

import math
from collections.abc import Callable

from aiohttp import web

from worker.sandbox.faults import Answers, Kind, answer_fault, edge_answer
from worker.sandbox.state import SANDBOX, Sandbox, answer_json, as_object, read_fields
from worker.sandbox.store import Accepted

_LONGEST = 40_000
#: Bytes of an updated text, escapes included; observed, while posting takes far more.
_LONGEST_UPDATE = 4_000
_MOST_READ = 999


def routes() -> list[web.RouteDef]:
    """Give the paths below `/slack/api`."""
    return [web.route("*", "/slack/api/{method}", _call)]


async def _call(request: web.Request) -> web.Response:
    sandbox = request.app[SANDBOX]
    fields = await read_fields(request)
    if fields is None:
        return _error("invalid_json")
    fields = {**request.query, **fields}
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    token = token if scheme == "Bearer" else str(fields.get("token", ""))
    if not token.startswith("xox"):
        return _error("invalid_auth" if token else "not_authed")
    method = request.match_info["method"]
    write = _WRITING.get(method)
    if write is not None:
        return await write(request, sandbox, token, fields)
    if sandbox.faults.take("slack", (), {Kind.REVOKED}):
        return _error("token_revoked")
    answer = _METHODS.get(method)
    if answer is None:
        return _error("unknown_method")
    return _refuse_reading(sandbox, token, method, fields) or answer(sandbox, fields)


def _refuse_reading(
    sandbox: Sandbox, token: str, method: str, fields: dict[str, object]
) -> web.Response | None:
    """Give the refusal of a bot that only writes, or reads too often."""
    needed = _SCOPES.get(method)
    if needed is None:
        return None
    chat = str(fields.get("channel") or fields.get("users") or "")
    if sandbox.faults.take("slack", (chat,), {Kind.MISSING_SCOPE}):
        body = {"ok": False, "error": "missing_scope", "needed": needed, "provided": "chat:write"}
        return answer_json(body)
    limits = sandbox.limits
    wait_s = limits.admit([(limits.slack_reading, f"{token} {method}")])
    return _too_many(wait_s) if wait_s > 0 else None


async def _post_message(
    request: web.Request, sandbox: Sandbox, token: str, fields: dict[str, object]
) -> web.Response:
    channel, text = str(fields.get("channel", "")), str(fields.get("text", ""))
    metadata = as_object(fields.get("metadata"))
    fault = await sandbox.begin(request, "slack", (channel,))
    wrong = answer_fault(_FAULTS, fault) or _check(channel, text, fields, metadata)
    if wrong is not None:
        return wrong
    limits = sandbox.limits
    wait_s = limits.admit([(limits.slack_channel, f"{token} {channel}")])
    if wait_s > 0:
        return _too_many(wait_s)
    thread = fields.get("thread_ts")
    accepted = sandbox.store.add(
        Accepted(
            platform="slack",
            chat=channel,
            id=sandbox.ids.slack_ts(),
            # Slack cuts, and says so in a warning only.
            text=text[:_LONGEST],
            thread=None if thread is None else str(thread),
            extra={"metadata": metadata} if metadata else {},
        )
    )
    answer: dict[str, object] = {
        "ok": True,
        "channel": _direct(channel),
        "ts": accepted.id,
        "message": _shown(accepted, with_metadata=False),
    }
    if len(text) > _LONGEST:
        answer["response_metadata"] = {"warnings": ["message_truncated"]}
    return await sandbox.finish(request, fault, answer_json(answer))


async def _change_message(
    request: web.Request, sandbox: Sandbox, token: str, fields: dict[str, object]
) -> web.Response:
    """Update or delete a message."""
    channel, text = str(fields.get("channel", "")), str(fields.get("text", ""))
    deletes = request.match_info["method"] == "chat.delete"
    fault = await sandbox.begin(request, "slack", (channel, f"U{channel[1:]}"))
    refused = answer_fault(_FAULTS, fault) or _check(channel, text or "-" * deletes, fields, {})
    if refused is not None:
        return refused
    limits = sandbox.limits
    wait_s = limits.admit([(limits.slack_channel, f"{token} {channel}")])
    if wait_s > 0:
        return _too_many(wait_s)
    # A message to a person is in the direct channel, by whose id alone it can be changed.
    persons = (f"U{channel[1:]}", f"W{channel[1:]}") if channel.startswith("D") else ()
    chats = () if channel.startswith(("U", "W")) else (channel, *persons)
    ts = str(fields.get("ts", ""))
    found = (sandbox.store.find("slack", chat, ts) for chat in chats)
    message = next((each for each in found if each is not None), None)
    if message is None:
        return _error("message_not_found" if chats else "channel_not_found")
    if len(text.encode()) > _LONGEST_UPDATE:
        return _error("msg_too_long")
    if deletes:
        message.deleted = True
    else:
        message.text, message.edited = text, True
    answer = {"ok": True, "channel": channel, "ts": ts}
    return await sandbox.finish(request, fault, answer_json(answer))


def _check(
    channel: str, text: str, fields: dict[str, object], metadata: dict[str, object]
) -> web.Response | None:
    """Give the refusal of a request that is not acceptable."""
    # Ids are opaque; what is surely none is an empty one or a name.
    if not channel or channel != channel.upper():
        return _error("channel_not_found")
    if not text.strip():
        return _error("no_text")
    is_typed = isinstance(metadata.get("event_type"), str)
    if fields.get("metadata") is not None and not (
        is_typed and isinstance(metadata.get("event_payload"), dict)
    ):
        return _error("invalid_metadata_format")
    return None


def _history(sandbox: Sandbox, fields: dict[str, object]) -> web.Response:
    return _messages(sandbox, fields, thread=None)


def _replies(sandbox: Sandbox, fields: dict[str, object]) -> web.Response:
    return _messages(sandbox, fields, thread=str(fields.get("ts", "")))


def _messages(sandbox: Sandbox, fields: dict[str, object], *, thread: str | None) -> web.Response:
    """Give a channel's messages, newest first, or a thread's, oldest first, as Slack does."""
    channel = _direct(str(fields.get("channel", "")))
    oldest = _time(fields.get("oldest"), 0.0)
    latest = _time(fields.get("latest"), math.inf)
    asked = str(fields.get("limit", ""))
    limit = min(int(asked), _MOST_READ) if asked.isdecimal() else 100
    with_metadata = str(fields.get("include_all_metadata", "")).casefold() in {"true", "1"}
    found = [
        message
        for message in sandbox.store.newest_first("slack")
        if _direct(message.chat) == channel
        and oldest < float(message.id) < latest
        and (message.thread is None if thread is None else thread in {message.id, message.thread})
    ]
    if thread is not None:
        found.reverse()
    cursor = str(fields.get("cursor", ""))
    page = cursor.removeprefix("page:")
    if cursor and not page.isdecimal():
        return _error("invalid_cursor")
    first = int(page or 0)
    more = len(found) > first + limit
    shown = [_shown(m, with_metadata=with_metadata) for m in found[first : first + limit]]
    next_page = {"next_cursor": f"page:{first + limit}" if more else ""}
    return answer_json(
        {"ok": True, "messages": shown, "has_more": more, "response_metadata": next_page}
    )


def _open(_: Sandbox, fields: dict[str, object]) -> web.Response:
    users = str(fields.get("users", ""))
    if not users.startswith(("U", "W")):
        return _error("user_not_found")
    return answer_json({"ok": True, "channel": {"id": _direct(users)}})


def _too_many(wait_s: float) -> web.Response:
    """Give a 429; Slack says whole seconds, in the header only."""
    headers = {"Retry-After": str(max(1, math.ceil(wait_s)))}
    return answer_json({"ok": False, "error": "ratelimited"}, 429, headers)


def _direct(channel: str) -> str:
    """Give the direct channel of a person, any other channel as it is."""
    return f"D{channel[1:]}" if channel.startswith(("U", "W")) else channel


def _time(value: object, otherwise: float) -> float:
    try:
        return otherwise if value is None else float(str(value))
    except ValueError:
        return otherwise


def _shown(message: Accepted, *, with_metadata: bool) -> dict[str, object]:
    shown: dict[str, object] = {
        "type": "message",
        "user": "U0SANDBOX",
        "bot_id": "B0SANDBOX",
        "ts": message.id,
        "text": message.text,
    }
    if message.thread is not None:
        shown["thread_ts"] = message.thread
    if with_metadata and "metadata" in message.extra:
        shown["metadata"] = message.extra["metadata"]
    return shown


def _error(error: str, status: int = 200) -> web.Response:
    return answer_json({"ok": False, "error": error}, status)


_WRITING = {
    "chat.postMessage": _post_message,
    "chat.update": _change_message,
    "chat.delete": _change_message,
}
_METHODS: dict[str, Callable[[Sandbox, dict[str, object]], web.Response]] = {
    "conversations.history": _history,
    "conversations.replies": _replies,
    "conversations.open": _open,
    "auth.test": lambda *_: answer_json(
        {"ok": True, "team_id": "T0SANDBOX", "user_id": "U0SANDBOX"}
    ),
}
#: The scope that each method of reading needs beside `chat:write`.
_SCOPES = {
    "conversations.history": "channels:history",
    "conversations.replies": "channels:history",
    "conversations.open": "im:write",
}
_FAULTS: Answers = {
    Kind.RATE_LIMITED: lambda fault: _too_many(
        1.0 if fault.retry_after_s is None else fault.retry_after_s
    ),
    Kind.ERROR: lambda _: _error("internal_error", 500),
    Kind.BAD_GATEWAY: edge_answer,
    Kind.UNAVAILABLE: edge_answer,
    Kind.BLOCKED: lambda _: _error("user_disabled"),
    Kind.KICKED: lambda _: _error("not_in_channel"),
    Kind.REVOKED: lambda _: _error("token_revoked"),
}
