"""What each platform guarantees about a send, and whether it can be changed, by its own word.

Called by the command line, and by the test that keeps the README's table true.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from worker.platforms.base import Asks, Dedup, Edits, Platform, Retracts

HEADINGS = ("platform", "when no answer came", "policy resend", "policy hold", "edit and retract")
_ONCE = "exactly once"
_MARKED = "at least once, marked"
_HELD = "at most once, held"
_BLIND = "by policy: sent again and marked, or held as unknown"
#: What the ways in guarantee until the row is there.
INTAKE = (
    "enqueue and the command line: stored when the call returns, or an error.",
    "Celery over RabbitMQ with confirms: kept by the broker until a worker has stored it.",
    "Celery over Redis: the same, but a Redis that is killed may lose what it had not written.",
)


@dataclass(frozen=True, slots=True)
class Guarantee:
    """What becomes of a send that may have been accepted, and of one that was.

    Attributes:
        amend: Whether what was sent can be edited and retracted.
    """

    platform: str
    ambiguous: str
    resend: str
    hold: str
    amend: str

    def cells(self) -> tuple[str, ...]:
        """Give the cells of its line under `HEADINGS`."""
        return (self.platform, self.ambiguous, self.resend, self.hold, self.amend)


def guarantees(platforms: Mapping[str, Platform]) -> list[Guarantee]:
    """Give a line for each platform, by name."""
    return [_of(name, platforms[name]) for name in sorted(platforms)]


def _of(name: str, adapter: Platform) -> Guarantee:
    capability = adapter.capability
    window = capability.dedup_window_s
    amend = _amend(adapter)
    once = _ONCE if capability.dedup_if is None else f"{_ONCE} if {capability.dedup_if}"
    if capability.dedup is Dedup.KEY and window is None:
        # Whether the condition holds is not to be seen from here, so no policy comes after it.
        surely = once if capability.dedup_if is None else f"{once}, else at least once"
        return Guarantee(name, "sent again under the same key", surely, surely, amend)
    if capability.dedup is Dedup.KEY:
        within = f"within {window:g} s"
        return Guarantee(
            name,
            f"sent again under the same key {within}, then by policy",
            f"{once} {within}, then {_MARKED}",
            f"{once} {within}, then {_HELD}",
            amend,
        )
    if isinstance(adapter, Asks):
        return Guarantee(
            name,
            "asked for, and sent again if it is not there; by policy where it cannot be told",
            f"{once}, else {_MARKED}",
            f"{once}, else {_HELD}",
            amend,
        )
    return Guarantee(name, _BLIND, _MARKED, _HELD, amend)


def _amend(adapter: Platform) -> str:
    able = {"edit": isinstance(adapter, Edits), "retract": isinstance(adapter, Retracts)}
    if all(able.values()):
        return "yes"
    return next((f"{action} only" for action, can in able.items() if can), "no")


def as_markdown(found: list[Guarantee]) -> list[str]:
    """Give the table as Markdown, a line each."""
    rule = tuple("---" for _ in HEADINGS)
    return [f"| {' | '.join(cells)} |" for cells in (HEADINGS, rule, *(g.cells() for g in found))]
