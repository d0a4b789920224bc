"""Pace: how many messages a second a bot can send."""

#: Messages a second, a little below what the platform allows a bot.
_PACES = {"telegram": 29.4, "discord": 48.6}


def pace_of(platform: str, account: str) -> float | None:  # noqa: ARG001 - a bot's own pace
    """Give the messages a second that a bot can send; `None` where only chats have limits."""
    return _PACES.get(platform)
