"""Discord's side: messages of a bot made, edited, deleted, read; direct channels; `users/@me`."""

import math
import re
import time
from collections import OrderedDict
from collections.abc import Callable

from aiohttp import web

from worker.sandbox.faults import Answers, Kind, answer_fault, edge_answer
from worker.sandbox.state import SANDBOX, Sandbox, answer_json, as_object, read_fields
from worker.sandbox.store import Accepted

_PREFIX = "/discord/api/v10"
_SNOWFLAKE = re.compile(r"[0-9]{1,20}", re.ASCII)
_LONGEST = 2000
_LONGEST_NONCE = 25
_SILENT = 4096
_MOST_READ = 100
#: Seconds for which an enforced nonce is remembered; Discord says "the past few minutes".
NONCE_S = 300.0
_MOST_NONCES = 200_000


def routes() -> list[web.RouteDef]:
    """Give the paths below `/discord/api/v10`."""
    nonces = Nonces()

    async def create(request: web.Request) -> web.Response:
        return await _create_message(request, nonces)

    return [
        web.post(_PREFIX + "/channels/{channel}/messages", create),
        web.get(_PREFIX + "/channels/{channel}/messages", _read_messages),
        web.patch(_PREFIX + "/channels/{channel}/messages/{message}", _change_message),
        web.delete(_PREFIX + "/channels/{channel}/messages/{message}", _change_message),
        web.post(_PREFIX + "/users/@me/channels", _open_direct),
        web.get(_PREFIX + "/users/@me", _me),
    ]


class Nonces:
    """The enforced nonces of the past few minutes, with the messages they stand for."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._known: OrderedDict[tuple[str, str], tuple[float, dict[str, object]]] = OrderedDict()

    def find(self, bot: str, nonce: str) -> dict[str, object] | None:
        """Give the message that a bot made under a nonce."""
        made_s, message = self._known.get((bot, nonce), (0.0, None))
        return message if self._clock() - made_s < NONCE_S else None

    def keep(self, bot: str, nonce: str, message: dict[str, object]) -> None:
        """Remember a message under its nonce; the oldest ones are forgotten."""
        self._known[bot, nonce] = (self._clock(), message)
        if len(self._known) > _MOST_NONCES:
            self._known.popitem(last=False)


async def _create_message(request: web.Request, nonces: Nonces) -> web.Response:
    sandbox, channel = request.app[SANDBOX], request.match_info["channel"]
    bot = _authorized(request)
    if bot is None:
        return _unauthorized()
    fields = await read_fields(request)
    person = sandbox.ids.discord_person(channel)
    fault = await sandbox.begin(request, "discord", (channel, person))
    wrong = answer_fault(_FAULTS, fault) or _check(channel, fields)
    if wrong is not None or fields is None:
        return wrong or _invalid_json()
    limited = _limited(sandbox, bot, channel)
    if limited is not None:
        return limited
    nonce = None if fields.get("nonce") is None else str(fields["nonce"])
    enforced = nonce is not None and fields.get("enforce_nonce") is True
    message = nonces.find(bot, nonce) if enforced and nonce is not None else None
    if message is None:
        accepted = _accept(sandbox, channel, person, fields, nonce)
        message = _shown(accepted)
        if enforced and nonce is not None:
            nonces.keep(bot, nonce, message)
    answer = answer_json(message, headers=_bucket_headers(sandbox, bot, channel))
    return await sandbox.finish(request, fault, answer)


async def _change_message(request: web.Request) -> web.Response:
    """Edit or delete a message."""
    sandbox, channel = request.app[SANDBOX], request.match_info["channel"]
    bot = _authorized(request)
    if bot is None:
        return _unauthorized()
    deletes = request.method == "DELETE"
    fields = {} if deletes else await read_fields(request)
    fault = await sandbox.begin(request, "discord", (channel, sandbox.ids.discord_person(channel)))
    wrong = answer_fault(_FAULTS, fault) or (None if deletes else _check(channel, fields))
    if wrong is not None or fields is None:
        return wrong or _invalid_json()
    limited = _limited(sandbox, bot, channel)
    if limited is not None:
        return limited
    message = sandbox.store.find("discord", channel, request.match_info["message"])
    if message is None:
        return _error(404, 10008, "Unknown Message")
    headers = _bucket_headers(sandbox, bot, channel)
    if deletes:
        message.deleted = True
        return await sandbox.finish(request, fault, web.Response(status=204, headers=headers))
    message.text, message.edited = str(fields.get("content", "")), True
    return await sandbox.finish(request, fault, answer_json(_shown(message), headers=headers))


def _limited(sandbox: Sandbox, bot: str, channel: str) -> web.Response | None:
    """Count a request, or give the answer of one that comes too early."""
    limits = sandbox.limits
    scopes = [(limits.discord_bot, bot), (limits.discord_channel, f"{bot} {channel}")]
    wait_s = limits.admit(scopes)
    if wait_s == 0:
        return None
    everywhere = limits.discord_bot.wait_s(bot, limits.clock()) > 0
    return _too_many(wait_s, everywhere=everywhere)


def _accept(
    sandbox: Sandbox,
    channel: str,
    person: str | None,
    fields: dict[str, object],
    nonce: str | None,
) -> Accepted:
    flags = fields.get("flags")
    reply_to = as_object(fields.get("message_reference")).get("message_id")
    return sandbox.store.add(
        Accepted(
            platform="discord",
            chat=channel,
            id=sandbox.ids.snowflake(),
            text=str(fields.get("content", "")),
            reply_to=None if reply_to is None else str(reply_to),
            silent=isinstance(flags, int) and bool(flags & _SILENT),
            nonce=nonce,
            recipient=person,
        )
    )


def _check(channel: str, fields: dict[str, object] | None) -> web.Response | None:
    """Give the refusal of a request that is not acceptable."""
    if fields is None:
        return _invalid_json()
    if not _SNOWFLAKE.fullmatch(channel):
        return _invalid_form("channel_id", "NUMBER_TYPE_COERCE", "Value is not snowflake.")
    content, nonce = fields.get("content"), fields.get("nonce")
    if not isinstance(content, str) or not content.strip():
        return _error(400, 50006, "Cannot send an empty message")
    if len(content) > _LONGEST:
        return _invalid_form(
            "content", "BASE_TYPE_MAX_LENGTH", f"Must be {_LONGEST} or fewer in length."
        )
    if nonce is not None and len(str(nonce)) > _LONGEST_NONCE:
        return _invalid_form(
            "nonce", "NONCE_TYPE_TOO_LONG", f"Must be {_LONGEST_NONCE} or fewer in length."
        )
    return None


async def _read_messages(request: web.Request) -> web.Response:
    if _authorized(request) is None:
        return _unauthorized()
    asked = request.query.get("limit", "50")
    limit = min(int(asked), _MOST_READ) if asked.isdecimal() else 50
    channel = request.match_info["channel"]
    found = [m for m in request.app[SANDBOX].store.newest_first("discord") if m.chat == channel]
    return answer_json([_shown(message) for message in found[:limit]])


async def _open_direct(request: web.Request) -> web.Response:
    if _authorized(request) is None:
        return _unauthorized()
    person = str((await read_fields(request) or {}).get("recipient_id", ""))
    if not _SNOWFLAKE.fullmatch(person):
        return _invalid_form("recipient_id", "NUMBER_TYPE_COERCE", "Value is not snowflake.")
    channel = request.app[SANDBOX].ids.discord_direct(person)
    return answer_json({"id": channel, "type": 1, "recipients": [{"id": person}]})


async def _me(request: web.Request) -> web.Response:
    if _authorized(request) is None:
        return _unauthorized()
    return answer_json({"id": "1", "username": "sandbox", "bot": True})


def _authorized(request: web.Request) -> str | None:
    """Give the bot of a request, `None` when its token is missing or revoked."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme != "Bot" or not token.strip():
        return None
    revoked = request.app[SANDBOX].faults.take("discord", (), {Kind.REVOKED})
    return None if revoked else token


def _too_many(wait_s: float, *, everywhere: bool) -> web.Response:
    """Give a 429: a fraction of seconds in the body, whole ones in the header."""
    headers = {
        "Retry-After": str(math.ceil(wait_s)),
        # By this clients tell Discord's 429 from Cloudflare's, which is a ban.
        "Via": "1.1 sandbox",
        "X-RateLimit-Scope": "global" if everywhere else "user",
        "X-RateLimit-Reset-After": f"{wait_s:.3f}",
        **({"X-RateLimit-Global": "true"} if everywhere else {"X-RateLimit-Remaining": "0"}),
    }
    body = {
        "message": "You are being rate limited.",
        "retry_after": round(wait_s, 3),
        "global": everywhere,
    }
    return answer_json(body, 429, headers)


def _bucket_headers(sandbox: Sandbox, bot: str, channel: str) -> dict[str, str] | None:
    limits, key = sandbox.limits, f"{bot} {channel}"
    if not limits.on:
        return None
    left, reset_after_s = limits.discord_channel.left(key, limits.clock())
    return {
        "X-RateLimit-Limit": str(limits.discord_channel.limit),
        "X-RateLimit-Remaining": str(left),
        "X-RateLimit-Reset": f"{time.time() + reset_after_s:.3f}",
        "X-RateLimit-Reset-After": f"{reset_after_s:.3f}",
        "X-RateLimit-Bucket": "sandbox-create-message",
    }


def _shown(message: Accepted) -> dict[str, object]:
    shown: dict[str, object] = {
        "id": message.id,
        "type": 0,
        "channel_id": message.chat,
        "content": message.text,
        "timestamp": message.at.isoformat(),
        "flags": _SILENT if message.silent else 0,
        "author": {"id": "1", "username": "sandbox", "bot": True},
    }
    if message.nonce is not None:
        shown["nonce"] = message.nonce
    return shown


def _unauthorized() -> web.Response:
    return _error(401, 0, "401: Unauthorized")


def _invalid_json() -> web.Response:
    return _error(400, 50109, "The request body contains invalid JSON.")


def _invalid_form(name: str, code: str, message: str) -> web.Response:
    errors = {name: {"_errors": [{"code": code, "message": message}]}}
    return answer_json({"message": "Invalid Form Body", "code": 50035, "errors": errors}, 400)


def _error(status: int, code: int, message: str) -> web.Response:
    return answer_json({"message": message, "code": code}, status)


_FAULTS: Answers = {
    Kind.RATE_LIMITED: lambda fault: _too_many(
        1.0 if fault.retry_after_s is None else fault.retry_after_s, everywhere=fault.everywhere
    ),
    Kind.ERROR: lambda _: _error(500, 0, "500: Internal Server Error"),
    Kind.BAD_GATEWAY: edge_answer,
    Kind.UNAVAILABLE: edge_answer,
    Kind.BLOCKED: lambda _: _error(403, 50007, "Cannot send messages to this user"),
    Kind.KICKED: lambda _: _error(403, 50001, "Missing Access"),
    Kind.REVOKED: lambda _: _unauthorized(),
}
