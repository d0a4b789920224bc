"""What follows from an outcome: the next state of a delivery, decided by one table.

Pure. The pipeline calls `judge`; the outbox writes what it gives.
"""

import random
from dataclasses import dataclass
from typing import Protocol

from worker.backoff import MAX_ATTEMPTS, delay_s
from worker.intake import Policy
from worker.platforms.base import Dedup
from worker.states import State
from worker.taxonomy import CONSEQUENCES, Again, ErrorKind, Failure, Outcome, Receipt

#: Seconds to wait for a limit of which the platform gives no time.
_DEFAULT_RETRY_AFTER_S = 5.0


class Claim(Protocol):
    """What `judge` needs to know of a claimed delivery."""

    @property
    def id(self) -> str: ...  # noqa: D102 - a field
    @property
    def attempt(self) -> int: ...  # noqa: D102 - a field
    @property
    def attempts_used(self) -> int: ...  # noqa: D102 - a field
    @property
    def policy(self) -> str: ...  # noqa: D102 - a field
    @property
    def maybe_duplicate(self) -> bool: ...  # noqa: D102 - a field


@dataclass(frozen=True, slots=True)
class Place:
    """Where a delivery went or will go, and whose history it belongs to."""

    platform: str | None
    account: str
    chat_id: str | None
    thread_id: str | None
    unified_user: str | None


@dataclass(frozen=True, slots=True)
class Settlement:
    """One row's next state and, when the platform was asked, the attempt.

    Attributes:
        delay_ms: Milliseconds until it is due again; `None` leaves the due time.
        cost: Attempts used up by it, 0 or 1.
        outcome: `sent` or an error kind; `None` records no attempt.

    """

    id: str
    attempt: int
    state: State
    place: Place
    delay_ms: int | None = None
    cost: int = 0
    receipt: tuple[str, ...] | None = None
    failure: Failure | None = None
    maybe_duplicate: bool = False
    credential_print: str | None = None
    mirror: str | None = None
    outcome: str | None = None
    started_ms: int = 0
    took_ms: int = 0

    def as_row(self, owner: str) -> dict[str, object]:
        """Give the fields by the names of the outbox's statements."""
        failure, place = self.failure, self.place
        row: dict[str, object] = {
            "id": self.id,
            "attempt": self.attempt,
            "state": self.state.value,
            "delay_ms": self.delay_ms,
            "cost": self.cost,
            "receipt": self.receipt,
            "maybe_duplicate": self.maybe_duplicate,
            "credential_print": self.credential_print,
            "mirror": self.mirror,
            "platform": place.platform,
            "account": place.account,
            "chat_id": place.chat_id,
            "thread_id": place.thread_id,
            "unified_user": place.unified_user,
            "owner": owner,
            "outcome": self.outcome,
            "started_ms": self.started_ms,
            "took_ms": self.took_ms,
        }
        if failure is not None:
            after = failure.retry_after_s
            row |= {
                "error_kind": failure.kind.value,
                "error_text": failure.text,
                "code": failure.code,
                "http_status": failure.http_status,
                "retry_after_ms": None if after is None else int(after * 1000),
            }
        return row


@dataclass(frozen=True, slots=True)
class _Next:
    state: State
    delay_s: float | None = None
    maybe_duplicate: bool = False


def judge(
    claim: Claim,
    outcome: Outcome,
    place: Place,
    *,
    dedup: Dedup,
    credential_print: str,
    started_ms: int,
    took_ms: int,
    jitter: random.Random | None = None,
) -> Settlement:
    """Decide what follows from one attempt."""
    if isinstance(outcome, Receipt):
        return Settlement(
            claim.id,
            claim.attempt,
            State.SENT,
            place,
            cost=1,
            receipt=outcome.message_ids,
            maybe_duplicate=claim.maybe_duplicate,
            mirror="failed" if place.unified_user is None else "done",
            outcome="sent",
            started_ms=started_ms,
            took_ms=took_ms,
        )
    consequence = CONSEQUENCES[outcome.kind]
    used = claim.attempts_used + consequence.costs_attempt
    after = _next(claim, outcome, used, dedup, jitter)
    if outcome.moved_to is not None:
        place = Place(
            place.platform, place.account, outcome.moved_to, place.thread_id, place.unified_user
        )
    return Settlement(
        claim.id,
        claim.attempt,
        after.state,
        place,
        delay_ms=None if after.delay_s is None else int(after.delay_s * 1000),
        cost=int(consequence.costs_attempt),
        failure=outcome,
        maybe_duplicate=claim.maybe_duplicate or after.maybe_duplicate,
        credential_print=credential_print if consequence.credential_dead else None,
        outcome=outcome.kind.value,
        started_ms=started_ms,
        took_ms=took_ms,
    )


def _next(
    claim: Claim, failure: Failure, used: int, dedup: Dedup, jitter: random.Random | None
) -> _Next:
    match CONSEQUENCES[failure.kind].again:
        case Again.NEVER | Again.WHEN_CREDENTIAL_CHANGES as again:
            return _Next(State.FAILED if again is Again.NEVER else State.HELD)
        case Again.WHEN_TOLD:
            wait = failure.retry_after_s
            return _Next(State.RETRYING, _DEFAULT_RETRY_AFTER_S if wait is None else wait)
        case Again.AT_ONCE:
            return _Next(State.RETRYING, 0.0) if used < MAX_ATTEMPTS else _Next(State.FAILED)
        case Again.BY_CAPABILITY if dedup is not Dedup.KEY and claim.policy == Policy.HOLD:
            return _Next(State.UNKNOWN)
        case _:
            pass
    wait = delay_s(used, jitter)
    if wait is None:
        # Nobody can know whether the last ambiguous send arrived, so it did not "fail".
        unknown = failure.kind is ErrorKind.AMBIGUOUS and dedup is not Dedup.KEY
        return _Next(State.UNKNOWN if unknown else State.FAILED)
    if failure.retry_after_s is not None:
        wait = failure.retry_after_s
    again_blindly = failure.kind is ErrorKind.AMBIGUOUS and dedup is not Dedup.KEY
    return _Next(State.RETRYING, wait, maybe_duplicate=again_blindly)
