"""Matrix's client-server API: messages in unencrypted rooms, replaced and redacted.

Facts: https://spec.matrix.org/latest/client-server-api/. The transaction id is made of the
delivery's id: the homeserver answers every repetition with the first event, also when the
body has changed, so another body for the same delivery would need another id.
"""

import re
from dataclasses import replace
from functools import lru_cache
from urllib.parse import quote

import orjson

from worker.platforms.answers import by_status, failure, json_object, message_id, succeeded
from worker.platforms.base import Bot, Capability, Dedup, Message, Request, Response, Variable
from worker.platforms.retry_after import seconds
from worker.taxonomy import ErrorKind, Failure, Outcome, Receipt, Scope

#: `!opaque:server`, and since room version 12 `!opaque` alone; at most 255 bytes.
_ROOM = re.compile(r"![\x21-\x7e]{1,254}", re.ASCII)
_EVENT = re.compile(r"\$[\x21-\x7e]{1,254}", re.ASCII)
#: Bytes of a replacement, which is in its event twice: for old clients it is cut above this.
_MOST_TWICE = 28_000
_CUT_CHARACTERS = 500
_NOT_FOUND = "M_NOT_FOUND"

K = ErrorKind
#: The `errcode` of an answer.
ERRORS: dict[str, ErrorKind] = {
    # Also what a room that does not exist answers.
    "M_FORBIDDEN": K.FORBIDDEN,
    _NOT_FOUND: K.TARGET_GONE,
    "M_MISSING_TOKEN": K.AUTH,
    "M_UNKNOWN_TOKEN": K.AUTH,
    "M_USER_DEACTIVATED": K.AUTH,
    "M_USER_SUSPENDED": K.AUTH,
    "M_USER_LOCKED": K.AUTH,
    "M_NOT_JSON": K.INVALID,
    "M_BAD_JSON": K.INVALID,
    "M_INVALID_PARAM": K.INVALID,
    "M_DUPLICATE_ANNOTATION": K.INVALID,
    "M_TOO_LARGE": K.TOO_LONG,
    "M_LIMIT_EXCEEDED": K.RATE_LIMITED,
    # The homeserver is over a quota of its own and took nothing.
    "M_RESOURCE_LIMIT_EXCEEDED": K.TRANSIENT,
}


def json_bytes(text: str) -> int:
    """Count the bytes that a text takes in an event: UTF-8 with JSON's escapes."""
    return len(orjson.dumps(text)) - 2


class Matrix:
    """Matrix, one access token an account."""

    name = "matrix"
    #: A whole signed event may have 65,536 bytes; Synapse took 64,000 of body and refused
    #: 65,000. The rest is for the envelope.
    capability = Capability(
        max_length=60_000,
        measure=json_bytes,
        threads=True,
        colon_in_ids=True,
        dedup=Dedup.KEY,
        # Homeservers count transaction ids by login: another one's are new.
        dedup_if="the bot keeps its login",
        silent=True,
    )
    variables: tuple[Variable, ...] = (
        Variable("MATRIX_HOMESERVER", secret=False),
        Variable("MATRIX_ACCESS_TOKEN"),
    )

    def check_chat(self, chat_id: str) -> str | None:
        """Demand a room id: aliases and people have to be resolved before."""
        if chat_id.startswith("#"):
            return (
                "a Matrix alias cannot be sent to directly; use the room id !...:server "
                "that stands in the room's settings under Advanced"
            )
        if _ROOM.fullmatch(chat_id):
            return None
        return "a Matrix target is a room id like !opaque:server, also for one person's room"

    def check_thread(self, thread_id: str) -> str | None:
        """Demand the id of the thread's first event."""
        if _EVENT.fullmatch(thread_id):
            return None
        return "a Matrix thread is its first event's id, like $opaque"

    def request(self, message: Message, bot: Bot) -> Request:
        """Give the event under a transaction id made of the delivery's id."""
        body = _content(message, message.text)
        relation = _relation(message)
        if relation:
            body["m.relates_to"] = relation
        return _put(bot, message, "send/m.room.message", body)

    def outcome(self, response: Response) -> Outcome:
        """Read the answer; a 2xx without an event id is no receipt."""
        answer = json_object(response.content)
        if succeeded(response):
            sent = message_id(answer.get("event_id"))
            return Receipt((sent,)) if sent is not None else failure(response, by_status(response))
        return _refusal(response, answer)

    def editing(self, message: Message, message_id: str, bot: Bot) -> Request:
        """Give the event that replaces another one, under a transaction id of its own."""
        whole = json_bytes(message.text) <= _MOST_TWICE
        shown = message.text if whole else f"{message.text[:_CUT_CHARACTERS]}…"
        body = {
            **_content(message, f"* {shown}"),
            "m.new_content": _content(message, message.text),
            "m.relates_to": {"rel_type": "m.replace", "event_id": message_id},
        }
        return _put(bot, message, "send/m.room.message", body)

    def edited(self, response: Response, message_id: str) -> Outcome:  # noqa: ARG002 - the protocol's
        """Read the answer; the receipt is the replacing event's id."""
        outcome = self.outcome(response)
        if isinstance(outcome, Failure) and outcome.code == _NOT_FOUND:
            # The event is, and its room may be there.
            return replace(outcome, kind=K.INVALID)
        return outcome

    def retracting(self, message: Message, message_id: str, bot: Bot) -> Request:
        """Give the redaction of an event."""
        return _put(bot, message, f"redact/{_quoted(message_id)}", {})

    def retracted(self, response: Response, message_id: str) -> Outcome:
        """Read the answer; an event that the room does not have is taken back."""
        if json_object(response.content).get("errcode") == _NOT_FOUND:
            return Receipt((message_id,))
        return self.outcome(response)


def _content(message: Message, text: str) -> dict[str, object]:
    # By the default push rules a notice notifies nobody, which is Matrix's silent.
    kind = "m.notice" if message.silent else "m.text"
    return {"msgtype": kind, "body": text, "m.mentions": {}}


def _put(bot: Bot, message: Message, what: str, body: dict[str, object]) -> Request:
    headers = {
        "authorization": f"Bearer {bot.values['MATRIX_ACCESS_TOKEN']}",
        "content-type": "application/json",
    }
    base = bot.values["MATRIX_HOMESERVER"].rstrip("/")
    path = f"/_matrix/client/v3/rooms/{_quoted(message.chat_id)}/{what}/"
    return Request(
        "PUT",
        f"{base}{path}mirrorpost-{quote(message.key, safe='')}",
        headers,
        orjson.dumps(body),
    )


def _relation(message: Message) -> dict[str, object]:
    """Give `m.relates_to`: in a thread, in answer to a message, or both."""
    if message.thread_id is None:
        return {} if message.reply_to is None else {"m.in_reply_to": {"event_id": message.reply_to}}
    return {
        "rel_type": "m.thread",
        "event_id": message.thread_id,
        # Clients without threads show a fallback as an answer to the thread's first event.
        "is_falling_back": message.reply_to is None,
        "m.in_reply_to": {"event_id": message.reply_to or message.thread_id},
    }


def _refusal(response: Response, answer: dict[str, object]) -> Failure:
    errcode = str(answer.get("errcode", ""))
    kind = ERRORS.get(errcode) or by_status(response)
    # Milliseconds in the body, exact; seconds in the header, rounded up.
    exact_ms = answer.get("retry_after_ms")
    exact_s = seconds(exact_ms / 1000) if isinstance(exact_ms, int | float) else None
    return failure(
        response,
        kind,
        answer.get("error") or errcode,
        code=errcode or None,
        retry_after_s=exact_s,
        # Homeservers count messages by account, over all rooms.
        scope=Scope.BOT if kind is K.RATE_LIMITED else Scope.CHAT,
    )


@lru_cache(maxsize=4096)
def _quoted(room_id: str) -> str:
    return quote(room_id, safe="")
