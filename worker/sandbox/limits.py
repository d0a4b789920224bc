"""The platforms' rate limits, with the numbers that they publish or that were observed.

Asked by the handlers before a message is accepted. Pure but for the clock that is given.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

#: Keys of one limit that are remembered; above it the ones that no longer hold go.
_MOST_KEYS = 100_000


class Limit(Protocol):
    """One limit, counted separately for each key."""

    def wait_s(self, key: str, now_s: float) -> float:
        """Give the seconds until a request may pass; 0 when it may now."""
        ...

    def take(self, key: str, now_s: float) -> None:
        """Count a request that passed."""
        ...


class Pace:
    """A steady pace with a short burst: Telegram's and Slack's kind of limit."""

    def __init__(self, every_s: float, burst: int) -> None:
        self._every_s = every_s
        self._slack_s = every_s * (burst - 1)
        self._due_s: dict[str, float] = {}

    def wait_s(self, key: str, now_s: float) -> float:
        """Give the seconds until the key's pace allows one more."""
        return max(0.0, self._due_s.get(key, now_s) - self._slack_s - now_s)

    def take(self, key: str, now_s: float) -> None:
        """Move the key's next due time on."""
        if len(self._due_s) > _MOST_KEYS:
            self._due_s = {k: due_s for k, due_s in self._due_s.items() if due_s > now_s}
        self._due_s[key] = max(self._due_s.get(key, now_s), now_s) + self._every_s


@dataclass(slots=True)
class _Open:
    ends_s: float
    used: int = 0


class Window:
    """So many in a window that opens with the first: Discord's kind of limit."""

    def __init__(self, limit: int, period_s: float) -> None:
        self.limit = limit
        self._period_s = period_s
        self._open: dict[str, _Open] = {}

    def wait_s(self, key: str, now_s: float) -> float:
        """Give the seconds until the key's window ends, when it is used up."""
        window = self._open.get(key)
        if window is None or window.ends_s <= now_s or window.used < self.limit:
            return 0.0
        return window.ends_s - now_s

    def take(self, key: str, now_s: float) -> None:
        """Use one of the key's window; open one if none is."""
        if len(self._open) > _MOST_KEYS:
            self._open = {k: w for k, w in self._open.items() if w.ends_s > now_s}
        window = self._open.get(key)
        if window is None or window.ends_s <= now_s:
            window = self._open[key] = _Open(now_s + self._period_s)
        window.used += 1

    def left(self, key: str, now_s: float) -> tuple[int, float]:
        """Give how many are left in the key's window and in how many seconds it ends."""
        window = self._open.get(key)
        if window is None or window.ends_s <= now_s:
            return self.limit, self._period_s
        return max(0, self.limit - window.used), window.ends_s - now_s


@dataclass(slots=True)
class Limits:
    """The limits of all platforms; `on` is the switch."""

    on: bool = True
    clock: Callable[[], float] = time.monotonic
    #: "Avoid sending more than one message per second" in a chat; short bursts pass.
    telegram_chat: Pace = field(default_factory=lambda: Pace(1.0, burst=3))
    #: "Not more than 20 messages per minute" in a group.
    telegram_group: Pace = field(default_factory=lambda: Pace(3.0, burst=20))
    #: "About 30 messages per second" over all chats.
    telegram_bot: Pace = field(default_factory=lambda: Pace(1 / 30, burst=30))
    #: Observed for messages in one channel.
    discord_channel: Window = field(default_factory=lambda: Window(5, 5.0))
    #: Documented for a bot's requests of all kinds.
    discord_bot: Window = field(default_factory=lambda: Window(50, 1.0))
    #: "One message per second per channel", short bursts pass.
    slack_channel: Pace = field(default_factory=lambda: Pace(1.0, burst=3))
    #: "50+ per minute", counted by method: Slack's tier 3.
    slack_reading: Pace = field(default_factory=lambda: Pace(1.2, burst=20))

    def admit(self, scopes: Sequence[tuple[Limit, str]]) -> float:
        """Count a request against all of its limits, or give the seconds to wait.

        A request that has to wait counts against none of them.
        """
        if not self.on:
            return 0.0
        now_s = self.clock()
        wait_s = max(limit.wait_s(key, now_s) for limit, key in scopes)
        if wait_s == 0.0:
            for limit, key in scopes:
                limit.take(key, now_s)
        return wait_s
