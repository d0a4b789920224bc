"""The processes of a run: kept running, killed, frozen, replaced."""

import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.processes import kill, spawn
from tests.workers import Running


@dataclass(slots=True)
class _Supervised:
    """A process that is started again when it has ended.

    Attributes:
        once: Not when it has done its work.
        held: It is meant to stay away.
    """

    command: Sequence[str]
    env: Mapping[str, str]
    running: Running
    once: bool
    held: bool = False


class Supervisor:
    """Start processes, and start again whatever has died.

    Attributes:
        killed: How many it was told to kill.
    """

    def __init__(self, folder: Path, cwd: Path) -> None:
        self.killed = 0
        self._folder = folder
        self._cwd = cwd
        self._supervised: dict[str, _Supervised] = {}
        self._started = 0

    def named(self, role: str) -> list[str]:
        """Name the processes of a role."""
        return [name for name in self._supervised if name.startswith(role)]

    def pid(self, name: str) -> int:
        """Give the process id of a process."""
        return self._supervised[name].running.process.pid

    def children(self, name: str) -> list[psutil.Process]:
        """Give the pool of a worker."""
        try:
            return list(psutil.Process(self.pid(name)).children())
        except psutil.NoSuchProcess:
            return []

    def kill(self, name: str) -> None:
        """Kill a process with all its children; it is started again at the next look."""
        self.killed += 1
        kill(self._supervised[name].running.process)

    def kill_one(self, process: psutil.Process) -> None:
        """Kill one process of a group."""
        self.killed += 1
        process.kill()

    def stop_and_start(self, name: str) -> None:
        """Ask a process to end and start it again when it has, as a rolling release does."""
        supervised = self._supervised[name]
        supervised.held = True
        supervised.running.end(within_s=15.0)
        supervised.held = False
        self.look()

    def freeze(self, name: str) -> None:
        """Stop a worker and its pool in the middle of whatever they do."""
        for process in (psutil.Process(self.pid(name)), *self.children(name)):
            process.suspend()

    def thaw(self, name: str) -> None:
        """Let a frozen worker go on."""
        for process in (*self.children(name), psutil.Process(self.pid(name))):
            process.resume()

    def look(self) -> None:
        """Start again whatever has died, but not what has done its work."""
        for name, each in self._supervised.items():
            status = each.running.process.poll()
            if each.held or status is None or (each.once and status == 0):
                continue
            if status == -signal.SIGKILL:
                kill(each.running.process)
            each.running = self._spawn(name, each.command, each.env)

    def start(
        self, name: str, command: Sequence[str], env: Mapping[str, str], *, once: bool
    ) -> None:
        """Start a process and keep it running, with `once` until it has done its work."""
        running = self._spawn(name, command, env)
        self._supervised[name] = _Supervised(command, env, running, once)

    def awaits(self, name: str, words: str) -> None:
        """Wait until a process has printed something."""
        self._supervised[name].running.has_printed(words)

    def have_ended(self, role: str) -> bool:
        """Tell whether all processes of a role have done their work."""
        names = self.named(role)
        return all(self._supervised[n].running.process.poll() == 0 for n in names)

    def close(self) -> None:
        """End everything at once."""
        for each in self._supervised.values():
            each.held = True
            kill(each.running.process)

    def _spawn(self, name: str, command: Sequence[str], env: Mapping[str, str]) -> Running:
        self._started += 1
        log = self._folder / f"{name}-{self._started}.log"
        process: subprocess.Popen[bytes] = spawn(
            [sys.executable, *command], log=log, env=env, cwd=self._cwd
        )
        return Running(process, log)
