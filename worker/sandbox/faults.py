"""The faults that can be switched on, and how they come about.

Set through `/_sandbox/faults`, taken by the platforms' handlers. What `blocked` or a 429
looks like is each platform's own and stands in its file; here is what is the same.
"""

import asyncio
import math
import random
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import cast

from aiohttp import web


class Kind(StrEnum):
    """What goes wrong. All but `hang`, `drop` and `slow` are answered instead of accepting."""

    RATE_LIMITED = "429"
    ERROR = "500"
    BAD_GATEWAY = "502"
    UNAVAILABLE = "503"
    #: The message is accepted and the answer never comes.
    HANG = "hang"
    #: The message is accepted and the connection dropped.
    DROP = "drop"
    #: The answer comes late.
    SLOW = "slow"
    BLOCKED = "blocked"
    KICKED = "kicked"
    MIGRATED = "migrated"
    REVOKED = "revoked"
    #: Histories may not be read and chats not be opened; messages pass (Slack).
    MISSING_SCOPE = "missing_scope"


#: What can happen to a message.
OF_MESSAGES = frozenset(Kind) - {Kind.MISSING_SCOPE}
#: What a platform answers to its faults, by kind; what is not there is accepted.
Answers = Mapping[Kind, Callable[["Fault"], web.Response]]

PLATFORMS = ("telegram", "discord", "slack", "webhook")
_FIELDS = (
    *("platform", "chat", "fault", "times", "skip"),
    *("retry_after", "seconds", "jitter", "to", "global"),
)
#: Seconds that a hang and a slow answer take when nothing else is said.
_SECONDS = {Kind.HANG: 60.0, Kind.SLOW: 1.0}
#: Seconds between two looks at whether a hanging client is still there.
_LOOK_S = 0.1


class BadControl(ValueError):
    """What was asked of the control API cannot be; the message says what would be right."""


@dataclass(slots=True)
class Fault:
    """One switched-on fault.

    Attributes:
        chat: Only in this chat; `None` in all of them.
        times: How often it still happens; `None` until it is cleared.
        skip: How many messages pass before it happens.
        retry_after_s: What the platform is to say; `None` leaves it to the platform's handler.
        jitter_s: Up to how many seconds it takes longer, each time another time.
        to: The new id of a migrated group.
        everywhere: A 429 that names the bot's global limit (Discord).
    """

    platform: str
    kind: Kind
    chat: str | None = None
    times: int | None = None
    skip: int = 0
    retry_after_s: float | None = None
    seconds: float = 0.0
    jitter_s: float = 0.0
    to: str | None = None
    everywhere: bool = False

    def as_json(self) -> dict[str, object]:
        """Give the object that `/_sandbox/faults` takes and lists."""
        return {
            "platform": self.platform,
            "chat": self.chat,
            "fault": self.kind.value,
            "times": self.times,
            "skip": self.skip,
            "retry_after": self.retry_after_s,
            "seconds": self.seconds,
            "jitter": self.jitter_s,
            "to": self.to,
            "global": self.everywhere,
        }


class Faults:
    """The faults that are on, in the order in which they were set."""

    def __init__(self) -> None:
        self._on: list[Fault] = []

    def add(self, fault: Fault) -> None:
        """Switch a fault on."""
        self._on.append(fault)

    def clear(self) -> None:
        """Switch everything off."""
        self._on.clear()

    def listed(self) -> list[Fault]:
        """List what is on."""
        return list(self._on)

    def take(
        self, platform: str, chats: Collection[str | None], kinds: Collection[Kind] = OF_MESSAGES
    ) -> Fault | None:
        """Give the first fault that is on for a request, and count it.

        A message to where a group has migrated to is past that migration.
        """
        for fault in self._on:
            hits = fault.platform == platform and fault.kind in kinds
            if hits and fault.chat in {None, *chats} and fault.to not in {*chats} - {None}:
                if fault.skip:
                    fault.skip -= 1
                    continue
                if fault.times is not None:
                    fault.times -= 1
                    if fault.times == 0:
                        self._on.remove(fault)
                return fault
        return None


def read_fault(value: object) -> Fault:
    """Read a fault as `/_sandbox/faults` takes it.

    Raises:
        BadControl: It is not one.
    """
    if not isinstance(value, dict):
        raise BadControl('a fault is a JSON object like {"platform": "slack", "fault": "429"}')
    given = cast("dict[str, object]", value)
    unknown = sorted(set(given) - set(_FIELDS))
    if unknown:
        raise BadControl(f"unknown field {unknown[0]!r}; there are {', '.join(_FIELDS)}")
    platform = given.get("platform")
    if platform not in PLATFORMS:
        raise BadControl(f"platform must be one of {', '.join(PLATFORMS)}, not {platform!r}")
    kind = _read_kind(given.get("fault"))
    if kind is Kind.MISSING_SCOPE and platform != "slack":
        raise BadControl("missing_scope is Slack's")
    to = _read_id(given, "to")
    if (kind is Kind.MIGRATED) != (to is not None) or (to and platform != "telegram"):
        raise BadControl("migrated is Telegram's, and it alone takes the new chat id as 'to'")
    if to and not to.removeprefix("-").isdecimal():
        raise BadControl(f"'to' must be a Telegram chat id, a whole number, not {to!r}")
    return Fault(
        platform=str(platform),
        kind=kind,
        chat=_read_id(given, "chat"),
        times=_read_times(given.get("times")),
        skip=0 if given.get("skip") in {None, 0} else _read_times(given["skip"], "skip") or 0,
        retry_after_s=_read_seconds(given, "retry_after"),
        seconds=_read_seconds(given, "seconds") or _SECONDS.get(kind, 0.0),
        jitter_s=_read_seconds(given, "jitter") or 0.0,
        to=to,
        everywhere=given.get("global") is True,
    )


def _read_kind(value: object) -> Kind:
    try:
        return Kind(str(value))
    except ValueError:
        raise BadControl(f"fault must be one of {', '.join(Kind)}, not {value!r}") from None


def _read_id(given: dict[str, object], name: str) -> str | None:
    value = given.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise BadControl(f"{name!r} must be a chat id, not {value!r}")
    return str(value)


def _read_times(value: object, name: str = "times") -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise BadControl(f"{name!r} must be a whole number from 1, or null, not {value!r}")
    return value


def _read_seconds(given: dict[str, object], name: str) -> float | None:
    value = given.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadControl(f"{name!r} must be seconds, not {value!r}")
    if not math.isfinite(value) or value < 0:
        raise BadControl(f"{name!r} must be seconds from 0, not {value!r}")
    return float(value)


def answer_fault(answers: Answers, fault: Fault | None) -> web.Response | None:
    """Give a platform's answer to a fault; `None` when the message is accepted all the same."""
    make = None if fault is None else answers.get(fault.kind)
    return None if fault is None or make is None else make(fault)


def edge_answer(fault: Fault) -> web.Response:
    """Give the page of the proxy in front of a platform, which is not JSON."""
    title = {Kind.BAD_GATEWAY: "502 Bad Gateway"}.get(fault.kind, "503 Service Unavailable")
    headers = {}
    if fault.retry_after_s is not None:
        headers["Retry-After"] = str(math.ceil(fault.retry_after_s))
    page = f"<html><head><title>{title}</title></head><body><h1>{title}</h1></body></html>"
    return web.Response(
        status=int(fault.kind.value), text=page, content_type="text/html", headers=headers
    )


async def hang(request: web.Request, fault: Fault, stopping: asyncio.Event) -> None:
    """Wait until the time is over, the client has left or the sandbox stops."""
    ends_s = time.monotonic() + fault.seconds + random.uniform(0, fault.jitter_s)  # noqa: S311 - no secret
    while (left_s := ends_s - time.monotonic()) > 0 and not stopping.is_set():
        if request.transport is None or request.transport.is_closing():
            return
        try:
            async with asyncio.timeout(min(_LOOK_S, left_s)):
                await stopping.wait()
        except TimeoutError:
            continue


def drop(request: web.Request) -> None:
    """Cut the connection without a word."""
    if request.transport is not None:
        request.transport.abort()
