"""Contenders `usual_sqlite` and `usual_postgresql`: the usual way, prefork, two processes."""

import os
from functools import partial
from pathlib import Path

from tests.bench.celery_run import System, database_of, run_celery
from tests.bench.measure import Contender, Measurement, Surroundings
from tests.processes import remove_folder, short_folder

_ROOT = Path(__file__).parents[2]
_SYSTEM = System(
    worker=(
        *("-m", "celery", "-A", "tests.bench.usual_app", "worker", "-c", "2"),
        *("--loglevel=WARNING", "--without-gossip", "--without-mingle"),
    ),
    producer=("-m", "tests.bench.usual_producer"),
    prepare=None,
    done="SELECT count(*) FROM history",
)


def _run(kind: str, surroundings: Surroundings, messages: int) -> Measurement:
    folder = short_folder("usual-")
    try:
        with database_of(kind, surroundings, folder) as database:
            env = {
                **os.environ,
                "PYTHONPATH": str(_ROOT),
                "BENCH_DATABASE_URL": database,
                "BENCH_BROKER_URL": surroundings.redis.url,
                "BENCH_PLATFORM_URL": surroundings.platform.url,
            }
            return run_celery(_SYSTEM, database, env, surroundings, messages)
    finally:
        remove_folder(folder)


USUAL_SQLITE = Contender("usual_sqlite", partial(_run, "sqlite"), share=0.1)
USUAL_POSTGRESQL = Contender("usual_postgresql", partial(_run, "postgresql"), share=0.1)
