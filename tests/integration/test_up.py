"""`mirrorpost up` as a process: what it starts, keeps running and takes with it when it ends."""

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import redis

from tests.processes import end, kill, remove_folder, short_folder, spawn
from tests.waiting import wait_until

#: Variables of whoever runs the tests that would lead away from the test's own home.
_FOREIGN = re.compile(
    r"MIRRORPOST_|DATABASE_URL|REDIS_URL|CELERY_|(TELEGRAM|DISCORD|SLACK|MATRIX)_|REMAP_SIGTERM"
)


@dataclass
class Home:
    """One data directory, with the environment of the processes that use it."""

    folder: Path

    @property
    def env(self) -> dict[str, str]:
        own = {name: value for name, value in os.environ.items() if not _FOREIGN.match(name)}
        return own | {"MIRRORPOST_HOME": str(self.folder / "home")}

    @property
    def log(self) -> Path:
        return self.folder / "up.log"

    @property
    def socket(self) -> Path:
        return self.folder / "home" / "redis.sock"

    def up(self, *, sandbox: bool = False, before: str = "") -> "subprocess.Popen[bytes]":
        """Start `up` in an empty working directory, having run a line of Python before."""
        script = (
            f"import scheduler.supervisor as s; {before}\nraise SystemExit(s.up(sandbox={sandbox}))"
        )
        cwd = self.folder / "cwd"
        cwd.mkdir(exist_ok=True)
        return spawn([sys.executable, "-c", script], log=self.log, env=self.env, cwd=cwd)

    def printed(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def has_printed(self, text: str, times: int = 1) -> None:
        wait_until(lambda: self.printed().count(text) >= times, 40, f"{times} x {text!r}")

    def python(self, script: str) -> str:
        """Run Python as a user of this home would, and give what it prints."""
        done = subprocess.run(
            [sys.executable, "-c", script],
            env=self.env,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        return done.stdout

    def enqueue(self, to: str, text: str) -> None:
        self.python(f"from scheduler import enqueue; enqueue(to={to!r}, text={text!r})")

    def state_of(self, text: str) -> str | None:
        with sqlite3.connect(self.folder / "home" / "mirrorpost.db") as database:
            row = database.execute("SELECT state FROM delivery WHERE text = ?", [text]).fetchone()
        database.close()
        return None if row is None else str(row[0])


@pytest.fixture
def home() -> Iterator[Home]:
    folder = short_folder("up-")
    yield Home(folder)
    remove_folder(folder)


def descendants(up: "subprocess.Popen[bytes]") -> list[psutil.Process]:
    return psutil.Process(up.pid).children(recursive=True)


def head_of(up: "subprocess.Popen[bytes]", words: str) -> psutil.Process:
    """Give the first process of `up` whose command has these words."""
    found = wait_until(lambda: [p for p in descendants(up) if words in command_of(p)], 15, words)
    return found[0]


def command_of(process: psutil.Process) -> str:
    """Give a process' command, nothing for one that has just ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


def all_gone(processes: list[psutil.Process]) -> bool:
    """Tell whether all have ended; a zombie that nobody reaps has."""
    for process in processes:
        try:
            if process.status() != psutil.STATUS_ZOMBIE:
                return False
        except psutil.NoSuchProcess:
            continue
    return True


def end_at_once(up: "subprocess.Popen[bytes]") -> None:
    """Ask twice, which waits for no soft shutdown."""
    up.send_signal(signal.SIGTERM)
    end(up, with_signal=signal.SIGINT, within_s=15)


def is_up(home: Home) -> None:
    home.has_printed("celery@")
    home.has_printed(" ready.")


def test_up_migrates_starts_redis_and_delivers(home: Home) -> None:
    up = home.up()
    is_up(home)

    home.enqueue("console:me", "hello from the test")

    home.has_printed("[me] hello from the test")
    wait_until(lambda: home.state_of("hello from the test") == "sent")
    page = home.printed()
    assert f"home        {home.folder / 'home'}" in page
    assert "telegram    waits for TELEGRAM_BOT_TOKEN" in page
    assert 'mirrorpost send console:me "hello"' in page
    assert home.socket.stat().st_mode & 0o777 == 0o700
    end_at_once(up)


def test_up_delivers_to_the_sandbox_without_a_token_of_its_own(home: Home) -> None:
    up = home.up(sandbox=True)
    is_up(home)
    url = re.search(r"http://127\.0\.0\.1:\d+", home.printed())
    assert url is not None

    for to in ("telegram:1001", "discord:2002", "slack:C3003"):
        home.enqueue(to, f"to {to}")

    def accepted() -> set[str]:
        with urllib.request.urlopen(f"{url[0]}/_sandbox/messages") as answer:  # noqa: S310 - loopback
            return {message["text"] for message in json.load(answer)}

    expected = {"to telegram:1001", "to discord:2002", "to slack:C3003"}
    wait_until(lambda: accepted() == expected, 20)
    end_at_once(up)
    tokens = re.compile(rb"SANDBOX[-.]stand-in")
    written = [path for path in home.folder.rglob("*") if path.is_file()]
    assert len(written) > 4
    assert [path.name for path in written if tokens.search(path.read_bytes())] == []


def test_up_holds_what_has_no_token_and_asks_no_platform(home: Home) -> None:
    up = home.up()
    is_up(home)

    home.enqueue("telegram:1001", "nobody may get this")

    wait_until(lambda: home.state_of("nobody may get this") == "held")
    end_at_once(up)


@pytest.mark.parametrize("name", ["worker_main", "redis-server"])
def test_up_starts_again_what_was_killed(home: Home, name: str) -> None:
    up = home.up()
    is_up(home)
    killed = head_of(up, name)
    with_it = [killed, *killed.children(recursive=True)]

    killed.kill()

    wait_until(lambda: all_gone(with_it), 15, "the whole group gone")
    wait_until(lambda: head_of(up, name).pid != killed.pid, 15)
    home.enqueue("console:me", "after the kill")
    home.has_printed("[me] after the kill")
    end_at_once(up)


def test_up_starts_a_worker_again_that_takes_no_tasks(home: Home) -> None:
    up = home.up(before="s.PING_EVERY_S, s.DEAF_AFTER_S = 0.5, 8.0")
    is_up(home)
    deaf = head_of(up, "worker_main")
    wait_until((home.folder / "home" / "worker.heartbeat").exists, what="a beat")

    deaf.suspend()

    home.has_printed("takes no tasks")
    wait_until(lambda: not deaf.is_running() or deaf.status() == psutil.STATUS_ZOMBIE, 15)
    home.has_printed(" ready.", times=2)
    home.enqueue("console:me", "heard again")
    home.has_printed("[me] heard again")
    end_at_once(up)
    assert home.printed().count("takes no tasks") == 1


def test_everything_ends_with_up_in_order_and_intake_messages_survive(home: Home) -> None:
    up = home.up()
    is_up(home)
    below = descendants(up)
    assert len(below) >= 5

    with redis.Redis(unix_socket_path=str(home.socket)) as client:
        client.set("waits", "in the broker")
        assert end(up, with_signal=signal.SIGTERM, within_s=30) == 0

    assert all_gone(below)
    assert not home.socket.exists()
    up = home.up()
    home.has_printed(" ready.", times=2)
    with redis.Redis(unix_socket_path=str(home.socket)) as client:
        assert client.get("waits") == b"in the broker"
    end_at_once(up)


def test_a_second_signal_ends_up_at_once(home: Home) -> None:
    up = home.up()
    is_up(home)
    below = descendants(up)
    # It would keep a polite end waiting until its grace is over.
    head_of(up, "worker_main").suspend()

    up.send_signal(signal.SIGINT)
    home.has_printed("stopping")
    up.send_signal(signal.SIGINT)

    assert up.wait(timeout=6) == 0
    wait_until(lambda: all_gone(below), 5)


def test_everything_ends_when_up_is_killed(home: Home) -> None:
    up = home.up(sandbox=True)
    is_up(home)
    below = descendants(up)
    assert len(below) >= 6

    kill_only(up)

    wait_until(lambda: all_gone(below), 30, "all processes gone")
    assert not home.socket.exists()


def test_everything_ends_when_up_is_killed_while_it_starts(home: Home) -> None:
    up = home.up()
    wait_until(lambda: any("redis-server" in command_of(p) for p in descendants(up)), 20)
    below = descendants(up)

    kill_only(up)

    wait_until(lambda: all_gone(below), 30, "all processes gone")


def kill_only(process: "subprocess.Popen[bytes]") -> None:
    """Kill one process, and not its group: its children must end by themselves."""
    process.kill()
    process.wait(timeout=10)


def test_a_guardian_that_was_killed_is_replaced(home: Home) -> None:
    up = home.up()
    is_up(home)
    head_of(up, "guardian.py").kill()
    home.has_printed("guardian")
    below = descendants(up)

    kill_only(up)

    wait_until(lambda: all_gone(below), 30, "all processes gone")


def test_a_second_up_is_refused_and_says_who_runs(home: Home) -> None:
    up = home.up()
    is_up(home)

    second = home.up()

    assert second.wait(timeout=20) == 1
    home.has_printed(f"already up in {home.folder / 'home'} as process {up.pid}")
    home.enqueue("console:me", "the first still works")
    home.has_printed("[me] the first still works")
    end_at_once(up)


def test_a_redis_left_behind_is_ended_with_its_data_kept(home: Home) -> None:
    script = (
        "from pathlib import Path; from scheduler.embedded_redis import redis_command; import os\n"
        f"home = Path({str(home.folder / 'home')!r})\n"
        "command = redis_command(home / 'redis.sock', home / 'redis')\n"
        "os.execv(command[0], command)"
    )
    orphan = spawn([sys.executable, "-c", script], log=home.log, env=home.env)
    with redis.Redis(unix_socket_path=str(home.socket)) as client:
        wait_until(lambda: home.socket.exists() and client.ping(), 20)
        client.set("waits", "in the orphan")

    up = home.up()
    is_up(home)

    assert orphan.wait(timeout=10) == 0
    with redis.Redis(unix_socket_path=str(home.socket)) as client:
        assert client.get("waits") == b"in the orphan"
    end_at_once(up)
    kill(orphan)


def test_a_file_called_worker_in_the_working_directory_is_not_taken_for_ours(home: Home) -> None:
    (home.folder / "cwd").mkdir()
    (home.folder / "cwd" / "worker.py").write_text("raise SystemExit('the wrong worker')\n")
    (home.folder / "cwd" / "scheduler.py").write_text("raise SystemExit('the wrong scheduler')\n")
    script = "from scheduler.supervisor import up; raise SystemExit(up(sandbox=False))"
    up = spawn(
        [sys.executable, "-P", "-c", script],
        log=home.log,
        env=home.env,
        cwd=home.folder / "cwd",
    )

    is_up(home)

    end_at_once(up)
    assert "the wrong" not in home.printed()


def test_up_refuses_an_environment_that_cannot_be_in_one_line(home: Home) -> None:
    wrong = spawn(
        [
            sys.executable,
            "-c",
            "from scheduler.supervisor import up; raise SystemExit(up(sandbox=False))",
        ],
        log=home.log,
        env=home.env | {"DATABASE_URL": "mysql://somewhere/else"},
        cwd=home.folder,
    )

    assert wrong.wait(timeout=20) == 1
    assert home.printed().startswith("mirrorpost up: DATABASE_URL must read")
    assert len(home.printed().splitlines()) == 1
