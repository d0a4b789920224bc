"""One message on an idle system: how long from commit to arrival, and what idling costs."""

import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles

import orjson

from tests.bench.celery_run import database_of
from tests.bench.measure import Surroundings, tail, tree_cpu_s
from tests.bench.mirrorpost import MIGRATE, WORKER, environment
from tests.processes import end, remove_folder, short_folder, spawn
from tests.servers import flush_redis
from tests.waiting import wait_until

#: Long enough that the system is idle again, and no multiple of anything that ticks.
_PAUSE_S = 0.047
_WARM_UP = 20
_PRODUCER = Path(__file__).with_name("latency_producer.py")


@dataclass(frozen=True, slots=True)
class Idle:
    """A system of one worker and one scheduler that has nearly nothing to do.

    Attributes:
        p50_ms: From commit to arrival at the platform, of single messages.
        p99_ms: The same, for the slowest of a hundred.
        idle_percent: CPU of worker and scheduler together while nothing happens, in percent
            of a core.
    """

    database: str
    messages: int
    p50_ms: float
    p99_ms: float
    max_ms: float
    idle_seconds: float
    idle_percent: float


def measure_idle(
    kind: str, surroundings: Surroundings, *, messages: int, idle_seconds: float
) -> Idle:
    """Measure single messages, then nothing for `idle_seconds`, on an empty database."""
    folder = short_folder("idle-")
    flush_redis(surroundings.redis.url)
    surroundings.platform.reset(note_length=8)
    with database_of(kind, surroundings, folder) as database:
        env = environment(database, surroundings, folder)
        subprocess.run(
            [sys.executable, *MIGRATE],
            env=env,
            cwd=folder,
            stdout=subprocess.DEVNULL,
            check=True,
            timeout=60,
        )
        logs = [folder / "worker.log", folder / "scheduler.log"]
        commands = [WORKER, ("-m", "scheduler")]
        system = [
            spawn([sys.executable, *command], log=log, env=env, cwd=folder)
            for command, log in zip(commands, logs, strict=True)
        ]
        try:
            # The first one waits for the worker's start, which is not what is measured.
            _enqueue(0, 1, env, folder)
            _until_arrived(1, surroundings, logs[0])
            committed = _enqueue(1, _WARM_UP + messages, env, folder)
            _until_arrived(1 + len(committed), surroundings, logs[0])
            arrivals = surroundings.platform.arrivals()
            pids = [process.pid for process in system]
            before, started = tree_cpu_s(pids), time.monotonic()
            time.sleep(idle_seconds)
            share = (tree_cpu_s(pids) - before) / (time.monotonic() - started)
        finally:
            for process in system:
                end(process, within_s=20)
            remove_folder(folder)
    took_ms = sorted((arrivals[text] - at) * 1000 for text, at in committed[_WARM_UP:])
    cuts = quantiles(took_ms, n=100, method="inclusive")
    return Idle(kind, messages, cuts[49], cuts[98], took_ms[-1], idle_seconds, share * 100)


def _until_arrived(count: int, surroundings: Surroundings, log: Path) -> None:
    try:
        wait_until(lambda: surroundings.platform.count() >= count, 60.0, f"{count} arrivals")
    except AssertionError as error:
        raise AssertionError(f"{error}\n{tail(log)}") from None


def _enqueue(first: int, count: int, env: dict[str, str], folder: Path) -> list[tuple[str, float]]:
    done = subprocess.run(
        [sys.executable, str(_PRODUCER), str(first), str(count), str(_PAUSE_S)],
        env=env,
        cwd=folder,
        stdout=subprocess.PIPE,
        check=True,
        timeout=300,
    )
    pairs: list[tuple[str, float]] = orjson.loads(done.stdout)
    return pairs
