"""What a due schedule does now: fire once, catch up, or leave out. Pure."""

from dataclasses import dataclass
from datetime import datetime

from scheduler.documents import MisfirePolicy
from scheduler.occurrences import Spec, between, count_through, next_after
from scheduler.tables import FireOutcome, Misfire

#: Occurrences of one schedule that go out in one pass; the next pass continues.
CATCH_UP = 100


@dataclass(frozen=True, slots=True)
class Occurrence:
    """What comes of one occurrence; the fields are those of `scheduler.tables.Fire`."""

    at: datetime
    outcome: FireOutcome
    missed: int = 0
    missed_since: datetime | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What happens now, and when the schedule is due next (`None`: never)."""

    occurrences: tuple[Occurrence, ...]
    next: datetime | None


def judge(spec: Spec, policy: MisfirePolicy, *, due: datetime, now: datetime) -> Verdict:
    """Decide over the occurrences from `due`, itself one, through `now`."""
    if policy.misfire is Misfire.ALL:
        times = [due, *between(spec, due, now, CATCH_UP - 1)]
        fired = tuple(Occurrence(at, FireOutcome.FIRED) for at in times)
        return Verdict(fired, next_after(spec, times[-1]))
    later, last, following = 0, due, next_after(spec, due)
    if following is not None and following <= now:
        later, last = count_through(spec, due, now)
        following = next_after(spec, last)
    if policy.misfire is Misfire.NONE and now - last > policy.grace:
        occurrence = Occurrence(last, FireOutcome.SKIPPED, later + 1, due)
    else:
        occurrence = Occurrence(last, FireOutcome.FIRED, later, due if later else None)
    return Verdict((occurrence,), following)
