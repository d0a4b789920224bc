"""Message ids as each platform makes them: unique, rising, in the platform's own form."""

import time
from collections import Counter
from itertools import count

#: Discord's epoch, milliseconds after Unix's.
_DISCORD_EPOCH_MS = 1_420_070_400_000


class Ids:
    """The last id given out of each kind."""

    def __init__(self) -> None:
        self._per_chat: Counter[str] = Counter()
        self._last_snowflake = 0
        self._last_ts_us = 0
        self._direct: dict[str, str] = {}
        self._persons: dict[str, str] = {}
        self._webhooks = count(1)

    def telegram(self, chat: str) -> int:
        """Give the next message number of a chat."""
        self._per_chat[chat] += 1
        return self._per_chat[chat]

    def is_telegram_message(self, chat: str, number: int) -> bool:
        """Tell whether a chat has had a message of this number."""
        return 0 < number <= self._per_chat[chat]

    def snowflake(self) -> str:
        """Give a Discord id; its upper bits are the time in milliseconds."""
        now = (time.time_ns() // 1_000_000 - _DISCORD_EPOCH_MS) << 22
        self._last_snowflake = max(now, self._last_snowflake + 1)
        return str(self._last_snowflake)

    def slack_ts(self) -> str:
        """Give a Slack `ts`: seconds, and microseconds that are never the same twice."""
        self._last_ts_us = max(time.time_ns() // 1_000, self._last_ts_us + 1)
        return f"{self._last_ts_us // 1_000_000}.{self._last_ts_us % 1_000_000:06d}"

    def discord_direct(self, person: str) -> str:
        """Give the direct channel with a person, the same one every time."""
        if person not in self._direct:
            channel = self.snowflake()
            self._direct[person], self._persons[channel] = channel, person
        return self._direct[person]

    def discord_person(self, channel: str) -> str | None:
        """Give the person whose direct channel this is."""
        return self._persons.get(channel)

    def webhook(self) -> str:
        """Give the next number of a received webhook."""
        return f"wh_{next(self._webhooks)}"
