"""Stand-ins: what points the platforms at the sandbox, and only when that was asked for.

Addresses and tokens go into the environment of the processes that `mirrorpost up --sandbox`
starts, in place of the real ones, which the sandbox never sees.
"""

import socket

#: The paths below the sandbox's address, as `RunningSandbox.base_urls` has them.
_PATHS = {
    "TELEGRAM_API_BASE": "/telegram",
    "DISCORD_API_BASE": "/discord/api/v10",
    "SLACK_API_BASE": "/slack/api",
}
#: In the shape that each platform's own has; long and odd, so that they are masked and found.
_TOKENS = {
    "TELEGRAM_BOT_TOKEN": "1000000001:SANDBOX-stand-in-telegram-token",
    "DISCORD_BOT_TOKEN": "SANDBOX.stand-in-discord-token",
    "SLACK_BOT_TOKEN": "xoxb-SANDBOX-stand-in-slack-token",
}
#: Platforms that the sandbox stands in for.
STOOD_IN = ("telegram", "discord", "slack")


def sandbox_environment(url: str) -> dict[str, str]:
    """Give the variables that lead to the sandbox at a URL."""
    return {**{name: url + path for name, path in _PATHS.items()}, **_TOKENS}


def free_port() -> int:
    """Give a loopback port that nobody listens on, so that a restart finds it the same."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def is_open(port: int) -> bool:
    """Tell whether somebody listens on a loopback port."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0
