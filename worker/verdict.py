"""What follows from an outcome: the next state of a delivery, decided by one table.

Pure. The pipeline calls `judge`; the outbox writes what it gives.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from worker.backoff import delay_s
from worker.intake import Policy
from worker.platforms.base import Dedup, Told
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
    @property
    def receipt(self) -> Sequence[str] | None: ...  # noqa: D102 - a field
    @property
    def age_ms(self) -> int: ...  # noqa: D102 - a field
    @property
    def doubt_ms(self) -> int | None: ...  # noqa: D102 - a field


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
        receipt: The message ids of all parts that were sent so far.
        outcome: `sent` or an error kind; `None` records no attempt.
        part: The part that was tried, from 0.
        doubt: That an attempt may have been accepted without an answer: `True` begins the
            doubt, `False` ends it, `None` leaves it as it is.
        told: What the answer said of its chat's limit.

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
    part: int = 0
    doubt: bool | None = None
    told: Told | None = None

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
            "part": self.part,
            "doubt": self.doubt,
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
    parts: int = 1,
    min_age_s: float = 0.0,
    jitter: random.Random | None = None,
) -> Settlement:
    """Decide what follows from one attempt at the next part of a message.

    Args:
        parts: How many parts the message has.
        min_age_s: Seconds that a delivery is tried at least before it fails for want of success.
    """
    before = tuple(claim.receipt or ())
    if isinstance(outcome, Receipt):
        last = len(before) + 1 >= parts
        mirror = "failed" if place.unified_user is None else "done"
        if outcome.chat_id is not None:
            place = replace(place, chat_id=outcome.chat_id)
        return Settlement(
            claim.id,
            claim.attempt,
            State.SENT if last else State.QUEUED,
            place,
            cost=int(last),
            receipt=before + (outcome.message_ids if parts == 1 else outcome.message_ids[:1]),
            maybe_duplicate=claim.maybe_duplicate,
            mirror=mirror if last else None,
            outcome="sent",
            started_ms=started_ms,
            took_ms=took_ms,
            part=len(before),
            doubt=False,
        )
    consequence = CONSEQUENCES[outcome.kind]
    used = claim.attempts_used + consequence.costs_attempt
    young = claim.age_ms < min_age_s * 1000
    after = _next(claim, outcome, delay_s(used, jitter, young=young), dedup)
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
        receipt=before or None,
        failure=outcome,
        maybe_duplicate=claim.maybe_duplicate or after.maybe_duplicate,
        credential_print=credential_print if consequence.credential_dead else None,
        outcome=outcome.kind.value,
        started_ms=started_ms,
        took_ms=took_ms,
        part=len(before),
        doubt=_doubt(claim, outcome),
    )


def _doubt(claim: Claim, failure: Failure) -> bool | None:
    if failure.kind is ErrorKind.AMBIGUOUS:
        return True
    # What this attempt alone may have done, it has not; an older doubt stays.
    return False if claim.doubt_ms is None else None


def _next(claim: Claim, failure: Failure, wait: float | None, dedup: Dedup) -> _Next:
    """Decide by the kind of failure; `wait` is `None` when the attempts are used up."""
    blind = dedup is Dedup.NONE
    match CONSEQUENCES[failure.kind].again:
        case Again.NEVER | Again.WHEN_CREDENTIAL_CHANGES as again:
            return _Next(State.FAILED if again is Again.NEVER else State.HELD)
        case Again.WHEN_TOLD:
            told = failure.retry_after_s
            return _Next(State.RETRYING, _DEFAULT_RETRY_AFTER_S if told is None else told)
        case Again.AT_ONCE:
            return _Next(State.FAILED) if wait is None else _Next(State.RETRYING, 0.0)
        case Again.BY_CAPABILITY if blind and claim.policy == Policy.HOLD:
            return _Next(State.UNKNOWN)
        case _:
            pass
    ambiguous = failure.kind is ErrorKind.AMBIGUOUS
    if wait is None:
        # Nobody can know whether an ambiguous send arrived, so it did not "fail".
        unknown = ambiguous or claim.doubt_ms is not None
        return _Next(State.UNKNOWN if unknown else State.FAILED)
    if failure.retry_after_s is not None:
        wait = failure.retry_after_s
    return _Next(State.RETRYING, wait, maybe_duplicate=ambiguous and blind)
