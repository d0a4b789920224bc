"""End what a test session started, whatever ends the session itself, a kill -9 included.

Run as a script of its own beside the session. Its input names process groups and folders;
the end of its input is the end of the session. Imports nothing but the standard library.
"""

import os
import shutil
import signal
import sys
from contextlib import suppress


def main() -> None:
    """Read `+group PID`, `-group PID` and `+folder PATH` lines until the input ends."""
    groups: set[int] = set()
    folders: list[str] = []
    for line in sys.stdin:
        word, _, value = line.strip().partition(" ")
        if word == "+group":
            groups.add(int(value))
        elif word == "-group":
            groups.discard(int(value))
        elif word == "+folder":
            folders.append(value)
    for group in groups:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
