"""How long a fault delays deliveries: a worker that is killed, a Redis that comes back empty.

Real workers and schedulers as the Procfile runs them, on PostgreSQL.

Example: python -m tests.bench.recovery --queued 10000
"""

import argparse
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from rich.console import Console
from rich.table import Table
from sqlalchemy import Engine, text

from tests.bench.loopback import running_platform
from tests.bench.machine import describe, pin
from tests.bench.measure import Surroundings
from tests.bench.mirrorpost import WORKER, environment
from tests.processes import end, kill, remove_folder, short_folder, spawn
from tests.servers import PostgresServer, RedisServer, empty_database
from tests.waiting import wait_until
from worker import outbox
from worker.database import engine as open_engine
from worker.database import migrate, reading
from worker.intake import check
from worker.lanes import Lane

_LIMIT_S = 120.0
#: Rows of one statement.
_CHUNK = 1_000


@contextmanager
def _site(surroundings: Surroundings) -> Iterator[tuple[Engine, dict[str, str], Path]]:
    folder = short_folder("recovery-")
    with empty_database(surroundings.postgres.url) as url:
        engine = open_engine(url)
        migrate(engine)
        try:
            # A worker says when it is ready.
            env = environment(url, surroundings, folder) | {"MIRRORPOST_LOG_LEVEL": "INFO"}
            yield engine, env, folder
        finally:
            engine.dispose()
            remove_folder(folder)


def _put(engine: Engine, count: int, lane: Lane) -> None:
    """Store queued deliveries that count as published just now."""
    for first in range(0, count, _CHUNK):
        new = [
            check(to=f"telegram:{n + 1}", text="x", lane=lane)
            for n in range(first, min(first + _CHUNK, count))
        ]
        with engine.begin() as connection:
            outbox.insert(connection, new)


def _count(engine: Engine, where: str) -> int:
    with reading(engine) as connection:
        return int(
            connection.execute(text(f"SELECT count(*) FROM delivery WHERE {where}")).scalar_one()
        )


def killed_worker(surroundings: Surroundings, deliveries: int) -> tuple[float, int]:
    """Kill one of two workers while they send.

    Gives the seconds from then until the last delivery was sent, and how many it had held.
    """
    with _site(surroundings) as (engine, env, folder), ExitStack() as stack:
        surroundings.platform.reset()
        workers = []
        for name in ("one", "two"):
            log = folder / f"{name}.log"
            workers.append(spawn([sys.executable, *WORKER], log=log, env=env, cwd=folder))
            stack.callback(end, workers[-1], within_s=20)
        scheduler = spawn(
            [sys.executable, "-m", "scheduler"], log=folder / "s.log", env=env, cwd=folder
        )
        stack.callback(end, scheduler, within_s=20)
        for name in ("one", "two"):
            log = folder / f"{name}.log"
            wait_until(lambda log=log: " ready." in log.read_text(), 60.0, f"worker {name}")  # type: ignore[misc]
        _put(engine, deliveries, Lane.REPLY)
        with engine.begin() as connection:
            connection.execute(text("UPDATE delivery SET published_ms = 0"))
        wait_until(lambda: _count(engine, "state = 'sent'") > deliveries // 10, _LIMIT_S, "a start")
        kill(workers[0])
        killed = time.monotonic()
        held = _count(engine, "state = 'sending'")
        wait_until(
            lambda: _count(engine, "state <> 'sent'") == 0, _LIMIT_S, "the last one", poll_s=0.1
        )
        return time.monotonic() - killed, held


def empty_redis(surroundings: Surroundings, deliveries: int) -> float:
    """Queue deliveries, lose all of Redis, and let it come back empty; no worker runs.

    Gives the seconds from its return until every one is at the broker again.
    """
    with _site(surroundings) as (engine, env, folder):
        _put(engine, deliveries, Lane.REPLY)
        scheduler = spawn(
            [sys.executable, "-m", "scheduler"], log=folder / "s.log", env=env, cwd=folder
        )
        try:
            surroundings.redis.kill()
            # As if all had been published a while ago, to the Redis that is gone.
            with engine.begin() as connection:
                connection.execute(text("UPDATE delivery SET published_ms = 1"))
            surroundings.redis.start()
            begun = time.monotonic()
            wait_until(
                lambda: _count(engine, "state = 'queued' AND published_ms <= 1") == 0,
                _LIMIT_S,
                "all published again",
            )
            return time.monotonic() - begun
        finally:
            end(scheduler, within_s=20)


def main() -> int:
    """Measure both and print them."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.recovery", description=__doc__)
    parser.add_argument("--runs", type=int, default=3, help="runs of each (3)")
    parser.add_argument("--queued", type=int, default=10_000, help="rows that Redis loses (10000)")
    parser.add_argument("--sent", type=int, default=5_000, help="deliveries under way (5000)")
    arguments = parser.parse_args()
    machine = describe(pin())
    redis, postgres = RedisServer(), PostgresServer(durable=True)
    try:
        redis.start()
        postgres.start()
        with running_platform() as platform:
            surroundings = Surroundings(platform, redis, postgres)
            killed = [killed_worker(surroundings, arguments.sent) for _ in range(arguments.runs)]
            empty = [empty_redis(surroundings, arguments.queued) for _ in range(arguments.runs)]
    finally:
        postgres.close()
        redis.close()
    console = Console(width=None if sys.stdout.isatty() else 110)
    console.print(f"{machine.cpu}, {machine.cores}, {machine.kernel}, Python {machine.python}")
    table = Table("fault", "until", "seconds, each run")
    table.add_row(
        "one of two workers is killed",
        "its last delivery is sent",
        ", ".join(f"{seconds:.1f} ({held} held)" for seconds, held in killed),
    )
    table.add_row(
        "Redis comes back empty",
        f"{arguments.queued:,} rows are published again",
        ", ".join(f"{seconds:.1f}" for seconds in empty),
    )
    console.print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
