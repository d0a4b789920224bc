"""Children: the processes that `mirrorpost up` keeps running, and what they print.

Each is the head of its own process group and announces itself to the guardian.
"""

import os
import subprocess
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TextIO

from scheduler.guardian import Guardian, end, kill_group

#: Seconds before a child that ended starts again: the first time, and at most.
FIRST_WAIT_S = 1.0
LONGEST_WAIT_S = 30.0
#: Seconds of running after which a child counts as well again.
WELL_AFTER_S = 60.0
#: Seconds that the last lines of a child that ended get to be read.
_LAST_LINES_S = 1.0
_WIDTH = 9
_COLOURS = {"worker": 36, "scheduler": 35, "sandbox": 33, "redis": 32}


class Screen:
    """Where the children's lines go, each with the name of its process before it."""

    def __init__(self, to: TextIO) -> None:
        self._to = to
        self._colour = to.isatty()
        self._lock = threading.Lock()

    def show(self, name: str, line: str) -> None:
        """Print one line of a process."""
        prefix = f"{name:<{_WIDTH}} |"
        if self._colour:
            prefix = f"\033[{_COLOURS.get(name, 37)}m{prefix}\033[0m"
        self.write(f"{prefix} {line}\n")

    def write(self, text: str) -> None:
        """Print text as it is."""
        # A reader that is gone, as in `mirrorpost up | head`, must stall no child.
        try:
            with self._lock:
                self._to.write(text)
                self._to.flush()
        except OSError:
            return


@dataclass(frozen=True, slots=True)
class Program:
    """What to run.

    Attributes:
        environment: Added to the environment of `up`.
        ends_in_round: The lower ones are ended first.
    """

    name: str
    command: tuple[str, ...]
    ends_in_round: int
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)


class Child:
    """One program, started again whenever it ends."""

    def __init__(self, program: Program, guardian: Guardian, screen: Screen) -> None:
        self.program = program
        self.started_s = 0.0
        self._guardian = guardian
        self._screen = screen
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: threading.Thread | None = None
        self._wait_s = FIRST_WAIT_S
        self._due_s = 0.0

    @property
    def pid(self) -> int | None:
        """Give the process id, `None` while nothing runs."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start it."""
        self._process = self._guardian.start(
            self.program.command,
            ends_in_round=self.program.ends_in_round,
            environment={**os.environ, **self.program.environment},
        )
        self.started_s = time.monotonic()
        self._reader = threading.Thread(
            target=self._read, args=(self._process,), name=self.program.name, daemon=True
        )
        self._reader.start()

    def has_ended(self) -> bool:
        """Tell whether nothing runs."""
        return self._process is None or self._process.poll() is not None

    def keep_running(self, now_s: float) -> None:
        """Start it again, after a time that doubles while it does not stay."""
        if self._process is not None and self.has_ended():
            if now_s - self.started_s >= WELL_AFTER_S:
                self._wait_s = FIRST_WAIT_S
            self._screen.show(
                self.program.name,
                f"ended with status {self._process.returncode}, starts again in {self._wait_s:g} s",
            )
            self._due_s = now_s + self._wait_s
            self._wait_s = min(self._wait_s * 2, LONGEST_WAIT_S)
            self.bury()
        if self._process is None and now_s >= self._due_s:
            self.start()

    def kill(self) -> None:
        """Kill it with all its processes; `keep_running` then starts it again."""
        if self._process is not None:
            kill_group(self._process.pid)
            self._process.wait()

    def watch_again(self, guardian: Guardian) -> None:
        """Pass over to another guardian."""
        self._guardian = guardian
        if self._process is not None:
            guardian.watch(self._process.pid, self.program.ends_in_round)

    def bury(self) -> None:
        """End what the ended process left behind, and forget it."""
        if self._process is None or self._reader is None:
            return
        kill_group(self._process.pid)
        self._process.wait()
        self._guardian.forget(self._process.pid)
        self._reader.join(_LAST_LINES_S)
        self._process = None

    def _read(self, process: subprocess.Popen[bytes]) -> None:
        if process.stdout is None:
            return
        with process.stdout as lines:
            for line in lines:
                self._screen.show(self.program.name, line.decode(errors="replace").rstrip())


def end_all(children: Collection[Child], *, within_s: float, hurry: Callable[[], bool]) -> None:
    """End children round by round, each within so many seconds, and leave nothing of them."""
    for each in sorted({child.program.ends_in_round for child in children}):
        of_round = {
            child.pid: child
            for child in children
            if child.pid is not None and child.program.ends_in_round == each
        }
        end(list(of_round), within_s=within_s, gone=partial(_has_ended, of_round), hurry=hurry)
        for child in of_round.values():
            child.bury()


def _has_ended(children: Mapping[int, Child], pid: int) -> bool:
    return children[pid].has_ended()
