"""Pace: how fast a platform lets one bot write to many, and what it takes for it."""

from math import ceil

#: Messages a second over all chats of one bot; `None` where only each chat has its limit.
_PER_SECOND: dict[str, float | None] = {
    # https://core.telegram.org/bots/faq: 30 a second, with a margin for the clocks between.
    "telegram": 29.4,
    # https://discord.com/developers/docs/topics/rate-limits: 50 a second, all of a bot's requests.
    "discord": 48.6,
    # https://docs.slack.dev/apis/web-api/rate-limits: 1 a second in each channel.
    "slack": None,
}


def pace_of(platform: str, account: str) -> float | None:  # noqa: ARG001 - limits can be a bot's own
    """Give the messages a second that one bot may send; `None` where it has no limit of its own."""
    return _PER_SECOND.get(platform)


def seconds_for(platform: str, account: str, messages: int) -> int | None:
    """Give the seconds that messages take at least; `None` where nothing is known of it."""
    pace = pace_of(platform, account)
    return None if pace is None else ceil(messages / pace)
