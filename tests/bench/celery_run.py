"""Measure a Celery worker: warm it, hold it, give it messages, let it go, wait for the last.

What both the usual way and Mirrorpost have in common, so that they are measured alike.
"""

import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine, create_engine, text

from tests.bench.measure import (
    CHATS,
    TEXT_LENGTH,
    WARM_UP,
    Measurement,
    Surroundings,
    held,
    tail,
    tree_cpu_s,
)
from tests.processes import end, remove_folder, short_folder, spawn
from tests.servers import empty_database, flush_redis
from tests.waiting import wait_until

#: Seconds for the slowest contender and the slowest machine.
_LIMIT_S = 300.0
#: Looking takes a core that is being measured: seldom, in seconds, until this part arrived.
_SELDOM_S = 0.1
_SELDOM_UNTIL = 0.9


@dataclass(frozen=True, slots=True)
class System:
    """A system that sends by a Celery worker.

    Attributes:
        worker: Arguments of the worker's Python.
        producer: The script that enqueues: FIRST COUNT CHATS TEXT_LENGTH.
        prepare: Arguments of a Python that makes the tables, where the producer does not.
        done: SQL that counts the messages that the worker is done with.
    """

    worker: tuple[str, ...]
    producer: tuple[str, ...]
    prepare: tuple[str, ...] | None
    done: str


@contextmanager
def database_of(kind: str, surroundings: Surroundings, folder: Path) -> Iterator[str]:
    """Give an empty database, `sqlite` or `postgresql`, flushed to the disk at each commit."""
    if kind == "sqlite":
        yield f"sqlite:///{folder / 'bench.db'}"
        return
    with empty_database(surroundings.postgres.url) as url:
        yield url


def run_celery(
    system: System, database: str, env: Mapping[str, str], surroundings: Surroundings, count: int
) -> Measurement:
    """Send `count` messages after a warm-up, all enqueued before the clock starts."""
    folder = short_folder("bench-")
    log = folder / "worker.log"
    flush_redis(surroundings.redis.url)
    surroundings.platform.reset()
    if system.prepare is not None:
        _python(system.prepare, env, folder)
    _enqueue(system, env, folder, 0, WARM_UP)
    worker = spawn([sys.executable, *system.worker], log=log, env=env, cwd=folder)
    engine = create_engine(database)

    def arrived(wanted: int) -> bool:
        assert worker.poll() is None, f"the worker ended:\n{tail(log)}"
        return surroundings.platform.count() >= wanted

    def until_done(already: int, wanted: int) -> None:
        nearly = already + int((wanted - already) * _SELDOM_UNTIL)
        try:
            wait_until(lambda: arrived(nearly), _LIMIT_S, f"{nearly} messages", poll_s=_SELDOM_S)
            wait_until(
                lambda: arrived(wanted) and _count(engine, system.done) >= wanted,
                _LIMIT_S,
                f"{wanted} messages",
            )
        except AssertionError as error:
            raise AssertionError(f"{error}\n{tail(log)}") from None

    try:
        until_done(0, WARM_UP)
        with held(worker.pid):
            produced = _enqueue(system, env, folder, WARM_UP, count)
            cpu_before, started = tree_cpu_s([worker.pid]), time.monotonic()
        until_done(WARM_UP, WARM_UP + count)
        seconds = time.monotonic() - started
        cpu_s = tree_cpu_s([worker.pid]) - cpu_before
        came = surroundings.platform.count()
        assert came == WARM_UP + count, f"{came} arrived"
        return Measurement(count, seconds, cpu_s, produced)
    finally:
        engine.dispose()
        end(worker, within_s=20)
        remove_folder(folder)


def _enqueue(system: System, env: Mapping[str, str], folder: Path, first: int, count: int) -> float:
    arguments = (*system.producer, *map(str, (first, count, CHATS, TEXT_LENGTH)))
    return float(_python(arguments, env, folder).strip().splitlines()[-1])


def _python(arguments: tuple[str, ...], env: Mapping[str, str], folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        env=env,
        cwd=folder,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=_LIMIT_S,
    )
    return done.stdout


def _count(engine: Engine, statement: str) -> int:
    with engine.connect() as connection:
        return int(connection.execute(text(statement)).scalar_one())
