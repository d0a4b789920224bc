"""The console: what is sent is printed by the client, for trying things out.

A chat is any label. `console:///label` is no real address; the shared client has a
transport for it that prints and answers `{"id": ...}`.
"""

from types import MappingProxyType
from urllib.parse import quote

import orjson

from worker.platforms.answers import by_status, failure, json_object, message_id, succeeded
from worker.platforms.base import Bot, Capability, Message, Request, Response, Variable
from worker.taxonomy import Outcome, Receipt

_HEADERS = MappingProxyType({"content-type": "application/json"})
_LONGEST_LABEL = 200


class Console:
    """The console; it needs no credential."""

    name = "console"
    capability = Capability(max_length=1_000_000, colon_in_ids=True)
    variables: tuple[Variable, ...] = ()

    def check_chat(self, chat_id: str) -> str | None:
        """Take any printable label."""
        if chat_id.strip() and chat_id.isprintable() and len(chat_id) <= _LONGEST_LABEL:
            return None
        return f"a console chat is a printable label of at most {_LONGEST_LABEL} characters"

    def request(self, message: Message, bot: Bot) -> Request:  # noqa: ARG002 - the interface
        """Give what the console's transport prints."""
        body = {"id": message.key, "text": message.text, "chat": message.chat_id}
        url = f"console:///{quote(message.chat_id, safe='')}"
        return Request("POST", url, _HEADERS, orjson.dumps(body))

    def outcome(self, response: Response) -> Outcome:
        """Read the transport's answer."""
        sent = message_id(json_object(response.content).get("id"))
        if succeeded(response) and sent is not None:
            return Receipt((sent,))
        return failure(response, by_status(response))
