"""The rule of `ask.lua` in this process, on its own clock: its share while Redis is away.

The tests hold the two against each other.
"""

from bisect import insort
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from worker.limiter.scopes import Line, Paced, Paused, Row, Spec, Windowed

#: Milliseconds for which those that wait are lined up, as in `ask.lua`.
LINE_MS = 60_000.0
#: Scopes that are remembered; above it those go that hold nobody any more.
_MOST = 100_000


@dataclass(slots=True)
class Share:
    """What was granted of each scope.

    Attributes:
        until: Of a paced scope when it is at rest, of a line its end; milliseconds.
        grants: Of a window the last times at which somebody might go, in order.
        paused: Until when a scope is paused; milliseconds.
    """

    until: dict[str, float] = field(default_factory=dict)
    grants: dict[str, list[float]] = field(default_factory=dict)
    paused: dict[str, float] = field(default_factory=dict)

    def ask(self, now: float, specs: Mapping[str, Spec], rows: Sequence[Row]) -> list[float]:
        """Give what `ask.lua` gives, in milliseconds; `now` is in them too."""
        self._tidy(now)
        lines: dict[str, float] = {}
        return [self._ask(now, specs, row, lines) for row in rows]

    def _ask(
        self, now: float, specs: Mapping[str, Spec], row: Row, lines: dict[str, float]
    ) -> float:
        at, by = now, ""
        for key, permits in row.scopes:
            free = self._free(now, key, specs[key], permits, row.slack)
            if free > at:
                at, by = free, key
        if at - now <= row.horizon_ms:
            for key, permits in row.scopes:
                self._take(key, specs[key], permits, at)
            return at - now
        step = _step(specs[by])
        line = specs.get(row.line or "")
        if step is not None and row.line and isinstance(line, Line) and line.scope == by:
            at = max(at, min(self.until.get(row.line, 0.0), now + LINE_MS))
            self.until[row.line] = at + step
        elif step is not None:
            at = max(at, lines.get(by, 0.0))
            lines[by] = at + step
        return -max(0.001, at - now)

    def _free(self, now: float, key: str, spec: Spec, permits: int, slack: float) -> float:
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
        case Paused() | Line():
            return None
