"""The platforms: one file each, found by name; others come through entry points.

A distribution adds one with `[project.entry-points."mirrorpost.platforms"]`, naming an
adapter or a class that makes one without arguments; see `worker.platforms.base.Platform`.
"""

from collections.abc import Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType

from worker.errors import Misconfigured, Refused
from worker.platforms.base import Platform
from worker.platforms.console import Console
from worker.platforms.discord import Discord
from worker.platforms.matrix import Matrix
from worker.platforms.slack import Slack
from worker.platforms.telegram import Telegram
from worker.platforms.webhook import Webhook

__all__ = ["ENTRY_POINT_GROUP", "platform", "platforms"]

ENTRY_POINT_GROUP = "mirrorpost.platforms"


@cache
def platforms() -> Mapping[str, Platform]:
    """Give every platform by its name, read once for this process.

    Raises:
        Misconfigured: An entry point gives no platform, or one whose name is taken.
    """
    built_in = (Telegram(), Discord(), Slack(), Matrix(), Webhook(), Console())
    known: dict[str, Platform] = {adapter.name: adapter for adapter in built_in}
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        adapter = _load(entry)
        if adapter.name in known:
            raise Misconfigured(
                f"entry point {entry.name} = {entry.value}: there is a platform "
                f"{adapter.name!r} already; give it another name"
            )
        known[adapter.name] = adapter
    return MappingProxyType(known)


def platform(name: str) -> Platform:
    """Give the platform of a name.

    Raises:
        Refused: There is none; lists those that there are.
    """
    known = platforms()
    if name not in known:
        raise Refused(f"unknown platform {name!r}; known are {', '.join(sorted(known))}")
    return known[name]


def _load(entry: EntryPoint) -> Platform:
    where = f"entry point {entry.name} = {entry.value}"
    # Importing foreign code can raise anything.
    try:
        loaded = entry.load()
        adapter = loaded() if isinstance(loaded, type) else loaded
    except Exception as error:
        raise Misconfigured(f"{where}: cannot be loaded: {error}") from error
    if not isinstance(adapter, Platform):
        raise Misconfigured(
            f"{where}: gives no platform; it needs name, capability, variables, "
            "check_chat, request and outcome"
        )
    return adapter
