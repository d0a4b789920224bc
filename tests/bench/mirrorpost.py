"""Contenders `mirrorpost_sqlite` and `mirrorpost_postgresql`: one worker process, everything on.

Rows are committed before and settled after, with an attempt each, and mirrored.
"""

import os
from functools import partial
from pathlib import Path

from tests.bench.celery_run import System, database_of, run_celery
from tests.bench.measure import Contender, Measurement, Surroundings
from tests.processes import remove_folder, short_folder

WORKER = (
    *("-m", "celery", "-A", "worker", "worker", "-c", "1"),
    *("--loglevel=WARNING", "--without-gossip", "--without-mingle"),
)
MIGRATE = ("-c", "from scheduler.cli import main; main()", "migrate")
_SYSTEM = System(
    worker=WORKER,
    producer=(str(Path(__file__).with_name("mirrorpost_producer.py")),),
    prepare=MIGRATE,
    done="SELECT count(*) FROM delivery WHERE state = 'sent' AND mirror = 'done'",
)


def environment(database: str, surroundings: Surroundings, folder: Path) -> dict[str, str]:
    """Give what Mirrorpost reads, and nothing of whoever runs this."""
    return {
        **os.environ,
        "MIRRORPOST_HOME": str(folder / "home"),
        "DATABASE_URL": database,
        "REDIS_URL": surroundings.redis.url,
        "TELEGRAM_BOT_TOKEN": "1:bench",
        "TELEGRAM_API_BASE": surroundings.platform.url,
        # Asked for every message, and far above what the machine can do.
        "MIRRORPOST_LIMIT_TELEGRAM": "1000000/s",
        "MIRRORPOST_LOG_LEVEL": "WARNING",
    }


def _run(kind: str, surroundings: Surroundings, messages: int) -> Measurement:
    folder = short_folder("ours-")
    try:
        with database_of(kind, surroundings, folder) as database:
            env = environment(database, surroundings, folder)
            return run_celery(_SYSTEM, database, env, surroundings, messages)
    finally:
        remove_folder(folder)


MIRRORPOST_SQLITE = Contender("mirrorpost_sqlite", partial(_run, "sqlite"))
MIRRORPOST_POSTGRESQL = Contender("mirrorpost_postgresql", partial(_run, "postgresql"))
