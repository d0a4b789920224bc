"""Start processes that cannot outlive the test session: each is a process group with a guard.

Used by the servers of the suite and by every test that starts a worker or a scheduler.
"""

import atexit
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import IO

_GUARD = Path(__file__).with_name("guard.py")


@cache
def _guard() -> IO[str]:
    guard = subprocess.Popen(
        [sys.executable, "-I", "-S", str(_GUARD)],
        stdin=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert guard.stdin is not None
    pipe = guard.stdin

    def finish() -> None:
        pipe.close()
        guard.wait(timeout=30)

    atexit.register(finish)
    return pipe


def _tell_guard(line: str) -> None:
    pipe = _guard()
    pipe.write(line + "\n")
    pipe.flush()


def short_folder(name: str = "") -> Path:
    """Make a folder that vanishes with the session; its path leaves room for a Unix socket."""
    folder = Path(tempfile.mkdtemp(prefix=f"mp-{name}"))
    _tell_guard(f"+folder {folder}")
    return folder


def remove_folder(folder: Path) -> None:
    """Remove a folder of `short_folder` before the session ends."""
    shutil.rmtree(folder, ignore_errors=True)


def spawn(
    command: Sequence[str],
    *,
    log: Path,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    user: int | None = None,
) -> subprocess.Popen[bytes]:
    """Start a process as the head of its own group, writing to `log`; end it with `end`.

    Args:
        command: Program and arguments.
        log: File to which standard output and error are appended.
        env: Whole environment; the session's own when not given.
        cwd: Working directory.
        user: Numeric user (and group) to run as, which only root can ask for.
    """
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=env,
            cwd=cwd,
            user=user,
            group=user,
            extra_groups=None if user is None else [],
            start_new_session=True,
        )
    _tell_guard(f"+group {process.pid}")
    return process


def end(
    process: subprocess.Popen[bytes],
    *,
    with_signal: signal.Signals = signal.SIGTERM,
    within_s: float = 10.0,
) -> int:
    """Ask a process of `spawn` to end, kill its whole group after `within_s`; give its status."""
    with suppress(ProcessLookupError):
        os.kill(process.pid, signal.SIGCONT)
        process.send_signal(with_signal)
    try:
        status = process.wait(timeout=within_s)
    except subprocess.TimeoutExpired:
        kill(process)
        status = process.wait()
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    _tell_guard(f"-group {process.pid}")
    return status


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a process of `spawn` with its whole group, at once, and reap it."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(timeout=10)
    _tell_guard(f"-group {process.pid}")
