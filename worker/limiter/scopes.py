"""Scopes: which limits a message falls under, as keys, and how much of each is used.

Pure. What a platform takes stands in its capability; a bot's own pace can be set.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from worker.errors import Misconfigured
from worker.lanes import Lane
from worker.platforms import platforms
from worker.platforms.base import Capability, Counts, Pace, Window
from worker.settings import limit_of

#: Share of a platform's limit that is used: its clock and ours, and the way between them, differ.
HEADROOM = 0.985
#: Share of a bot's pace that broadcasts may take together; the rest is kept for the lanes above.
BROADCAST_SHARE = 0.99
#: Milliseconds ahead for which permits are given. A broadcast has never more than that before a
#: reply that comes now.
HORIZON_MS = 250.0
#: Which share of the burst that a scope allows each lane may use.
SLACK = {Lane.REPLY: 1.0, Lane.REMINDER: 0.8, Lane.CRON: 0.5, Lane.BROADCAST: 0.0}

_PREFIX = "mirrorpost:limit:"
_SET = re.compile(r"([0-9]+(?:\.[0-9]+)?)/(s|m)")
_PER_MINUTE = 60.0


@dataclass(frozen=True, slots=True)
class Paced:
    """One permit every `pace_ms`, and after a rest as many at once as `slack_ms` holds."""

    pace_ms: float
    slack_ms: float


@dataclass(frozen=True, slots=True)
class Windowed:
    """At most `count` permits in any `period_ms`."""

    count: int
    period_ms: float


@dataclass(frozen=True, slots=True)
class Paused:
    """Nothing until a time that a platform named."""


@dataclass(frozen=True, slots=True)
class Line:
    """Those of a lane that wait for a scope, each to come again in its turn."""

    scope: str


Spec = Paced | Windowed | Paused | Line


@dataclass(frozen=True, slots=True)
class Row:
    """What is asked for one message.

    Attributes:
        horizon_ms: A permit may be for so long ahead.
        slack: Share of a scope's burst that it may use.
        line: The key of its `Line`.
        scopes: Keys, each with the permits that the message costs.
    """

    horizon_ms: float
    slack: float
    line: str | None
    scopes: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Rates:
    """A bot's limits as they are for it.

    Attributes:
        limited: Whether there are any; the pauses that a platform names hold always.
        per_s: Its pace over all chats, `None` for no limit of that kind.
    """

    limited: bool
    per_s: float | None
    burst: int


@cache
def rates(platform: str, account: str) -> Rates:
    """Give a bot's limits: what is set for it, else what its platform takes.

    Raises:
        Misconfigured: What is set is not a limit.
    """
    adapter = platforms().get(platform)
    limits = adapter.capability.limits if adapter else ()
    of_bot = next((x for x in limits if isinstance(x, Pace) and x.counts is Counts.BOT), None)
    name, value = limit_of(platform, account)
    if value == "off":
        return Rates(limited=False, per_s=None, burst=1)
    if not value:
        return Rates(bool(limits), of_bot.per_s if of_bot else None, of_bot.burst if of_bot else 1)
    found = _SET.fullmatch(value)
    number = float(found[1]) / (1 if found[2] == "s" else _PER_MINUTE) if found else 0.0
    if number <= 0:
        raise Misconfigured(f"{name} must read 1000/s, 600/m or off, not {value!r}")
    return Rates(limited=True, per_s=number, burst=of_bot.burst if of_bot else 1)


def broadcast_pace(platform: str, account: str = "") -> float | None:
    """Give the messages a second that broadcasts of a bot may send; `None` for no limit."""
    per_s = rates(platform, account).per_s
    return None if per_s is None else per_s * HEADROOM * BROADCAST_SHARE


@cache
def of_bot(platform: str, account: str) -> tuple[tuple[str, Spec], ...]:
    """Give the scopes that all messages of a bot fall under; the second is the broadcasts'."""
    bot = rates(platform, account)
    if bot.per_s is None:
        return ()
    key, pace_ms = f"{_PREFIX}{platform}@{account}", 1000 / (bot.per_s * HEADROOM)
    return (
        (key, Paced(pace_ms, pace_ms * (bot.burst - 1))),
        (f"{key}#broadcast", Paced(pace_ms / BROADCAST_SHARE, 0.0)),
    )


def of_chat(
    platform: str, account: str, chat_id: str, learned: Mapping[str, Windowed]
) -> list[tuple[str, Spec]]:
    """Give the scopes of one chat.

    Args:
        learned: What a platform's answers said of chats, by key.
    """
    adapter = platforms().get(platform)
    if adapter is None or not rates(platform, account).limited:
        return []
    capability, found = adapter.capability, list[tuple[str, Spec]]()
    for limit in capability.limits:
        if limit.counts is Counts.BOT or _is_other_kind(limit, capability, chat_id):
            continue
        key = f"{_PREFIX}{platform}@{account}:{chat_id}:{limit.counts}"
        found.append((key, learned.get(key) or _spec(limit)))
    return found


def _is_other_kind(limit: Pace | Window, capability: Capability, chat_id: str) -> bool:
    return limit.counts is Counts.GROUP and not capability.is_group(chat_id)


def _spec(limit: Pace | Window) -> Spec:
    if isinstance(limit, Window):
        return Windowed(limit.count, limit.period_s * 1000 / HEADROOM)
    pace_ms = 1000 / (limit.per_s * HEADROOM)
    return Paced(pace_ms, pace_ms * (limit.burst - 1))


def chat_key(platform: str, account: str, chat_id: str) -> str:
    """Give the key under which what is learnt of a chat's limit counts."""
    return f"{_PREFIX}{platform}@{account}:{chat_id}:{Counts.CHAT}"


def pause_keys(platform: str, account: str, chat_id: str) -> tuple[str, str]:
    """Give the keys of a bot's and of a chat's pause."""
    bot = f"mirrorpost:pause:{platform}@{account}"
    return bot, f"{bot}:{chat_id}"
