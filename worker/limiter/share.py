"""The rule of `ask.lua` in this process, on its own clock: its share while Redis is away.

The tests hold the two against each other.
"""

from bisect import insort
from dataclasses import dataclass, field

from worker.limiter.scopes import Batch, Paced, Paused, Row, Spec, Windowed

#: Milliseconds for which those that wait are lined up, as in `ask.lua`.
LINE_MS = 60_000.0
#: Scopes that are remembered; above it those go that hold nobody any more.
_MOST = 100_000


@dataclass(slots=True)
class Share:
    """What was granted of each scope.

    Attributes:
        until: Of a paced scope when it is at rest, of a line (`#line`) its end; milliseconds.
        grants: Of a window the last times at which somebody might go, in order.
        paused: Until when a scope is paused; milliseconds.
    """

    until: dict[str, float] = field(default_factory=dict)
    grants: dict[str, list[float]] = field(default_factory=dict)
    paused: dict[str, float] = field(default_factory=dict)

    def ask(self, now: float, asked: Batch) -> list[float]:
        """Give what `ask.lua` gives, in milliseconds; `now` is in them too."""
        self._tidy(now)
        passing: dict[str, float] = {}
        return [self._ask(now, asked, row, passing) for row in asked.rows]

    def _ask(self, now: float, asked: Batch, row: Row, passing: dict[str, float]) -> float:
        horizon_ms, slack, keeps_line, *scopes = row
        pairs = [(int(scopes[n]), int(scopes[n + 1])) for n in range(0, len(scopes), 2)]
        at, by = now, -1
        for place, permits in pairs:
            free = self._free(now, asked, place, permits, slack)
            if free > at:
                at, by = free, place
        if at - now <= horizon_ms:
            for place, permits in pairs:
                self._take(asked.keys[place], asked.specs[place], permits, at)
            return at - now
        step = _step(asked.specs[by])
        if step is not None:
            lines, key = self.until if keeps_line else passing, f"{asked.keys[by]}#line"
            at = max(at, min(lines.get(key, 0.0), now + LINE_MS))
            lines[key] = at + step
        return -max(0.001, at - now)

    def _free(self, now: float, asked: Batch, place: int, permits: int, slack: float) -> float:
        key, spec = asked.keys[place], asked.specs[place]
        match spec:
            case Paced():
                return self.until.get(key, 0.0) - spec.slack_ms * slack
            case Windowed():
                grants = self.grants.get(key, [])
                oldest = len(grants) - spec.count + permits - 1
                return grants[oldest] + spec.period_ms if 0 <= oldest < len(grants) else now
            case _:
                return self.paused.get(key, 0.0)

    def _take(self, key: str, spec: Spec, permits: int, at: float) -> None:
        match spec:
            case Paced():
                self.until[key] = max(self.until.get(key, 0.0), at) + spec.pace_ms * permits
            case Windowed():
                grants = self.grants.setdefault(key, [])
                for _ in range(permits):
                    insort(grants, at)
                del grants[: -spec.count]
            case _:
                pass

    def pause(self, key: str, until: float, now: float) -> None:
        """Stop a scope; never for less long than it is stopped."""
        self.paused = {k: other for k, other in self.paused.items() if other > now}
        self.paused[key] = max(self.paused.get(key, now), until)

    def _tidy(self, now: float) -> None:
        if len(self.until) + len(self.grants) > _MOST:
            self.until = {key: until for key, until in self.until.items() if until > now}
            self.grants = {key: g for key, g in self.grants.items() if g[-1] > now - LINE_MS}


def _step(spec: Spec) -> float | None:
    match spec:
        case Paced():
            return spec.pace_ms
        case Windowed():
            return spec.period_ms / spec.count
        case Paused():
            return None
