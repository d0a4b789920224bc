"""One installation under test: its database, its broker, a sandbox, and its real processes.

Workers, schedulers and the producer are subprocesses as a user would start them, each a
process group with a log of its own; what a test sees of them is rows, messages that the
sandbox accepted and log lines.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import text
from sqlmodel import Session, col, select

from resolvers import SqlIdentityResolver
from tests.processes import end, kill, remove_folder, short_folder, spawn
from tests.servers import empty_database, flush_redis
from tests.waiting import wait_until
from worker.database import engine, migrate, reading
from worker.sandbox.server import base_urls
from worker.sessions import SessionManager
from worker.sessions.history import StoredMessage
from worker.tables import AttemptRow, DeliveryRow, RejectedRow

#: The databases on which the path is shown.
DATABASES = ("sqlite", "postgresql")
#: Shaped as the platforms' own, so that the sandbox takes them; found nowhere else.
TOKENS = {
    "TELEGRAM_BOT_TOKEN": "7700001:tg-Zq3vKx81LmT0pWc5",
    "DISCORD_BOT_TOKEN": "dc-Yh7NbR42sQeJ9uFa6",
    "SLACK_BOT_TOKEN": "xoxb-sl-Pw6GtD53kVoM8iCz1",
}
#: What a worker needs to send as fast as it can.
UNLIMITED = {f"MIRRORPOST_LIMIT_{name}": "off" for name in ("TELEGRAM", "DISCORD", "SLACK")}
_PRODUCER = """
import json, sys
import scheduler
print("ready", flush=True)
for line in sys.stdin:
    function, fields = json.loads(line)
    accepted = getattr(scheduler, function)(**fields)
    many = accepted if isinstance(accepted, list) else [accepted]
    print(json.dumps([each.id for each in many]), flush=True)
"""


class Sandbox:
    """A sandbox process and its control paths; its limits are on only where they are wanted."""

    def __init__(self, folder: Path, *, limits: bool = False) -> None:
        log = folder / "sandbox.log"
        without = [] if limits else ["--no-limits"]
        self._process = spawn(
            [sys.executable, "-m", "worker.sandbox", "--port", "0", *without], log=log
        )
        line = wait_until(
            lambda: log.exists() and log.read_text().partition("\n")[0], 20, "the sandbox"
        )
        self.url = str(line).rpartition(" ")[2]
        self._client = httpx.Client(base_url=self.url, trust_env=False)

    def accepted(self, platform: str, chat: str | None = None) -> list[dict[str, Any]]:
        """Give what the platform accepted, oldest first."""
        wanted = {"platform": platform} | ({} if chat is None else {"chat": chat})
        found: list[dict[str, Any]] = self._client.get("/_sandbox/messages", params=wanted).json()
        return found

    def texts(self, platform: str, chat: str) -> list[str]:
        """Give the texts that one chat received."""
        return [str(message["text"]) for message in self.accepted(platform, chat)]

    def fault(self, platform: str, chat: str | None, fault: str, **more: object) -> None:
        """Switch a fault on for one chat."""
        body = {"platform": platform, "chat": chat, "fault": fault, **more}
        answer = self._client.post("/_sandbox/faults", json=body)
        assert answer.status_code == 201, answer.text

    def no_faults(self) -> None:
        """Switch every fault off."""
        self._client.delete("/_sandbox/faults")

    def answers(self, platform: str) -> dict[str, int]:
        """Give how often each answer was given."""
        found: dict[str, int] = self._client.get("/_sandbox/requests").json().get(platform, {})
        return found

    def pause(self) -> None:
        """Freeze it: connections are taken and nothing answers."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """End it."""
        self._client.close()
        end(self._process)


class Site:
    """One installation; `running_site` makes one.

    Attributes:
        env: What its processes get as their whole environment.
        engine: The test's own engine on its database.
    """

    def __init__(
        self,
        folder: Path,
        *,
        database_url: str,
        redis_url: str,
        variables: Mapping[str, str],
        limits: bool = False,
    ) -> None:
        self.folder = folder
        self.redis_url = redis_url
        self.sandbox = Sandbox(folder, limits=limits)
        self.env = {
            **os.environ,
            "DATABASE_URL": database_url,
            "REDIS_URL": redis_url,
            "MIRRORPOST_HOME": str(folder / "home"),
            # As the Procfile starts a worker.
            "REMAP_SIGTERM": "SIGQUIT",
            **base_urls(self.sandbox.url),
            **TOKENS,
            **(UNLIMITED if not limits else {}),
            **variables,
        }
        self.cwd = folder / "cwd"
        self.cwd.mkdir()
        self.engine = engine(database_url)
        migrate(self.engine)
        self.resolver = SqlIdentityResolver(self.engine, cache_ttl_s=0)
        self._producer: subprocess.Popen[str] | None = None
        self._started = 0

    def close(self) -> None:
        """End what it started."""
        if self._producer is not None:
            self._producer.communicate(timeout=20)
        self.sandbox.close()
        self.engine.dispose()

    @contextmanager
    def worker(
        self, variables: Mapping[str, str | None] | None = None, *, processes: int | None = None
    ) -> "Iterator[Running]":
        """Run a worker until the block ends; a variable of `None` is not set for it."""
        env = {**self.env, **(variables or {})}
        command = ["-m", "celery", "-A", "worker", "worker"]
        command += ["--loglevel=INFO", "--without-gossip", "--without-mingle"]
        command += [] if processes is None else ["-c", str(processes)]
        running = self._start("worker", command, {k: v for k, v in env.items() if v is not None})
        try:
            running.has_printed(" ready.")
            yield running
        finally:
            running.end()

    @contextmanager
    def scheduler(self) -> "Iterator[Running]":
        """Run a scheduler process until the block ends."""
        running = self._start("scheduler", ["-m", "scheduler"], self.env)
        try:
            yield running
        finally:
            running.end()

    def _start(self, name: str, command: Sequence[str], env: Mapping[str, str]) -> "Running":
        self._started += 1
        log = self.folder / f"{name}-{self._started}.log"
        return Running(spawn([sys.executable, *command], log=log, env=env, cwd=self.cwd), log)

    def enqueue(self, to: str, text: str, **fields: object) -> str:
        """Call `scheduler.enqueue` in the producer's process; give the delivery's id."""
        return self._call("enqueue", {"to": to, "text": text, **fields})[0]

    def broadcast(self, to: Sequence[str], text: str, *, id: str) -> list[str]:  # noqa: A002 - the field's name
        """Call `scheduler.broadcast` in the producer's process; give the deliveries' ids."""
        return self._call("broadcast", {"to": list(to), "text": text, "id": id})

    def _call(self, function: str, fields: Mapping[str, object]) -> list[str]:
        if self._producer is None:
            self._producer = self._start_producer()
        assert self._producer.stdin is not None
        assert self._producer.stdout is not None
        self._producer.stdin.write(json.dumps([function, fields]) + "\n")
        self._producer.stdin.flush()
        line = self._producer.stdout.readline()
        assert line, (self.folder / "producer.log").read_text()
        ids: list[str] = json.loads(line)
        return ids

    def _start_producer(self) -> "subprocess.Popen[str]":
        log = self.folder / "producer.log"
        with log.open("ab") as errors:
            process = subprocess.Popen(
                [sys.executable, "-c", _PRODUCER],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=self.env,
                cwd=self.cwd,
                text=True,
            )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", log.read_text()
        return process

    def delivery(self, id_: str) -> DeliveryRow:
        """Give a delivery's row."""
        with Session(self.engine) as session:
            return session.exec(select(DeliveryRow).where(DeliveryRow.id == id_)).one()

    def by_key(self, key: str) -> DeliveryRow | None:
        """Give the delivery of a key, `None` while there is none."""
        with Session(self.engine) as session:
            return session.exec(select(DeliveryRow).where(DeliveryRow.key == key)).first()

    def reaches(self, id_: str, state: str, within_s: float = 20.0) -> DeliveryRow:
        """Wait until a delivery is in a state; give its row."""
        row = self.delivery(id_)

        def is_there() -> bool:
            nonlocal row
            row = self.delivery(id_)
            return row.state == state

        try:
            wait_until(is_there, within_s)
        except AssertionError:
            raise AssertionError(f"{state} not reached: {row!r}") from None
        return row

    def attempts(self, id_: str) -> list[AttemptRow]:
        """Give a delivery's attempts in order."""
        wanted = select(AttemptRow).where(AttemptRow.delivery_id == id_)
        with Session(self.engine) as session:
            return list(session.exec(wanted.order_by(col(AttemptRow.attempt))))

    def rejected(self, task_id: str) -> list[RejectedRow]:
        """Give what was refused of one task."""
        with Session(self.engine) as session:
            wanted = select(RejectedRow).where(RejectedRow.task_id == task_id)
            return list(session.exec(wanted))

    def messages(self, user: str) -> list[StoredMessage]:
        """Give a person's conversation, oldest first."""
        return SessionManager(self.engine).messages(user)

    def execute(self, statement: str, **values: object) -> None:
        """Change the database as nobody but a test would."""
        with self.engine.begin() as connection:
            connection.execute(text(statement), values)

    def scalar(self, query: str, **values: object) -> Any:
        """Give the one value that a query asks for."""
        with reading(self.engine) as connection:
            return connection.execute(text(query), values).scalar_one_or_none()

    def make_due(self, id_: str) -> None:
        """Let a retry's time come now, or a dead worker's lease end now."""
        self.execute("UPDATE delivery SET due_ms = 0 WHERE id = :id AND state = 'retrying'", id=id_)
        self.execute(
            "UPDATE delivery SET lease_until_ms = 1 WHERE id = :id AND state = 'sending'", id=id_
        )


class Running:
    """A process of a site with its log."""

    def __init__(self, process: "subprocess.Popen[bytes]", log: Path) -> None:
        self.process = process
        self.log = log

    def printed(self) -> str:
        """Give all it has printed."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def has_printed(self, words: str, within_s: float = 40.0) -> None:
        """Wait until it has printed something."""

        def is_there() -> bool:
            assert self.process.poll() is None or words in self.printed(), self.printed()
            return words in self.printed()

        wait_until(is_there, within_s, f"{words!r} in {self.log}")

    def kill(self) -> None:
        """End it with all its children as a crash would."""
        kill(self.process)

    def end(self, within_s: float = 20.0) -> int:
        """Ask it to end; give its exit status."""
        if self.process.poll() is not None:
            kill(self.process)
            return int(self.process.returncode)
        return end(self.process, with_signal=signal.SIGTERM, within_s=within_s)


@contextmanager
def running_site(
    request: pytest.FixtureRequest,
    database: str,
    variables: Mapping[str, str] | None = None,
    *,
    limits: bool = False,
) -> Iterator[Site]:
    """Make an installation with a sandbox and nothing else running; take it down afterwards.

    The session's Redis is emptied: one site at a time.

    Args:
        database: `sqlite`, a file in the site's folder, or `postgresql`.
        variables: For all of its processes, over what a site has by itself.
        limits: Whether the platforms' limits hold, and the workers keep them.
    """
    redis_url: str = request.getfixturevalue("redis_server_url")
    flush_redis(redis_url)
    folder = short_folder("site-")
    with ExitStack() as stack:
        database_url = f"sqlite:///{folder / 'mirrorpost.db'}"
        if database == "postgresql":
            server_url = request.getfixturevalue("postgres_server_url")
            database_url = stack.enter_context(empty_database(server_url))
        stack.callback(remove_folder, folder)
        site = Site(
            folder,
            database_url=database_url,
            redis_url=redis_url,
            variables=variables or {},
            limits=limits,
        )
        stack.callback(site.close)
        yield site
