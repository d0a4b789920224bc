"""`mirrorpost demo`: the whole path in some seconds, in a home of its own that vanishes.

This file keeps the demo away from whatever the user has: their data, their tokens, their
`.env`. What happens in that home is `scheduler.demo_story`.
"""

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

#: What would lead the demo to a database, a broker or a bot of the user's.
_OWN = re.compile(
    r"(DATABASE_URL|REDIS_URL|CELERY_\w+)$|(MIRRORPOST|TELEGRAM|DISCORD|SLACK|MATRIX|WEBHOOK)_"
)


def demo() -> int:
    """Show the demo; give 0 when everything in it really happened, else 1."""
    # Below /tmp and short: a Unix socket's path has room for some 100 bytes.
    with tempfile.TemporaryDirectory(prefix="mp-demo-", ignore_cleanup_errors=True) as folder:
        return demo_in(Path(folder))


def demo_in(home: Path) -> int:
    """Show the demo in an empty directory, and leave there what it made."""
    environment = {name: value for name, value in os.environ.items() if not _OWN.match(name)}
    # Its processes are ended in a hurry, and their temporary files must vanish too.
    environment |= {"MIRRORPOST_HOME": str(home), "TMPDIR": str(home)}
    story = subprocess.Popen(
        [sys.executable, "-P", "-m", "scheduler.demo_story"],
        # No `.env` there.
        cwd=home,
        env=environment,
        stdin=subprocess.DEVNULL,
        # Ctrl-C comes through us, once.
        process_group=0,
    )
    with _passing_on_signals(story):
        return story.wait()


@contextmanager
def _passing_on_signals(process: "subprocess.Popen[bytes]") -> Iterator[None]:
    def pass_on(number: int, _frame: FrameType | None) -> None:
        process.send_signal(number)

    names = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {name: signal.signal(name, pass_on) for name in names}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)
