"""What is measured of a contender, and how: messages, seconds, CPU of a process tree."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from signal import SIGCONT, SIGSTOP

import psutil

from tests.bench.loopback import Platform
from tests.servers import PostgresServer, RedisServer

#: Chats that the messages go round: so many that the limit of none holds a message up.
CHATS = 6000
#: Characters of a text; with its chat the POST's body has 300 bytes.
TEXT_LENGTH = 266
#: Messages that go first and are not counted: connections, imports and caches.
WARM_UP = 200


@dataclass(frozen=True, slots=True)
class Measurement:
    """One run of one contender.

    Attributes:
        messages: Messages that arrived and were done with, once each.
        seconds: From the start to when the client was done with the last one.
        cpu_s: CPU seconds of the client's process tree in that time, without the platform's
            and the database servers'.
        enqueue_cpu_s: CPU seconds that the producer took before, where there is one.
    """

    messages: int
    seconds: float
    cpu_s: float
    enqueue_cpu_s: float | None = None

    @property
    def rate(self) -> float:
        """Give messages a second."""
        return self.messages / self.seconds

    @property
    def cpu_ms(self) -> float:
        """Give milliseconds of CPU a message."""
        return self.cpu_s * 1000 / self.messages

    @property
    def enqueue_ms(self) -> float | None:
        """Give milliseconds of CPU a message of the producer."""
        return None if self.enqueue_cpu_s is None else self.enqueue_cpu_s * 1000 / self.messages


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a contender is given: the platform and the servers, all warm."""

    platform: Platform
    redis: RedisServer
    postgres: PostgresServer


@dataclass(frozen=True, slots=True)
class Contender:
    """One way to send messages.

    Attributes:
        share: Part of the wanted messages that it sends: slow ones take as long with fewer.
        run: Sends so many messages and gives what it took.
    """

    name: str
    run: Callable[[Surroundings, int], Measurement]
    share: float = 1.0


def chat(number: int) -> int:
    """Give the chat of a message."""
    return 10_000_000 + number % CHATS


def tree_cpu_s(pids: list[int]) -> float:
    """Give the CPU seconds so far of processes and their living children."""
    total = 0.0
    for pid in pids:
        for process in (root := psutil.Process(pid), *root.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                total += times.user + times.system
    return total


@contextmanager
def held(pid: int) -> Iterator[None]:
    """Freeze a process tree, so that what is given to it meanwhile waits."""
    root = psutil.Process(pid)
    tree = [root, *root.children(recursive=True)]
    for process in tree:
        process.send_signal(SIGSTOP)
    try:
        yield
    finally:
        for process in reversed(tree):
            process.send_signal(SIGCONT)


def tail(log: Path, lines: int = 30) -> str:
    """Give the end of a log, for an error."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
