"""The supervisor: `mirrorpost up`, one of each process, kept running and ended together.

Redis (where none is configured), the sandbox (where asked for), a worker and a scheduler.
Called by the command line. It delivers nothing and decides about no delivery.
"""

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from filelock import FileLock, Timeout
from sqlalchemy.engine import make_url

from scheduler.children import Child, Program, Screen, end_all
from scheduler.embedded_redis import await_redis, end_orphan, redis_command
from scheduler.guardian import GRACE_S, Guardian
from scheduler.pulse import Pulse, ping_queue
from scheduler.stand_ins import free_port, is_open, sandbox_environment
from scheduler.start_page import start_page
from worker.database import check_schema, engine, migrate
from worker.errors import MirrorpostError, Misconfigured, SchemaOutdated
from worker.settings import Settings, settings

#: Seconds between two pings of the worker.
PING_EVERY_S = 15.0
#: Seconds without a beat after which the worker counts as deaf. A healthy one whose processes
#: both wait for a bulk on a platform that hangs is silent for 100; killing that one would
#: put every send that is under way in doubt.
DEAF_AFTER_S = 120.0
#: Seconds between two looks at the children.
_LOOK_S = 0.2
#: Seconds that the sandbox gets until it answers.
_SANDBOX_WITHIN_S = 20.0
#: Seconds between two looks at whether it does: everything else waits for it.
_SANDBOX_LOOK_S = 0.05


class AlreadyUp(MirrorpostError):
    """Another `mirrorpost up` uses this data directory."""


class _Stopped(Exception):
    """A signal came before everything ran."""


class _Signals:
    """How often we were asked to end: once is politely, twice is at once."""

    def __init__(self) -> None:
        self._count = 0

    def note(self, _number: int, _frame: FrameType | None) -> None:
        """Count one; a signal handler that does nothing else."""
        self._count += 1

    def stop(self) -> bool:
        """Tell whether to end."""
        return self._count > 0

    def hurry(self) -> bool:
        """Tell whether to end without waiting for anybody."""
        return self._count > 1


def up(*, sandbox: bool) -> int:
    """Run everything until SIGINT, SIGTERM or SIGHUP; a second one ends it without waiting.

    Args:
        sandbox: Send what is for Telegram, Discord and Slack to a sandbox.

    Returns:
        0 when it was ended, 1 when it could not begin; the reason is on standard error.
    """
    try:
        config = settings()
        with _only_one(config.data_dir), _signals() as signals:
            _prepare_database(config)
            _Supervisor(config, signals, sandbox=sandbox).run()
    except MirrorpostError as error:
        sys.stderr.write(f"mirrorpost up: {error}\n")
        return 1
    return 0


@contextmanager
def _only_one(data_dir: Path) -> Iterator[None]:
    """Hold the data directory.

    Raises:
        AlreadyUp: Another process holds it; says which.
    """
    lock = FileLock(data_dir / "up.lock")
    # Not in the lock file, which whoever tries to lock it empties.
    note = data_dir / "up.pid"
    try:
        lock.acquire(timeout=0)
    except Timeout:
        pid = note.read_text().strip() if note.exists() else "unknown"
        raise AlreadyUp(
            f"already up in {data_dir} as process {pid}: end that one, or set MIRRORPOST_HOME "
            "to another directory"
        ) from None
    try:
        note.write_text(f"{os.getpid()}\n")
        yield
    finally:
        note.unlink(missing_ok=True)
        lock.release()


@contextmanager
def _signals() -> Iterator[_Signals]:
    noted = _Signals()
    names = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {name: signal.signal(name, noted.note) for name in names}
    try:
        yield noted
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)


def _prepare_database(config: Settings) -> None:
    """Bring SQLite up to this code; leave any other database to `mirrorpost migrate`.

    Raises:
        SchemaMismatch, Misconfigured: The database cannot be used; says what to do.
    """
    database = engine(config.database)
    try:
        check_schema(database)
    except SchemaOutdated:
        if make_url(config.database).get_backend_name() != "sqlite":
            raise
        migrate(database)
    finally:
        database.dispose()


class _Supervisor:
    """What runs, and the guardian that ends it should we not."""

    def __init__(self, config: Settings, signals: _Signals, *, sandbox: bool) -> None:
        self._config = config
        self._signals = signals
        self._screen = Screen(sys.stdout)
        self._sandbox_port = free_port() if sandbox else None
        self._children: list[Child] = []
        self._guardian = Guardian()
        self._pulse = Pulse(config.data_dir / "worker.heartbeat", every_s=PING_EVERY_S)

    def run(self) -> None:
        """Start everything, keep it running, end it."""
        try:
            self._start()
        except _Stopped:
            pass
        finally:
            self._end()

    def _start(self) -> None:
        if self._config.redis_url is None:
            self._start_redis()
        environment = {} if self._sandbox_port is None else self._start_sandbox(self._sandbox_port)
        worker = self._add(_worker(environment))
        self._add(_scheduler(environment))
        url = None if self._sandbox_port is None else _sandbox_url(self._sandbox_port)
        self._screen.write(start_page(self._config, sandbox_url=url))
        self._pulse.start()
        self._keep_running(worker)

    def _keep_running(self, worker: Child) -> None:
        while not self._signals.stop():
            time.sleep(_LOOK_S)
            now_s = time.monotonic()
            if not self._guardian.is_alive():
                self._replace_guardian()
            silent_s = self._pulse.unanswered_s(worker.started_s)
            if silent_s >= DEAF_AFTER_S and not worker.has_ended():
                self._screen.show("worker", f"takes no tasks since {DEAF_AFTER_S:g} s")
                worker.kill()
            for child in self._children:
                child.keep_running(now_s)

    def _replace_guardian(self) -> None:
        self._guardian.close()
        self._guardian = Guardian()
        for child in self._children:
            child.watch_again(self._guardian)
        # Only now: whoever reads it may count on the new one.
        self._screen.show("guardian", "ended, another one watches")

    def _start_redis(self) -> None:
        socket = self._config.redis_socket
        if end_orphan(socket):
            self._screen.show("redis", "ended one that an earlier run left behind")
        folder = self._config.data_dir / "redis"
        child = self._add(Program("redis", redis_command(socket, folder), ends_in_round=3))
        if not await_redis(socket, hopeless=lambda: child.has_ended() or self._signals.stop()):
            if self._signals.stop():
                raise _Stopped
            raise Misconfigured(
                f"Redis does not start on {socket}; {folder / 'redis.log'} says why"
            )

    def _start_sandbox(self, port: int) -> dict[str, str]:
        command = _python("-m", "worker.sandbox", "--host", "127.0.0.1", "--port", str(port))
        child = self._add(Program("sandbox", command, ends_in_round=2))
        deadline = time.monotonic() + _SANDBOX_WITHIN_S
        while not is_open(port):
            if self._signals.stop():
                raise _Stopped
            if child.has_ended() or time.monotonic() >= deadline:
                raise Misconfigured(f"the sandbox does not start on port {port}")
            time.sleep(_SANDBOX_LOOK_S)
        return sandbox_environment(_sandbox_url(port))

    def _add(self, program: Program) -> Child:
        if self._signals.stop():
            raise _Stopped
        child = Child(program, self._guardian, self._screen)
        child.start()
        self._children.append(child)
        return child

    def _end(self) -> None:
        self._pulse.stop()
        end_all(self._children, within_s=GRACE_S, hurry=self._signals.hurry)
        self._guardian.close()


def _python(*arguments: str) -> tuple[str, ...]:
    # -P: a file of the user's that is called worker.py must not stand in for our package.
    return (sys.executable, "-P", *arguments)


def _worker(environment: dict[str, str]) -> Program:
    from worker.celery import app

    queues = [ping_queue(), *(queue.name for queue in app.conf.task_queues)]
    arguments = [
        "--quiet",
        "worker",
        "--loglevel=INFO",
        "--without-gossip",
        "--without-mingle",
        f"--queues={','.join(queues)}",
    ]
    start = f"from worker.celery import app; app.worker_main({arguments!r})"
    return Program(
        "worker",
        _python("-c", start),
        ends_in_round=1,
        environment={**environment, "PYTHONUNBUFFERED": "1", "REMAP_SIGTERM": "SIGQUIT"},
    )


def _scheduler(environment: dict[str, str]) -> Program:
    return Program(
        "scheduler",
        _python("-m", "scheduler"),
        ends_in_round=1,
        environment={**environment, "PYTHONUNBUFFERED": "1"},
    )


def _sandbox_url(port: int) -> str:
    return f"http://127.0.0.1:{port}"
