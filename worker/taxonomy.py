"""What can come of a send: a receipt, or a failure of one kind.

Called by the platform adapters, which classify, and by the pipeline, which acts on
`CONSEQUENCES`. Knows no database, no HTTP client and no particular platform.

ErrorKind       try again?       costs an attempt   target dead   credential dead
rate_limited    when told        no                 no            no
transient       by the schedule  yes                no            no
ambiguous       by capability    yes                no            no
unknown_error   by the schedule  yes                no            no
target_moved    at once          yes                no            no
target_gone     never            yes                yes           no
forbidden       never            yes                yes           no
auth            when it is there no                 no            yes
invalid         never            yes                no            no
too_long        never            yes                no            no
"""

from dataclasses import dataclass
from enum import StrEnum


class ErrorKind(StrEnum):
    """Why a send has no receipt."""

    #: The platform did not process it and says when to come again.
    RATE_LIMITED = "rate_limited"
    #: Proven not accepted; the same request may work later.
    TRANSIENT = "transient"
    #: The request left and no proof came back: accepted or not, nobody can know.
    AMBIGUOUS = "ambiguous"
    #: The chat is gone: deleted, deactivated, blocked us, kicked us.
    TARGET_GONE = "target_gone"
    #: The chat lives on under another id (Telegram's group migration).
    TARGET_MOVED = "target_moved"
    #: The chat is there and this bot may not write into it.
    FORBIDDEN = "forbidden"
    #: The bot's credential is missing, wrong or revoked.
    AUTH = "auth"
    #: This content or address will never be accepted.
    INVALID = "invalid"
    #: The text is over the platform's limit.
    TOO_LONG = "too_long"
    #: An answer that the platform's table does not know.
    UNKNOWN_ERROR = "unknown_error"


class Again(StrEnum):
    """When a delivery is tried again."""

    NEVER = "never"
    #: After the platform's own retry-after, else by the schedule of `worker.backoff`.
    WHEN_TOLD = "when_told"
    BY_SCHEDULE = "by_schedule"
    AT_ONCE = "at_once"
    #: By what the platform can prove, else by the delivery's policy.
    BY_CAPABILITY = "by_capability"
    #: When the credential is another one.
    WHEN_CREDENTIAL_CHANGES = "when_credential_changes"


@dataclass(frozen=True, slots=True)
class Consequence:
    """What follows from an error kind."""

    again: Again
    costs_attempt: bool = True
    target_dead: bool = False
    credential_dead: bool = False


CONSEQUENCES: dict[ErrorKind, Consequence] = {
    ErrorKind.RATE_LIMITED: Consequence(Again.WHEN_TOLD, costs_attempt=False),
    ErrorKind.TRANSIENT: Consequence(Again.BY_SCHEDULE),
    ErrorKind.AMBIGUOUS: Consequence(Again.BY_CAPABILITY),
    ErrorKind.UNKNOWN_ERROR: Consequence(Again.BY_SCHEDULE),
    ErrorKind.TARGET_MOVED: Consequence(Again.AT_ONCE),
    ErrorKind.TARGET_GONE: Consequence(Again.NEVER, target_dead=True),
    ErrorKind.FORBIDDEN: Consequence(Again.NEVER, target_dead=True),
    ErrorKind.AUTH: Consequence(
        Again.WHEN_CREDENTIAL_CHANGES, costs_attempt=False, credential_dead=True
    ),
    ErrorKind.INVALID: Consequence(Again.NEVER),
    ErrorKind.TOO_LONG: Consequence(Again.NEVER),
}


class Scope(StrEnum):
    """What a platform's retry-after stops."""

    CHAT = "chat"
    BOT = "bot"


@dataclass(frozen=True, slots=True)
class Receipt:
    """The platform's proof of acceptance: its message ids, at least one.

    Attributes:
        chat_id: Where it went, if the platform named another chat than the one that it was given.
    """

    message_ids: tuple[str, ...]
    chat_id: str | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """A send without a receipt.

    Attributes:
        kind: What follows from it, see `CONSEQUENCES`.
        text: The platform's own words, already free of secrets, at most 500 characters.
        code: The platform's own error code, `None` where it gives none.
        http_status: `None` when no answer came.
        retry_after_s: Seconds, as the platform says; `None` when it says nothing.
        scope: What `retry_after_s` stops.
        moved_to: The new chat id, only with `TARGET_MOVED`.
        thread_only: It is the thread that is dead, not its whole chat.

    """

    kind: ErrorKind
    text: str
    code: str | None = None
    http_status: int | None = None
    retry_after_s: float | None = None
    scope: Scope = Scope.CHAT
    moved_to: str | None = None
    thread_only: bool = False


Outcome = Receipt | Failure
