"""`mirrorpost demo` as a process: what it shows, and that it touches nothing of the user's."""

import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.processes import end, remove_folder, short_folder, spawn
from tests.waiting import wait_until

DEMO = "from scheduler.demo import demo; raise SystemExit(demo())"
OWN_TOKEN = "4242:a-real-token-of-the-user"


@dataclass
class Place:
    """A user's empty home and an empty folder for temporary files."""

    folder: Path

    @property
    def env(self) -> dict[str, str]:
        return dict(os.environ) | {"HOME": str(self.home), "TMPDIR": str(self.tmp)}

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def tmp(self) -> Path:
        return self.folder / "tmp"

    @property
    def log(self) -> Path:
        return self.folder / "printed.log"

    def left_behind(self) -> list[str]:
        """Name the files, and the processes that inherited this place's environment."""
        files = [str(path) for folder in (self.home, self.tmp) for path in folder.rglob("*")]
        return files + [" ".join(process.cmdline()) for process in self.processes()]

    def processes(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("HOME") == str(self.home):
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return found


@pytest.fixture
def place() -> Iterator[Place]:
    folder = short_folder("demo-")
    made = Place(folder)
    made.home.mkdir()
    made.tmp.mkdir()
    yield made
    remove_folder(folder)


def test_the_demo_shows_the_point_and_leaves_nothing(place: Place) -> None:
    demo = spawn([sys.executable, "-c", DEMO], log=place.log, env=place.env, cwd=place.home)

    status = demo.wait(timeout=40)

    printed = place.log.read_text()
    assert status == 0, printed
    for words in (
        "What each platform accepted",
        "2002 (alice)",
        "U3003 (alice)",
        "1001 (alice)",
        "Alice's one history",
        "mirror (assistant)",
        "mirror (broadcast)",
        "Slack answered 429 once",
        "HTTP 429, rate_limited",
        "It asked to wait 1 s",
        "Schedule 'stand-up' made it for its occurrence",
        "writing it failed",
        "Then: It is in the history of alice.",
        "8 messages by cron, a Celery producer and a broadcast: each accepted once",
        "mirrorpost up --sandbox",
    ):
        assert words in printed
    wait_until(lambda: place.left_behind() == [], 10, "nothing left behind")


def test_the_demo_touches_nothing_of_the_users_and_writes_no_token(place: Place) -> None:
    of_demo = place.tmp / "d"
    of_demo.mkdir()
    (place.home / ".env").write_text(f"TELEGRAM_BOT_TOKEN={OWN_TOKEN}\nLOG=1\n")
    own = place.env | {
        "DATABASE_URL": f"sqlite:///{place.home}/own.db",
        "REDIS_URL": "redis://127.0.0.1:1/0",
        "CELERY_BROKER_URL": "amqp://127.0.0.1:1//",
        "MIRRORPOST_HOME": str(place.home / "mine"),
        "MIRRORPOST_RESOLVER": "memory",
        "TELEGRAM_BOT_TOKEN": OWN_TOKEN,
        "TELEGRAM_API_BASE": "http://127.0.0.1:1",
    }
    script = (
        "from pathlib import Path; from scheduler.demo import demo_in; "
        f"raise SystemExit(demo_in(Path({str(of_demo)!r})))"
    )
    demo = spawn([sys.executable, "-c", script], log=place.log, env=own, cwd=place.home)

    status = demo.wait(timeout=40)

    assert status == 0, place.log.read_text()
    assert [path.name for path in place.home.rglob("*")] == [".env"]
    written = [path for path in of_demo.rglob("*") if path.is_file()]
    assert {"mirrorpost.db", "up.log", "appendonly.aof"} <= {path.name for path in written}
    for path in [*written, place.log]:
        content = path.read_bytes()
        assert OWN_TOKEN.encode() not in content, path
        assert b"stand-in" not in content, path


def test_a_demo_that_is_interrupted_leaves_nothing(place: Place) -> None:
    demo = spawn([sys.executable, "-c", DEMO], log=place.log, env=place.env, cwd=place.home)
    wait_until(lambda: len(place.processes()) >= 7, 30, "the demo's processes")

    status = end(demo, with_signal=signal.SIGINT, within_s=30)

    assert status == 130
    wait_until(lambda: place.left_behind() == [], 15, "nothing left behind")
    assert "nothing of it is left" in place.log.read_text()
