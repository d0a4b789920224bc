"""The frequency cap: at most so many messages to a person in any window of so long. Pure."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

_CAP = re.compile(r"(\d{1,6})/(\d{0,6})([smhdw])", re.ASCII)
_UNIT_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}


class OverCap(StrEnum):
    """What becomes of a message that is over the cap."""

    SUPPRESS = "suppress"
    #: It waits until the window has room, and leaves as one with the others that wait.
    DIGEST = "digest"


@dataclass(frozen=True, slots=True)
class Cap:
    """At most `count` messages in any `window_ms` milliseconds."""

    count: int
    window_ms: int

    def __str__(self) -> str:
        """Give it as it is written in the settings."""
        unit = max(
            (u for u, ms in _UNIT_MS.items() if self.window_ms % ms == 0), key=_UNIT_MS.__getitem__
        )
        return f"{self.count}/{self.window_ms // _UNIT_MS[unit]}{unit}"

    def room_at(self, sent_ms: Sequence[int]) -> int:
        """Give the time from which one more may go, after messages at these times."""
        if len(sent_ms) < self.count:
            return 0
        return sorted(sent_ms)[-self.count] + self.window_ms


def parse_cap(text: str) -> Cap | None:
    """Read `3/1d`, `1/h` or `20/7d`; the empty text is no cap.

    Raises:
        ValueError: It is something else, or zero; says what would be right.
    """
    if not text.strip():
        return None
    found = _CAP.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{text!r} is no frequency cap: write a number and a time, such as 3/1d")
    count, length = int(found[1]), int(found[2] or 1)
    if not count or not length:
        raise ValueError(
            f"{text!r} lets nothing through: write at least 1, such as 1/1d, or nothing for no cap"
        )
    return Cap(count, length * _UNIT_MS[found[3]])
