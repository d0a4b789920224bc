"""What the sandbox accepted and how often it was asked; told under `/_sandbox`.

Written by the platforms' handlers, read by `control` and by tests. Memory is bounded: the
oldest messages are forgotten first.
"""

from collections import Counter, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

#: Messages that are kept.
KEPT_MESSAGES = 200_000


@dataclass(slots=True)
class Accepted:
    """One message that a platform took.

    Attributes:
        chat: The chat as the request named it.
        recipient: The person, where the chat is a direct one that was opened.
        nonce: Discord's nonce, a webhook's id.
        extra: What only this platform has: Slack's metadata, a webhook's body and headers.
        text: As it reads now; of what was deleted, as it read last.
    """

    platform: str
    chat: str
    id: str
    text: str
    thread: str | None = None
    reply_to: str | None = None
    silent: bool = False
    nonce: str | None = None
    recipient: str | None = None
    extra: Mapping[str, object] = field(default_factory=dict)
    at: datetime = field(default_factory=lambda: datetime.now(UTC))
    edited: bool = False
    deleted: bool = False

    def is_in(self, chat: str) -> bool:
        """Tell whether it went into a chat, named by the chat's or the person's id."""
        return chat in {self.chat, self.recipient}

    def as_json(self) -> dict[str, object]:
        """Give the object that `/_sandbox/messages` lists."""
        return {
            "platform": self.platform,
            "chat": self.chat,
            "id": self.id,
            "text": self.text,
            "at": self.at.isoformat(),
            "thread": self.thread,
            "reply_to": self.reply_to,
            "silent": self.silent,
            "nonce": self.nonce,
            "recipient": self.recipient,
            "edited": self.edited,
            "deleted": self.deleted,
            **self.extra,
        }


class Store:
    """The accepted messages in order, and the answers counted by platform and status."""

    def __init__(self, kept: int = KEPT_MESSAGES) -> None:
        self._messages: deque[Accepted] = deque()
        self._kept = kept
        self._by_id: dict[tuple[str, str, str], Accepted] = {}
        self._answers: dict[str, Counter[str]] = {}

    def add(self, message: Accepted) -> Accepted:
        """Keep a message and give it back."""
        if len(self._messages) == self._kept:
            self._by_id.pop(_key(self._messages.popleft()), None)
        self._messages.append(message)
        self._by_id[_key(message)] = message
        return message

    def find(self, platform: str, chat: str, id_: str) -> Accepted | None:
        """Give a message that is there and not deleted."""
        found = self._by_id.get((platform, chat, id_))
        return None if found is None or found.deleted else found

    def messages(self, platform: str | None = None, chat: str | None = None) -> list[Accepted]:
        """List what was accepted, oldest first."""
        return [
            message
            for message in self._messages
            if platform in {None, message.platform} and (chat is None or message.is_in(chat))
        ]

    def newest_first(self, platform: str) -> Iterator[Accepted]:
        """Walk backwards what there is of a platform's messages."""
        return (m for m in reversed(self._messages) if m.platform == platform and not m.deleted)

    def forget_messages(self) -> None:
        """Forget every message; ids go on where they were."""
        self._messages.clear()
        self._by_id.clear()

    def count(self, platform: str, answer: str) -> None:
        """Count one request by how it was answered: a status, `hang` or `drop`."""
        self._answers.setdefault(platform, Counter())[answer] += 1

    def answers(self) -> dict[str, dict[str, int]]:
        """Give the number of requests by platform and answer."""
        return {platform: dict(counter) for platform, counter in self._answers.items()}

    def forget_answers(self) -> None:
        """Count from zero again."""
        self._answers.clear()


def _key(message: Accepted) -> tuple[str, str, str]:
    return (message.platform, message.chat, message.id)
