"""What a run asks for: a known set of deliveries, over every platform and every way in.

Pure: the same seed gives the same load. `producer` carries it out, `judge` compares with it.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from worker.platforms import platform
from worker.rendering.split import split

#: One of each class: nothing can be done about a doubt, asked, deduplicated by key (three).
PLATFORMS = ("telegram", "slack", "discord", "webhook", "matrix")
#: Chats of each platform to which replies go, and so must arrive in order.
_ORDERED_CHATS = 4
#: Deliveries of one broadcast.
_AUDIENCE = 50
_SCHEDULES = 12
#: Share of the single ones that are due later, and so become the relay's.
_DUE_LATER = 0.2
#: Seconds after the begin at which the first schedule fires: later than all are made.
_FIRES_AFTER_S = 1.5
#: Recipients of a broadcast that runs, most of them of one bot: more than are let go at once.
_RECIPIENTS = 300
_ITS_PLATFORMS = ("telegram", "telegram", "telegram", "telegram", "slack", "discord", "matrix")
#: A message with this in it kills its worker, where the fault is poison.
POISON = "poison"


class Way(StrEnum):
    """How a delivery was asked for."""

    ENQUEUE = "enqueue"
    #: A bare Celery message, from a producer that has nothing but the broker.
    TASK = "task"
    SCHEDULE = "schedule"
    BROADCAST = "broadcast"
    #: A broadcast that runs, of which the scheduler lets some go at a time.
    FED = "fed"


@dataclass(frozen=True, slots=True)
class Asked:
    """One delivery that was asked for; its target and text together are found nowhere else.

    Attributes:
        key: Of the row; `None` where the clock makes one.
        at_s: Seconds after the begin at which it is asked for.
        ordered: It must arrive after those of its chat that were asked for before.
        due_in_s: Seconds after asking at which it is due; 0 for at once.
    """

    n: int
    way: Way
    platform: str
    chat: str
    target: str
    text: str
    key: str | None
    at_s: float
    lane: str = "cron"
    policy: str = "resend"
    ordered: bool = False
    due_in_s: float = 0.0

    @property
    def parts(self) -> list[str]:
        """Give the texts that the platform should get."""
        capability = platform(self.platform).capability
        if not capability.splits:
            return [self.text]
        return split(self.text, limit=capability.max_length, measure=capability.measure)

    @property
    def is_poison(self) -> bool:
        """Tell whether it kills its worker."""
        return POISON in self.text


def plan(rng: random.Random, count: int, *, webhooks: str, over_s: float) -> list[Asked]:
    """Give a load in the order in which it is asked for.

    Args:
        webhooks: Base address of the receiver of webhooks.
        over_s: Seconds over which it is asked for.
    """
    broadcasts = count // 4 // _AUDIENCE or 1
    audience = count // 4 // broadcasts
    schedules = min(_SCHEDULES, count // 8)
    single = count - broadcasts * audience - schedules
    asked = [_single(rng, n, webhooks, over_s) for n in range(single)]
    asked += [
        _scheduled(rng, single + n, webhooks, rng.random() * over_s) for n in range(schedules)
    ]
    for b in range(broadcasts):
        at_s = rng.random() * over_s
        first = single + schedules + b * audience
        asked += [_in_broadcast(b, n, webhooks, at_s) for n in range(first, first + audience)]
    return sorted(asked, key=lambda each: (each.at_s, each.n))


def with_poison(rng: random.Random, asked: Sequence[Asked], count: int) -> list[Asked]:
    """Give a load in which some messages kill their worker."""
    poisoned = set(
        rng.sample([a.n for a in asked if a.way is Way.ENQUEUE and not a.ordered], count)
    )
    return [
        Asked(**{f: getattr(a, f) for f in a.__slots__ if f != "text"}, text=f"{a.text} {POISON}")
        if a.n in poisoned
        else a
        for a in asked
    ]


def with_broadcast(_rng: random.Random, asked: Sequence[Asked]) -> list[Asked]:
    """Give a load with a broadcast beside it that runs from the beginning."""
    return [*(_fed(n) for n in range(len(asked), len(asked) + _RECIPIENTS)), *asked]


def _fed(n: int) -> Asked:
    name = _ITS_PLATFORMS[n % len(_ITS_PLATFORMS)]
    chat = _chat(name, 1000 + n)
    return Asked(n, Way.FED, name, chat, f"{name}:{chat}", "to all who run", None, at_s=0.0)


def _single(rng: random.Random, n: int, webhooks: str, over_s: float) -> Asked:
    name = rng.choice(PLATFORMS)
    way = Way.TASK if rng.random() < 0.25 else Way.ENQUEUE
    ordered = way is Way.ENQUEUE and rng.random() < 0.5
    chat = _chat(name, rng.randrange(_ORDERED_CHATS) if ordered else 1000 + n)
    return Asked(
        n,
        way,
        name,
        chat,
        _target(name, chat, webhooks),
        _text(n, long=rng.random() < 0.04 and name in {"telegram", "discord"}),
        key=f"chaos-{n}",
        at_s=rng.random() * over_s,
        lane="reply" if ordered else "cron",
        policy="hold" if name == "telegram" and rng.random() < 0.2 else "resend",
        ordered=ordered,
        due_in_s=rng.uniform(0.5, 2.0) if not ordered and rng.random() < _DUE_LATER else 0.0,
    )


def _scheduled(rng: random.Random, n: int, webhooks: str, at_s: float) -> Asked:
    name = rng.choice(PLATFORMS)
    chat = _chat(name, 1000 + n)
    target = _target(name, chat, webhooks)
    return Asked(n, Way.SCHEDULE, name, chat, target, _text(n), None, at_s)


def _in_broadcast(b: int, n: int, webhooks: str, at_s: float) -> Asked:
    name = PLATFORMS[n % len(PLATFORMS)]
    chat = _chat(name, 1000 + n)
    target = _target(name, chat, webhooks)
    key = f"broadcast:b{b}:{target}"
    return Asked(n, Way.BROADCAST, name, chat, target, f"to all, number {b}", key, at_s)


def _chat(name: str, number: int) -> str:
    match name:
        case "telegram":
            return str(700_000_000 + number)
        case "slack":
            return f"C0CHAOS{number:04d}"
        case "discord":
            return str(900_000_000_000_000_000 + number)
        case "webhook":
            return f"hook-{number}"
        case _:
            return f"!room{number}:chaos"


def _target(name: str, chat: str, webhooks: str) -> str:
    return f"webhook:{webhooks}/{chat}" if name == "webhook" else f"{name}:{chat}"


def _text(n: int, *, long: bool = False) -> str:
    return " ".join(f"message {n} line {line}" for line in range(300 if long else 1))


def steps(asked: Sequence[Asked], begun: float) -> list[dict[str, Any]]:
    """Give what a producer has to do, in the order of time.

    Args:
        begun: When it begins, in Unix seconds.
    """
    named: dict[str, dict[str, Any]] = {}
    for a in asked:
        if a.way is Way.BROADCAST:
            name = str(a.key).split(":")[1]
            fields: dict[str, Any] = {"id": name, "to": [], "text": a.text}
            step = named.setdefault(name, _step(name, a.at_s, a.way, fields))
            step["fields"]["to"].append(a.target)
        elif a.way is Way.FED:
            step = named.setdefault("fed", _step("fed", a.at_s, a.way, {"to": [], "text": a.text}))
            step["fields"]["to"].append(a.target)
        elif a.way is Way.SCHEDULE:
            name = f"s{a.n}"
            at = datetime.fromtimestamp(begun + _FIRES_AFTER_S + a.at_s, UTC).isoformat()
            fields = {"name": name, "to": a.target, "text": a.text, "at": at}
            named[name] = _step(name, 0.0, a.way, fields)
        else:
            named[str(a.n)] = _step(str(a.n), a.at_s, a.way, single_fields(a))
    return sorted(named.values(), key=lambda step: float(step["at_s"]))


def single_fields(asked: Asked) -> dict[str, Any]:
    """Give the fields of a delivery that is asked for by itself."""
    fields = {
        "to": asked.target,
        "text": asked.text,
        "key": asked.key,
        "lane": asked.lane,
        "policy": asked.policy,
    }
    return {**fields, "due_in_s": asked.due_in_s} if asked.due_in_s else fields


def _step(name: str, at_s: float, way: str, fields: dict[str, Any]) -> dict[str, Any]:
    return {"id": name, "at_s": at_s, "way": way, "fields": fields}
