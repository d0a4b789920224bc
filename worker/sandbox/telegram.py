"""Telegram's side: messages sent, edited and deleted, and `getMe`, as the Bot API answers.

Wording and order of checks are those of telegram-bot-api's `Client.cpp`.
"""

import math
import re
import time
from collections.abc import Awaitable, Callable

from aiohttp import web

from worker.sandbox.faults import Answers, Fault, Kind, answer_fault, edge_answer
from worker.sandbox.state import SANDBOX, Sandbox, answer_json, as_object, read_fields
from worker.sandbox.store import Accepted

_TOKEN = re.compile(r"(?P<id>[0-9]+):[A-Za-z0-9_-]+", re.ASCII)
_NUMBER = re.compile(r"-?[0-9]{1,18}", re.ASCII)
_LONGEST_CHARACTERS = 4096
_LONGEST_BYTES = 32_768
#: Seconds for which a message can be deleted.
DELETABLE_S = 48 * 3600.0


def routes() -> list[web.RouteDef]:
    """Give the paths below `/telegram`."""
    return [web.route("*", "/telegram/bot{token}/{method}", _call)]


async def _call(request: web.Request) -> web.Response:
    sandbox = request.app[SANDBOX]
    token = _TOKEN.fullmatch(request.match_info["token"])
    if token is None:
        return _error(404, "Not Found")
    answer = _METHODS.get(request.match_info["method"].casefold())
    if answer is None:
        return _error(404, "Not Found")
    return await answer(request, sandbox, token["id"])


async def _get_me(_: web.Request, sandbox: Sandbox, bot_id: str) -> web.Response:
    if sandbox.faults.take("telegram", (), {Kind.REVOKED}):
        return _error(401, "Unauthorized")
    return answer_json({"ok": True, "result": _bot(bot_id)})


async def _send_message(request: web.Request, sandbox: Sandbox, bot_id: str) -> web.Response:
    fields = await read_fields(request)
    if fields is None:
        return _error(400, "Bad Request: can't parse JSON object")
    chat, text = str(fields.get("chat_id", "")), str(fields.get("text", ""))
    fault = await sandbox.begin(request, "telegram", (chat,))
    wrong = answer_fault(_FAULTS, fault) or _check(sandbox, fields, chat, text)
    if wrong is not None:
        return wrong
    limited = _limited(sandbox, bot_id, chat)
    if limited is not None:
        return limited
    number = sandbox.ids.telegram(chat)
    # The server reads a topic that is no number as none.
    thread = str(fields.get("message_thread_id", ""))
    topic = int(thread) if _NUMBER.fullmatch(thread) and int(thread) else None
    reply_to = as_object(fields.get("reply_parameters")).get("message_id")
    sandbox.store.add(
        Accepted(
            platform="telegram",
            chat=chat,
            id=str(number),
            text=text.strip(),
            thread=None if topic is None else str(topic),
            reply_to=None if reply_to is None else str(reply_to),
            silent=str(fields.get("disable_notification", "")).casefold() in {"true", "1"},
        )
    )
    result = {
        "message_id": number,
        "from": _bot(bot_id),
        "date": int(time.time()),
        "chat": _chat(chat),
        "text": text.strip(),
        **({} if topic is None else {"message_thread_id": topic, "is_topic_message": True}),
    }
    return await sandbox.finish(request, fault, answer_json({"ok": True, "result": result}))


async def _edit_message(request: web.Request, sandbox: Sandbox, bot_id: str) -> web.Response:
    fields = await read_fields(request)
    if fields is None:
        return _error(400, "Bad Request: can't parse JSON object")
    chat, text = str(fields.get("chat_id", "")), str(fields.get("text", ""))
    fault = await sandbox.begin(request, "telegram", (chat,))
    message = sandbox.store.find("telegram", chat, str(fields.get("message_id", "")))
    wrong = answer_fault(_FAULTS, fault) or _check(sandbox, fields, chat, text)
    if wrong is not None:
        return wrong
    if message is None:
        return _error(400, "Bad Request: message to edit not found")
    limited = _limited(sandbox, bot_id, chat)
    if limited is not None:
        return limited
    if message.text == text.strip():
        return _error(
            400,
            "Bad Request: message is not modified: specified new message content and reply "
            "markup are exactly the same as a current content and reply markup of the message",
        )
    message.text, message.edited = text.strip(), True
    result = {
        "message_id": int(message.id),
        "from": _bot(bot_id),
        "date": int(message.at.timestamp()),
        "edit_date": int(time.time()),
        "chat": _chat(chat),
        "text": message.text,
    }
    return await sandbox.finish(request, fault, answer_json({"ok": True, "result": result}))


async def _delete_message(request: web.Request, sandbox: Sandbox, bot_id: str) -> web.Response:
    fields = await read_fields(request)
    if fields is None:
        return _error(400, "Bad Request: can't parse JSON object")
    chat = str(fields.get("chat_id", ""))
    fault = await sandbox.begin(request, "telegram", (chat,))
    message = sandbox.store.find("telegram", chat, str(fields.get("message_id", "")))
    unknown = _wrong_chat(chat)
    wrong = answer_fault(_FAULTS, fault) or (unknown and _error(400, f"Bad Request: {unknown}"))
    if wrong:
        return wrong
    limited = _limited(sandbox, bot_id, chat)
    if limited is not None:
        return limited
    if message is None:
        return _error(400, "Bad Request: message to delete not found")
    if time.time() - message.at.timestamp() > DELETABLE_S:
        return _error(400, "Bad Request: message can't be deleted for everyone")
    message.deleted = True
    return await sandbox.finish(request, fault, answer_json({"ok": True, "result": True}))


def _limited(sandbox: Sandbox, bot_id: str, chat: str) -> web.Response | None:
    """Count a request, or give the answer of one that comes too early."""
    limits = sandbox.limits
    scopes = [(limits.telegram_bot, bot_id), (limits.telegram_chat, f"{bot_id} {chat}")]
    if chat.startswith(("-", "@")):
        scopes.append((limits.telegram_group, f"{bot_id} {chat}"))
    wait_s = limits.admit(scopes)
    return _too_many(wait_s) if wait_s > 0 else None


def _check(
    sandbox: Sandbox, fields: dict[str, object], chat: str, text: str
) -> web.Response | None:
    """Give the refusal of a request that is not acceptable."""
    wrong = _wrong_chat(chat) or _wrong_text(text) or _wrong_reply(sandbox, fields, chat)
    return None if wrong is None else _error(400, f"Bad Request: {wrong}")


def _wrong_chat(chat: str) -> str | None:
    if not chat:
        return "chat_id is empty"
    return None if _NUMBER.fullmatch(chat) or chat.startswith("@") else "chat not found"


def _wrong_text(text: str) -> str | None:
    if not text.strip():
        return "message text is empty"
    if len(text.encode()) > _LONGEST_BYTES:
        return "text is too long"
    # The server counts code points.
    return "message is too long" if len(text.strip()) > _LONGEST_CHARACTERS else None


def _wrong_reply(sandbox: Sandbox, fields: dict[str, object], chat: str) -> str | None:
    reply = as_object(fields.get("reply_parameters"))
    number = reply.get("message_id")
    known = isinstance(number, int) and sandbox.ids.is_telegram_message(chat, number)
    needed = bool(reply) and reply.get("allow_sending_without_reply") is not True
    return "message to be replied not found" if needed and not known else None


def _kicked(fault: Fault) -> web.Response:
    kind = "group" if fault.chat and not fault.chat.startswith("-100") else "supergroup"
    return _error(403, f"Forbidden: bot was kicked from the {kind} chat")


def _migrated(fault: Fault) -> web.Response:
    return _error(
        400,
        "Bad Request: group chat was upgraded to a supergroup chat",
        {"migrate_to_chat_id": int(fault.to or 0)},
    )


def _too_many(wait_s: float) -> web.Response:
    """Give a 429; Telegram says whole seconds, in the body and in the header."""
    retry_after = max(1, math.ceil(wait_s))
    return _error(
        429,
        f"Too Many Requests: retry after {retry_after}",
        {"retry_after": retry_after},
        {"Retry-After": str(retry_after)},
    )


def _error(
    code: int,
    description: str,
    parameters: dict[str, object] | None = None,
    headers: dict[str, str] | None = None,
) -> web.Response:
    body: dict[str, object] = {"ok": False, "error_code": code, "description": description}
    if parameters is not None:
        body["parameters"] = parameters
    return answer_json(body, code, headers)


def _bot(bot_id: str) -> dict[str, object]:
    return {
        "id": int(bot_id),
        "is_bot": True,
        "first_name": "Sandbox",
        "username": "sandbox_bot",
    }


def _chat(chat: str) -> dict[str, object]:
    if chat.startswith("@"):
        return {"id": -1_000_000_000_001, "type": "channel", "username": chat[1:]}
    kind = "private"
    if chat.startswith("-"):
        kind = "supergroup" if chat.startswith("-100") else "group"
    return {"id": int(chat), "type": kind}


_METHODS: dict[str, Callable[[web.Request, Sandbox, str], Awaitable[web.Response]]] = {
    "sendmessage": _send_message,
    "editmessagetext": _edit_message,
    "deletemessage": _delete_message,
    "getme": _get_me,
}
_FAULTS: Answers = {
    Kind.RATE_LIMITED: lambda fault: _too_many(
        1.0 if fault.retry_after_s is None else fault.retry_after_s
    ),
    Kind.ERROR: lambda _: _error(500, "Internal Server Error: restart"),
    Kind.BAD_GATEWAY: edge_answer,
    Kind.UNAVAILABLE: edge_answer,
    Kind.BLOCKED: lambda _: _error(403, "Forbidden: bot was blocked by the user"),
    Kind.KICKED: _kicked,
    Kind.REVOKED: lambda _: _error(401, "Unauthorized"),
    Kind.MIGRATED: _migrated,
}
