"""The guardian: a small process that ends the others when the one that started them is gone.

`mirrorpost up` may be killed in a way that lets it do nothing more. Its children then have
nobody, so each announces itself here before it begins, and the end of this process's input is
the end of `up`. Runs as a script of its own; imports nothing but the standard library.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection
from contextlib import suppress

#: Seconds that a round of processes gets to end by itself: a worker with sends takes up to 9.
GRACE_S = 10.0
#: Seconds between two looks at whether its processes have ended.
_POLL_S = 0.05
#: Announces its own process id and round through what is its input, then becomes the program.
#: In the child itself, because whoever started it can be gone before it knew the id.
_ANNOUNCE = 'echo "+$$ $1" >&0 && shift && exec "$@" </dev/null'


class Guardian:
    """The process beside `up`, and the pipe that holds it back."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(  # noqa: S603 - this very file
            [sys.executable, "-I", "-S", __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            # Away from the terminal: Ctrl-C is for `up`.
            start_new_session=True,
        )
        assert self._process.stdin is not None  # noqa: S101 - it is a pipe
        self._pipe = self._process.stdin

    @property
    def pid(self) -> int:
        """Give its process id."""
        return self._process.pid

    def is_alive(self) -> bool:
        """Tell whether it still watches."""
        return self._process.poll() is None

    def start(
        self, command: Collection[str], *, ends_in_round: int, environment: dict[str, str]
    ) -> subprocess.Popen[bytes]:
        """Start a program in a process group of its own that ends when we do.

        Args:
            command: Program and arguments.
            ends_in_round: The lower ones are ended first.
            environment: The whole environment.
        """
        return subprocess.Popen(  # noqa: S603 - the caller's command
            ["/bin/sh", "-c", _ANNOUNCE, "announce", str(ends_in_round), *command],
            stdin=self._pipe.fileno(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )

    def watch(self, pid: int, ends_in_round: int) -> None:
        """Watch a process group that another guardian watched before."""
        self._tell(f"+{pid} {ends_in_round}")

    def forget(self, pid: int) -> None:
        """Watch a process group no more: it is gone, and its id may be somebody else's soon."""
        self._tell(f"-{pid}")

    def close(self) -> None:
        """Let it end what is left, and wait for it."""
        with suppress(BrokenPipeError):
            self._pipe.close()
        self._process.wait()

    def _tell(self, line: str) -> None:
        with suppress(BrokenPipeError):
            self._pipe.write(f"{line}\n".encode())
            self._pipe.flush()


def end(
    pids: Collection[int],
    *,
    within_s: float,
    gone: Callable[[int], bool],
    hurry: Callable[[], bool],
) -> None:
    """Ask the heads of process groups to end; kill what is left of the groups.

    Only the heads are asked: a worker's pool must not be interrupted by anyone but its head.

    Args:
        pids: The heads.
        within_s: Seconds until whatever is left is killed.
        gone: Tells whether a process has ended.
        hurry: Tells that nobody wants to wait any longer.
    """
    for pid in pids:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGTERM)
            # One that is stopped would never hear it.
            os.kill(pid, signal.SIGCONT)
    deadline = time.monotonic() + within_s
    while not all(gone(pid) for pid in pids) and time.monotonic() < deadline and not hurry():
        time.sleep(_POLL_S)
    for pid in pids:
        kill_group(pid)


def kill_group(pid: int) -> None:
    """Kill a process group at once, if it is there."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _group_is_gone(pid: int) -> bool:
    try:
        os.killpg(pid, 0)
    except (ProcessLookupError, PermissionError):
        return True
    return False


def main() -> None:
    """Note `+PID ROUND` and `-PID` lines until the input ends; then end those that are left."""
    # Whoever ends everything by name or from the terminal must not end this one first.
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, signal.SIG_IGN)
    rounds: dict[int, int] = {}
    for line in sys.stdin:
        pid, _, ends_in_round = line[1:].strip().partition(" ")
        if line.startswith("+"):
            rounds[int(pid)] = int(ends_in_round)
        else:
            rounds.pop(int(pid), None)
    for each in sorted(set(rounds.values())):
        pids = [pid for pid, ends_in_round in rounds.items() if ends_in_round == each]
        end(pids, within_s=GRACE_S, gone=_group_is_gone, hurry=lambda: False)


if __name__ == "__main__":
    main()
