"""One run: a site of real processes, its load, and the waiting until all is quiet.

`Services` are kept from run to run, a `Run` has its own database, sandbox and processes.
Faults act on a `Run`, which starts again whatever has died, as a supervisor does.
"""

import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import orjson
import psutil
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from tests.chaos.load import Asked, Way
from tests.chaos.matrix import Homeserver
from tests.processes import kill, spawn
from tests.servers import PostgresServer, RedisServer, empty_database, flush_redis
from tests.waiting import wait_until
from tests.workers import Running, Site
from worker.database import reading
from worker.states import ENDS

#: Shorter than in production, so that what a dead worker held comes back while we wait.
LEASE_S, HTTP_TIMEOUT_S = 5.0, 2.0
#: Seconds over which a load is asked for.
LOAD_S = 4.0
#: Seconds that a platform takes at least to accept, and between which the most lies: so
#: there is always something under way.
_LEAST_LATENCY_S = 0.005
_LATENCY_S = (0.05, 0.8)
#: Seconds within which everything must have ended after the fault is healed.
QUIET_WITHIN_S = 90.0
#: Seconds after which a producer that has only the broker asks again for what has no row.
_ASK_AGAIN_S = 5.0
_TICK_S = 0.05
_WORKERS = _SCHEDULERS = 2
_SECRET = "whsec_" + "bWlycm9ycG9zdC1jaGFvcy1zZWNyZXQtMzItYnl0ZXM="


class Services:
    """The servers of all runs; the address of each stays the same."""

    def __init__(self, *, postgres: bool) -> None:
        self.redis = RedisServer()
        self.postgres = PostgresServer() if postgres else None
        self.homeserver = Homeserver()

    def start(self) -> None:
        """Start them."""
        self.redis.start()
        if self.postgres is not None:
            self.postgres.start()

    def close(self) -> None:
        """End them."""
        self.homeserver.close()
        self.redis.close()
        if self.postgres is not None:
            self.postgres.close()


@dataclass(slots=True)
class _Supervised:
    """A process that is started again when it has died; `held` is meant to stay away."""

    command: Sequence[str]
    env: Mapping[str, str]
    running: Running
    held: bool = False


class Run:
    """One run under way.

    Attributes:
        rng: For whatever a fault chooses.
        full: Take the long version of a fault.
        killed: How many processes a fault has killed.
        repeated: Bare Celery messages that were asked for again, because no row was there.
        note: What a fault has to say about itself.
    """

    def __init__(
        self,
        services: Services,
        site: Site,
        asked: Sequence[Asked],
        *,
        database: str,
        rng: random.Random,
        full: bool = False,
    ) -> None:
        self.services = services
        self.site = site
        self.asked = asked
        self.database = database
        self.rng = rng
        self.full = full
        self.killed = 0
        self.repeated = 0
        self.note = ""
        self.folder = site.folder
        self.tokens = site.folder / "tokens"
        self.tokens.mkdir()
        self._variables: dict[str, dict[str, str]] = {}
        self._supervised: dict[str, _Supervised] = {}
        self._begun = 0.0
        self._latency_s = rng.uniform(*_LATENCY_S)
        self._plans = 0
        self._started = 0
        self._undo: list[Callable[[], object]] = []

    def set_variables(self, role: str, variables: Mapping[str, str]) -> None:
        """Set variables for the processes of a role (`worker`, `scheduler`, `producer`)."""
        self._variables.setdefault(role, {}).update(variables)

    # What runs.

    def start(self) -> None:
        """Start workers and schedulers; come back when they work."""
        self.no_faults()
        for n in range(_WORKERS):
            self._supervise(
                f"worker{n}",
                [
                    *("-m", "celery", "-A", "worker", "worker", "-n", f"w{n}@%h", "-c", "2"),
                    *("--loglevel=INFO", "--without-gossip", "--without-mingle"),
                ],
            )
        for n in range(_SCHEDULERS):
            self._supervise(f"scheduler{n}", ["-m", "scheduler"])
        for n in range(_WORKERS):
            self._supervised[f"worker{n}"].running.has_printed(" ready.")

    def begin_load(self) -> None:
        """Start the producer; come back when the first message has arrived."""
        self._begun = time.time()
        self.produce("load", _steps(self.asked, self._begun))
        self.until(lambda: bool(self.services.homeserver.taken) or self._any_accepted(), 30.0)

    def produce(self, name: str, steps: Sequence[Mapping[str, object]]) -> None:
        """Start a further producer with steps of its own."""
        plan = self.folder / f"{name}.json"
        plan.write_bytes(orjson.dumps(list(steps)))
        self._supervise(
            f"producer-{name}",
            ["-m", "tests.chaos.producer", str(plan), f"{plan}.done", str(self._begun)],
        )

    def processes(self, role: str) -> list[str]:
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
        """Start again whatever has died, and count it where a fail-point did it."""
        for name, each in self._supervised.items():
            status = each.running.process.poll()
            if each.held or status is None or (name.startswith("producer") and status == 0):
                continue
            if status == -signal.SIGKILL:
                kill(each.running.process)
            each.running = self._spawn(name, each.command, each.env)

    def pause(self, seconds: float) -> None:
        """Let time pass, looking after the processes."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            time.sleep(min(_TICK_S, left))
            self.look()

    def until(self, condition: Callable[[], object], within_s: float) -> None:
        """Wait for something, looking after the processes."""

        def looked() -> object:
            self.look()
            return condition()

        wait_until(looked, within_s, poll_s=_TICK_S)

    def disarm(self) -> None:
        """Let nobody die at a fail-point any more."""
        for token in self.tokens.iterdir():
            token.unlink(missing_ok=True)

    def at_end(self, undo: Callable[[], object]) -> None:
        """Note what has to be undone when the run has been judged."""
        self._undo.append(undo)

    def clean_up(self) -> None:
        """Undo what faults have changed outside of the run."""
        self.site.engine.dispose()
        while self._undo:
            self._undo.pop()()

    def close(self) -> None:
        """End all processes: their rows have ended, so nothing is to be finished in order."""
        for each in self._supervised.values():
            each.held = True
            kill(each.running.process)

    def _supervise(self, name: str, command: Sequence[str]) -> None:
        role = name.rstrip("0123456789").partition("-")[0]
        env = {**self.site.env, **self._variables.get(role, {})}
        self._supervised[name] = _Supervised(command, env, self._spawn(name, command, env))

    def _spawn(self, name: str, command: Sequence[str], env: Mapping[str, str]) -> Running:
        self._started += 1
        log = self.folder / f"{name}-{self._started}.log"
        process: subprocess.Popen[bytes] = spawn(
            [sys.executable, *command], log=log, env=env, cwd=self.site.cwd
        )
        return Running(process, log)

    # What goes on at the platforms.

    def fault(self, fault: str, *platforms: str, **more: object) -> None:
        """Switch a fault on at platforms."""
        self.site.sandbox.no_faults()
        for platform in platforms:
            if platform == "matrix":
                self.services.homeserver.fault = fault
            else:
                self.site.sandbox.fault(platform, None, fault, **more)

    def no_faults(self) -> None:
        """Let every platform work again, each as fast as it is in this run."""
        self.services.homeserver.fault = None
        self.services.homeserver.answers_in_s = self._latency_s
        self.site.sandbox.no_faults()
        for platform in ("telegram", "slack", "discord", "webhook"):
            # Without the spread whatever is sent at once would arrive in order by itself.
            self.site.sandbox.fault(
                platform, None, "slow", seconds=_LEAST_LATENCY_S, jitter=self._latency_s
            )

    def _any_accepted(self) -> bool:
        return any(self.site.sandbox.accepted(p) for p in ("telegram", "slack", "discord"))

    # The end of it.

    def heal(self) -> None:
        """Let everything work again, whatever the fault has left."""
        self.no_faults()
        for each in self._supervised.values():
            each.held = False
        self.look()

    def becomes_quiet(self) -> bool:
        """Wait until all that was asked for has ended; tell whether it did in time."""
        deadline = time.monotonic() + QUIET_WITHIN_S
        ask_again = time.monotonic() + _ASK_AGAIN_S
        while time.monotonic() < deadline:
            self.pause(0.25)
            if not self._has_asked():
                ask_again = time.monotonic() + _ASK_AGAIN_S
                continue
            try:
                if time.monotonic() > ask_again and self._ask_again():
                    ask_again = time.monotonic() + _ASK_AGAIN_S
                if self._is_quiet():
                    return True
            except OperationalError:
                continue
        return False

    def _has_asked(self) -> bool:
        names = self.processes("producer")
        return all(self._supervised[n].running.process.poll() == 0 for n in names)

    def _ask_again(self) -> bool:
        """Ask again for bare messages without a row; tell whether there were any."""
        with reading(self.site.engine) as connection:
            stored = set(connection.execute(text("SELECT key FROM delivery")).scalars())
        lost = [a for a in self.asked if a.way is Way.TASK and a.key not in stored]
        if lost:
            self.repeated += len(lost)
            self._plans += 1
            self.produce(f"again{self._plans}", _steps(lost, self._begun))
        return bool(lost)

    def _is_quiet(self) -> bool:
        with self.site.engine.begin() as connection:
            # What waits for its next attempt has waited long enough.
            connection.execute(text("UPDATE delivery SET due_ms = 0 WHERE state = 'retrying'"))
            ends = ", ".join(f"'{state}'" for state in ENDS)
            open_rows, stored, unmirrored, unfired = connection.execute(
                text(
                    f"SELECT (SELECT count(*) FROM delivery WHERE state NOT IN ({ends})), "
                    "(SELECT count(*) FROM delivery), "
                    "(SELECT count(*) FROM delivery WHERE mirror = 'failed'), "
                    "(SELECT count(*) FROM schedule WHERE state = 'active')"
                )
            ).one()
        return not open_rows and not unmirrored and not unfired and stored >= len(self.asked)


@contextmanager
def new_site(services: Services, database: str, folder: Path) -> Iterator[Site]:
    """Make a fresh site on the kept servers; its folder stays."""
    flush_redis(services.redis.url)
    services.homeserver.forget()
    variables = {
        "MATRIX_HOMESERVER": services.homeserver.url,
        "MATRIX_ACCESS_TOKEN": "mx-chaos-5tK",
        "MIRRORPOST_WEBHOOK_SECRET": _SECRET,
        "MIRRORPOST_WEBHOOK_ALLOW_PRIVATE": "true",
        "MIRRORPOST_LEASE_S": str(LEASE_S),
        "MIRRORPOST_HTTP_TIMEOUT_S": str(HTTP_TIMEOUT_S),
        "MIRRORPOST_FAILPOINT_TOKENS": str(folder / "tokens"),
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    if database == "sqlite":
        (folder / "database").mkdir()
        url = f"sqlite:///{folder / 'database' / 'mirrorpost.db'}"
        site = Site(folder, database_url=url, redis_url=services.redis.url, variables=variables)
        try:
            yield site
        finally:
            site.close()
        return
    assert services.postgres is not None
    with empty_database(services.postgres.url) as url:
        site = Site(folder, database_url=url, redis_url=services.redis.url, variables=variables)
        try:
            yield site
        finally:
            site.close()


def new_folder() -> Path:
    """Make the folder of a run; it outlives the session, for whoever asks what went wrong."""
    return Path(tempfile.mkdtemp(prefix="mp-chaos-"))


def _steps(asked: Sequence[Asked], begun: float) -> list[dict[str, object]]:
    """Give what a producer has to do, a broadcast as one step."""
    steps: dict[str, dict[str, object]] = {}
    for a in asked:
        if a.way is Way.BROADCAST:
            name = str(a.key).split(":")[1]
            step = steps.setdefault(
                name,
                {
                    "id": name,
                    "at_s": a.at_s,
                    "way": a.way,
                    "fields": {"id": name, "to": [], "text": a.text},
                },
            )
            step["fields"]["to"].append(a.target)  # type: ignore[index]
        elif a.way is Way.SCHEDULE:
            at = datetime.fromtimestamp(begun + 1.5 + a.at_s, UTC).isoformat()
            fields = {"name": f"s{a.n}", "to": a.target, "text": a.text, "at": at}
            steps[f"s{a.n}"] = {"id": f"s{a.n}", "at_s": 0.0, "way": a.way, "fields": fields}
        else:
            fields = {
                "to": a.target,
                "text": a.text,
                "key": str(a.key),
                "lane": a.lane,
                "policy": a.policy,
                **({"due_in_s": a.due_in_s} if a.due_in_s else {}),
            }
            steps[str(a.n)] = {"id": str(a.n), "at_s": a.at_s, "way": a.way, "fields": fields}
    return sorted(steps.values(), key=lambda step: float(str(step["at_s"])))
