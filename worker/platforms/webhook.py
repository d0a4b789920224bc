"""A signed webhook: https://www.standardwebhooks.com, the receiver's URL is the chat id.

`webhook-id` is the delivery's id and the body is the same on every attempt, so a receiver
that remembers the ids it has seen gets each delivery once. That is the receiver's job: to
one that does not, a repeated attempt is a second message.
"""

import base64
import binascii
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from urllib.parse import urlsplit

import orjson
from standardwebhooks import Webhook as Signer

from worker.errors import Misconfigured
from worker.platforms.answers import by_status, failure, json_object, message_id, succeeded
from worker.platforms.base import (
    Bot,
    Capability,
    Dedup,
    Message,
    Request,
    Response,
    Variable,
    utf8_bytes,
)
from worker.taxonomy import ErrorKind, Outcome, Receipt

#: The type of the event, as receivers route by it.
EVENT_TYPE = "message.outbound"
_LONGEST_URL = 2048
#: Spaces, controls and backslashes: where two readers of one URL disagree.
_UNSAFE = re.compile(r"[\s\x00-\x1f\x7f\\]")
#: Bytes of a signing key, as the standard says.
_SHORTEST_KEY, _LONGEST_KEY = 24, 64
_PREFIX = "whsec_"
#: Where receivers put an id of their own, besides `id` in a JSON body.
_ID_HEADERS = ("x-message-id", "x-request-id")

K = ErrorKind
#: What a status means to the standard, where it says more than the status itself. A 3xx is
#: not followed. 401 and 403 are one receiver's word: they say nothing of the secret, which
#: all receivers share, so they are tried again like any other refusal.
ERRORS: Mapping[int, ErrorKind] = {
    **dict.fromkeys(range(300, 400), K.INVALID),
    401: K.UNKNOWN_ERROR,
    410: K.TARGET_GONE,
}


class Webhook:
    """Webhooks; all that an account's receivers get is signed with one secret."""

    name = "webhook"
    #: The standard asks for less than 20 kB in all.
    capability = Capability(
        max_length=16_000,
        measure=utf8_bytes,
        splits=False,
        colon_in_ids=True,
        dedup=Dedup.KEY,
        dedup_if="the receiver remembers the ids that it has seen",
    )
    variables: tuple[Variable, ...] = (Variable("MIRRORPOST_WEBHOOK_SECRET"),)

    def check_chat(self, chat_id: str) -> str | None:
        """Demand a plain URL; where it may lead is `addresses.check_host_literal`'s."""
        if len(chat_id) > _LONGEST_URL or _UNSAFE.search(chat_id):
            return f"a webhook is a URL without spaces of at most {_LONGEST_URL} characters"
        try:
            parts = urlsplit(chat_id)
            has_host = bool(parts.hostname) and parts.port != 0
        except ValueError:
            has_host = False
        if not has_host or parts.scheme not in {"https", "http"}:
            return "a webhook is a URL like https://host/path"
        if "@" in parts.netloc:
            return "a webhook's URL may hold no user or password, it is stored and shown"
        if "#" in chat_id:
            return "a webhook's URL may have no #fragment, it would not reach the receiver"
        return None

    def request(self, message: Message, bot: Bot) -> Request:
        """Give the signed event.

        Raises:
            Misconfigured: The secret is not one.
        """
        body = _body(message)
        now = datetime.now(UTC)
        signer = _signer(bot.values["MIRRORPOST_WEBHOOK_SECRET"])
        headers = {
            "content-type": "application/json",
            "webhook-id": message.key,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": signer.sign(message.key, now, body.decode()),
        }
        return Request("POST", message.chat_id, headers, body, guarded=True)

    def outcome(self, response: Response) -> Outcome:
        """Read the answer.

        A 2xx is all that the standard promises, so its status is the receipt where the
        receiver names no id of its own.
        """
        answer = json_object(response.content)
        if succeeded(response):
            named = (response.headers.get(name) for name in _ID_HEADERS)
            given = message_id(answer.get("id")) or next(filter(None, named), None)
            return Receipt((given or f"http-{response.status}",))
        kind = ERRORS.get(response.status) or by_status(response)
        return failure(response, kind, answer.get("message") or answer.get("error"))


def _body(message: Message) -> bytes:
    """Give the event's bytes, the same for every attempt."""
    created = datetime.fromtimestamp(message.created_s, UTC)
    event = {
        "type": EVENT_TYPE,
        "timestamp": created.isoformat().replace("+00:00", "Z"),
        "data": {
            "id": message.key,
            "text": message.text,
            "reply_to": message.reply_to,
            "silent": message.silent,
            "metadata": dict(message.extra),
        },
    }
    # Sorted, because a database may give metadata back in another order.
    return orjson.dumps(event, option=orjson.OPT_SORT_KEYS)


@lru_cache(maxsize=64)
def _signer(secret: str) -> Signer:
    """Read the secret strictly; the library skips what is not base64."""
    encoded = secret.removeprefix(_PREFIX)
    try:
        key = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not _SHORTEST_KEY <= len(key) <= _LONGEST_KEY:
        raise Misconfigured(
            f"MIRRORPOST_WEBHOOK_SECRET must read {_PREFIX} and the base64 of "
            f"{_SHORTEST_KEY} to {_LONGEST_KEY} random bytes"
        )
    return Signer(key)
