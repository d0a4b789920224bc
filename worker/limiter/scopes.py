"""Scopes: which limits a message falls under, as keys, and how much of each is used.

Pure. What a platform takes stands in its capability; a bot's own pace can be set.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from math import inf

from worker.errors import Misconfigured
from worker.lanes import Lane
from worker.platforms import platforms
from worker.platforms.base import Counts, Limit, Pace, Window
from worker.settings import limit_of, limits_set

#: Share of a platform's limit that is used: its clock and ours, and the way between them, differ.
HEADROOM = 0.99
#: Share of a bot's pace that broadcasts may take together; the rest is kept for the lanes above.
BROADCAST_SHARE = 0.995
#: Milliseconds ahead for which permits are given. A broadcast has never more than that before a
#: reply that comes now.
HORIZON_MS = 250.0
#: How much further ahead each lane is given one, in paces of its bot: so it comes before what
#: the lanes below ask for, also where no burst lets it pass.
FURTHER = {Lane.REPLY: 6, Lane.REMINDER: 4, Lane.CRON: 2, Lane.BROADCAST: 0}
#: Milliseconds; a slow pace lets nobody reserve further ahead.
FURTHEST_MS = 1500.0
#: Seconds by which a permit may be used late: those of a pace that stood still would leave all
#: at once, and more of them than the platform takes.
GOOD_S = 0.1
#: Which share of the burst that a scope allows each lane may use: broadcasts to make up for a
#: moment in which nobody asked.
SLACK = {Lane.REPLY: 1.0, Lane.REMINDER: 0.8, Lane.CRON: 0.5, Lane.BROADCAST: 0.25}

_PREFIX = "mirrorpost:limit:"
_PAUSED = "mirrorpost:pause:"
#: Entries of a row before its scopes.
_EMPTY = 3
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


Spec = Paced | Windowed | Paused


@dataclass(frozen=True, slots=True)
class Ask:
    """One message that wants to go.

    Attributes:
        permits: What it costs of its bot's pace.
    """

    platform: str
    account: str
    chat_id: str
    lane: Lane
    permits: int = 1


#: Of one message: the milliseconds ahead for which it may have a permit, the share of a scope's
#: burst that it may use, 1 if what waits of it stands in a line that all know, else 0, then the
#: place of each scope that it falls under with the permits that it costs there.
Row = list[float]


@dataclass(frozen=True, slots=True)
class Batch:
    """What is asked at once.

    Attributes:
        good_s: For how many seconds a permit of each is good; infinite where no limit is.
    """

    keys: list[str]
    specs: list[Spec]
    rows: list[Row]
    good_s: list[float]


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
    burst = of_bot.burst if of_bot else 1
    if not value:
        return Rates(bool(limits), of_bot.per_s if of_bot else None, burst)
    per_s = _per_s(name, value)
    return Rates(limited=per_s is not None, per_s=per_s, burst=burst)


def check_limits() -> None:
    """Demand that every pace that is set can be kept.

    Raises:
        Misconfigured: Names the variable.
    """
    for name, value in limits_set().items():
        _per_s(name, value)


def _per_s(name: str, value: str) -> float | None:
    """Read a pace; `None` for `off`."""
    if value == "off":
        return None
    found = _SET.fullmatch(value)
    number = float(found[1]) / (1 if found[2] == "s" else _PER_MINUTE) if found else 0.0
    if number <= 0:
        raise Misconfigured(f"{name} must read 1000/s, 600/m or off, not {value!r}")
    return number


def broadcast_pace(platform: str, account: str = "") -> float | None:
    """Give the messages a second that broadcasts of a bot may send; `None` for no limit."""
    per_s = rates(platform, account).per_s
    return None if per_s is None else per_s * HEADROOM * BROADCAST_SHARE


@dataclass(frozen=True, slots=True)
class _Plan:
    """What all messages of a bot in one lane have in common.

    Attributes:
        ahead_ms: Milliseconds ahead for which they may have a permit.
        good_s: Seconds for which a permit is good: where no burst is allowed, until the next.
        keeps_line: Those that wait come again one after the other, and not all at once.
        of_chat: What follows the chat in a key, the limit, and whether it is for groups alone.
    """

    ahead_ms: float
    good_s: float
    slack: float
    scopes: tuple[tuple[str, Spec], ...]
    keeps_line: bool
    chat: str
    of_chat: tuple[tuple[str, Spec, bool], ...]
    is_group: Callable[[str], bool] | None
    paused: str


@cache
def _plan(platform: str, account: str, lane: Lane) -> _Plan:
    bot, adapter = rates(platform, account), platforms().get(platform)
    capability = adapter.capability if adapter and bot.limited else None
    key = f"{_PREFIX}{platform}@{account}"
    scopes: list[tuple[str, Spec]] = []
    ahead_ms, good_s = HORIZON_MS, GOOD_S
    if bot.per_s is not None:
        pace_ms = 1000 / (bot.per_s * HEADROOM)
        ahead_ms = min(HORIZON_MS + FURTHER[lane] * pace_ms, FURTHEST_MS)
        scopes.append((key, Paced(pace_ms, pace_ms * (bot.burst - 1))))
        if bot.burst == 1:
            good_s = min(GOOD_S, pace_ms / 1000)
        if lane is Lane.BROADCAST:
            own_ms = pace_ms / BROADCAST_SHARE
            scopes.append((f"{key}#broadcast", Paced(own_ms, own_ms * (bot.burst - 1))))
    return _Plan(
        ahead_ms=ahead_ms,
        good_s=good_s,
        slack=SLACK[lane],
        scopes=tuple(scopes),
        keeps_line=lane is Lane.BROADCAST,
        chat=key,
        of_chat=tuple(
            (f":{limit.counts}", _spec(limit), limit.counts is Counts.GROUP)
            for limit in (capability.limits if capability else ())
            if limit.counts is not Counts.BOT
        ),
        is_group=capability.is_group if capability else None,
        paused=f"{_PAUSED}{platform}@{account}",
    )


def batch(asks: Iterable[Ask], learned: Mapping[str, Windowed]) -> Batch:
    """Give the scopes that messages fall under; on the hot path of every turn.

    Args:
        learned: What a platform's answers said of chats, by key.
    """
    places: dict[str, int] = {}
    specs: list[Spec] = []
    rows: list[Row] = []
    good_s: list[float] = []

    def place(key: str, spec: Spec) -> int:
        found = places.get(key)
        if found is None:
            found = places[key] = len(specs)
            specs.append(spec)
        return found

    paused = Paused()
    for ask in asks:
        plan, chat_id = _plan(ask.platform, ask.account, ask.lane), ask.chat_id
        row: Row = [plan.ahead_ms, plan.slack, float(plan.keeps_line)]
        for key, spec in plan.scopes:
            row += place(key, spec), ask.permits
        for suffix, spec, of_group in plan.of_chat:
            if of_group and not (plan.is_group and plan.is_group(chat_id)):
                continue
            key = f"{plan.chat}:{chat_id}{suffix}"
            row += place(key, learned.get(key, spec) if learned else spec), 1
        good_s.append(plan.good_s if len(row) > _EMPTY else inf)
        row += place(plan.paused, paused), 1, place(f"{plan.paused}:{chat_id}", paused), 1
        rows.append(row)
    return Batch(list(places), specs, rows, good_s)


def _spec(limit: Limit) -> Spec:
    if isinstance(limit, Window):
        return Windowed(limit.count, limit.period_s * 1000 / HEADROOM)
    pace_ms = 1000 / (limit.per_s * HEADROOM)
    return Paced(pace_ms, pace_ms * (limit.burst - 1))


def chat_key(platform: str, account: str, chat_id: str) -> str:
    """Give the key under which what is learnt of a chat's limit counts."""
    return f"{_PREFIX}{platform}@{account}:{chat_id}:{Counts.CHAT}"


def pause_keys(platform: str, account: str, chat_id: str) -> tuple[str, str]:
    """Give the keys of a bot's and of a chat's pause."""
    bot = f"{_PAUSED}{platform}@{account}"
    return bot, f"{bot}:{chat_id}"
