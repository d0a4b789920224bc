"""Targets: where a delivery goes, as people write it.

`platform:chat`, `platform:chat#thread`, `platform@account:chat`, `user:alice`, and
`webhook:https://...`. Only the first `:` splits, because ids may contain more of them.
Pure; called at the door and when a route is chosen.
"""

import re
from dataclasses import dataclass

from worker.errors import Refused
from worker.platforms import platform
from worker.platforms.base import ChecksThreads

#: The pseudo-platform of a person, who is reached by a route.
USER = "user"

_HEAD = re.compile(r"(?P<platform>[a-z][a-z0-9_-]*)(?:@(?P<account>[A-Za-z0-9_-]+))?")
_FORM = "a target reads platform:chat, platform:chat#thread, platform@account:chat or user:name"


@dataclass(frozen=True, slots=True)
class Target:
    """One place, or one person (`platform == "user"`).

    Attributes:
        account: Which of several bots; `""` is the platform's only or first one.
        thread: `None` outside threads.

    """

    platform: str
    chat_id: str
    account: str = ""
    thread: str | None = None

    @property
    def is_person(self) -> bool:
        """Tell whether a route has to be found for it."""
        return self.platform == USER

    def __str__(self) -> str:
        """Give the form that `parse_target` reads."""
        account = f"@{self.account}" if self.account else ""
        thread = f"#{self.thread}" if self.thread else ""
        return f"{self.platform}{account}:{self.chat_id}{thread}"


def parse_target(text: str) -> Target:
    """Read a target.

    Raises:
        Refused: Unknown platform or malformed target; says what would be right.

    """
    head, colon, rest = text.partition(":")
    match = _HEAD.fullmatch(head)
    if not colon or match is None:
        raise Refused(f"{text!r} is not a target: {_FORM}")
    if not rest or rest != rest.strip() or not rest.isprintable():
        raise Refused(f"{text!r} names no chat: {_FORM}")
    name, account = match["platform"], match["account"] or ""
    if name == USER:
        if account:
            raise Refused(f"{text!r}: a person has no account; write user:{rest}")
        return Target(USER, rest)
    adapter = platform(name)
    chat, thread = rest, None
    if adapter.capability.threads:
        chat, thread = _split_thread(rest, colon_in_ids=adapter.capability.colon_in_ids)
    if wrong := adapter.check_chat(chat):
        raise Refused(f"{text!r} is not a {name} target: {wrong}")
    if thread is not None:
        check_thread(name, thread)
    return Target(name, chat, account, thread)


def check_thread(name: str, thread: str) -> None:
    """Refuse a thread id that its platform would not understand.

    Raises:
        Refused: Says what would be right.
    """
    adapter = platform(name)
    wrong = adapter.check_thread(thread) if isinstance(adapter, ChecksThreads) else None
    if wrong:
        raise Refused(f"{thread!r} is not a {name} thread: {wrong}")


def _split_thread(rest: str, *, colon_in_ids: bool) -> tuple[str, str | None]:
    """Split a chat from its thread; `#` never starts a thread as an id's first character."""
    for mark in "#" if colon_in_ids else "#:":
        at = rest.find(mark, 1)
        if at != -1:
            if at == len(rest) - 1:
                raise Refused(f"{rest!r} names an empty thread: leave {mark!r} away or name one")
            return rest[:at], rest[at + 1 :]
    return rest, None
