"""What a platform is: pure functions from a message to a request and from a response to an outcome.

Adapters implement `Platform`; the pipeline calls them. An adapter does no I/O, reads no
environment, knows no database and no Celery.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol, runtime_checkable

from worker.taxonomy import Failure, Outcome, Receipt


class Dedup(StrEnum):
    """The strongest thing a platform can do about a send whose answer never came."""

    #: A second send under the same key is one message.
    KEY = "key"
    #: The platform's history can be asked.
    ASK = "ask"
    NONE = "none"


def utf16_units(text: str) -> int:
    """Count UTF-16 code units."""
    return len(text.encode("utf-16-le")) // 2


def utf8_bytes(text: str) -> int:
    """Count UTF-8 bytes."""
    return len(text.encode())


class Counts(StrEnum):
    """What a limit counts separately."""

    BOT = "bot"
    CHAT = "chat"
    #: A chat of several people.
    GROUP = "group"


@dataclass(frozen=True, slots=True)
class Pace:
    """A steady pace: `per_s` messages a second, after a rest `burst` at once."""

    counts: Counts
    per_s: float
    burst: int = 1


@dataclass(frozen=True, slots=True)
class Window:
    """At most `count` messages in any `period_s` seconds."""

    counts: Counts
    count: int
    period_s: float


Limit = Pace | Window


@dataclass(frozen=True, slots=True)
class Told:
    """What an answer says of its chat's limit: `limit` in a window, of which `left` are left."""

    limit: int
    left: int
    reset_after_s: float


def _never(_chat_id: str) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Capability:
    """What a platform's API allows.

    Attributes:
        max_length: Longest text of one message, in the unit of `measure`.
        measure: Gives a text's length in the platform's own unit.
        splits: A longer text is sent in parts; without, it is refused.
        threads: `platform:chat#thread` is understood.
        threads_are_chats: A thread is a chat of its own: what is said of it says nothing of the
            chat that it belongs to.
        colon_in_ids: Ids may contain `:`, so `platform:chat:thread` is not.
        dedup: What can be done about an ambiguous send.
        dedup_window_s: For how long `Dedup.KEY` holds, `None` for good.
        dedup_if: What `dedup` hangs on beside the platform, in words after "if"; `None` for
            nothing.
        dm_by_user_id: A person's user id can be written to as a chat (perhaps after
            `OpensChats.opening`).
        limits: What the platform takes, as it says itself or was observed to; its live answers
            come on top.
        is_group: Tells of a chat id whether limits of groups count it.
        tells_limits: Its answers say what is left of the chat's limit, see `TellsLimits`.
        silent: `Message.silent` keeps the notification away.
    """

    max_length: int
    measure: Callable[[str], int] = len
    splits: bool = True
    threads: bool = False
    threads_are_chats: bool = False
    colon_in_ids: bool = False
    dedup: Dedup = Dedup.NONE
    dedup_window_s: float | None = None
    dedup_if: str | None = None
    dm_by_user_id: bool = False
    limits: tuple[Limit, ...] = ()
    is_group: Callable[[str], bool] = _never
    tells_limits: bool = False
    silent: bool = False


@dataclass(frozen=True, slots=True)
class Variable:
    """One environment variable that a platform reads.

    `name` is the usual one (`TELEGRAM_BOT_TOKEN`); a further account `second` reads
    `TELEGRAM_BOT_TOKEN_SECOND`. Without `default` it must be set before anything is sent.
    A `secret` never leaves the process.
    """

    name: str
    secret: bool = True
    default: str | None = None


@dataclass(frozen=True, slots=True)
class Bot:
    """One account on one platform, with the values of its variables by their plain names."""

    platform: str
    account: str
    values: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Message:
    """A rendered message for one chat.

    Attributes:
        delivery_id: Stable over all attempts.
        part: Which part of a message that was split, from 0.
        begun_s: Unix seconds before which nobody tried to send it; `None` when that is not known.
        created_s: Unix seconds of the delivery's creation, stable over all attempts.
        reply_to: The platform's id of the message that this one answers.
        extra: The delivery's metadata, for adapters that pass it on (webhook).
    """

    delivery_id: str
    chat_id: str
    text: str
    created_s: int
    thread_id: str | None = None
    reply_to: str | None = None
    silent: bool = False
    extra: Mapping[str, object] = field(default_factory=dict)
    part: int = 0
    begun_s: int | None = None

    @property
    def key(self) -> str:
        """Give what idempotency keys are made of: stable over all attempts, one a part."""
        return f"{self.delivery_id}-{self.part}" if self.part else self.delivery_id


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request, complete; `guarded` ones may not reach private addresses."""

    method: str
    url: str
    headers: Mapping[str, str] = field(repr=False)
    content: bytes = field(repr=False)
    guarded: bool = False


@dataclass(frozen=True, slots=True)
class Response:
    """One HTTP response; header names are lower-case."""

    status: int
    headers: Mapping[str, str]
    content: bytes


@runtime_checkable
class Platform(Protocol):
    """An adapter. Third-party ones are named by the entry-point group `mirrorpost.platforms`."""

    name: str
    capability: Capability
    variables: tuple[Variable, ...]

    def check_chat(self, chat_id: str) -> str | None:
        """Give what is wrong with a chat id and what would be right, or `None`."""
        ...

    def request(self, message: Message, bot: Bot) -> Request:
        """Turn a message into the request that sends it."""
        ...

    def outcome(self, response: Response) -> Outcome:
        """Turn the platform's answer into a receipt or one failure of the taxonomy."""
        ...


@runtime_checkable
class TellsLimits(Protocol):
    """An adapter whose platform says in its answers what is left of a chat's limit."""

    def told(self, response: Response) -> Told | None:
        """Read it; `None` when this answer says nothing."""
        ...


@runtime_checkable
class OpensChats(Protocol):
    """An adapter whose direct chats must be opened by user id before they can be written to."""

    def opening(self, user_id: str, bot: Bot) -> Request:
        """Give the request that opens the direct chat; safe to repeat."""
        ...

    def opened(self, response: Response) -> str | Failure:
        """Give the chat id that the answer names."""
        ...


@runtime_checkable
class Asks(Protocol):
    """An adapter with `Dedup.ASK`: its platform can be asked whether a message arrived.

    A dialogue of requests: `asking` gives the first, `asked` reads each answer and either
    gives the next request or comes to an end.
    """

    def asking(self, message: Message, bot: Bot) -> Request:
        """Give the request that asks for a message that may have been accepted."""
        ...

    def asked(
        self, request: Request, response: Response, message: Message, bot: Bot
    ) -> Receipt | Failure | Request | None:
        """Read the answer to `request`.

        Gives the receipt when the message is there, `None` when it is certainly not, a
        failure when the platform does not say, and a request where more has to be asked. A
        credential that may write and not read is `forbidden`; `auth` stops its whole bot.
        """
        ...


@runtime_checkable
class Edits(Protocol):
    """An adapter that can change the text of what it has sent; a second time does no harm."""

    def editing(self, message: Message, message_id: str, bot: Bot) -> Request:
        """Give the request that puts a message in the place of the one with this id."""
        ...

    def edited(self, response: Response, message_id: str) -> Outcome:
        """Read the answer. What reads so already is a receipt as well."""
        ...


@runtime_checkable
class Retracts(Protocol):
    """An adapter that can take back what it has sent; a second time does no harm."""

    def retracting(self, message: Message, message_id: str, bot: Bot) -> Request:
        """Give the request that deletes the message with this id; `message` says from where."""
        ...

    def retracted(self, response: Response, message_id: str) -> Outcome:
        """Read the answer. What is not there any more is a receipt as well."""
        ...


@runtime_checkable
class ChecksThreads(Protocol):
    """An adapter that knows what its thread ids look like.

    Without the check a wrong one may be worse than refused: Telegram reads text that is no
    number as no topic at all, and the message lands in the group's main chat.
    """

    def check_thread(self, thread_id: str) -> str | None:
        """Give what is wrong with a thread id and what would be right, or `None`."""
        ...
