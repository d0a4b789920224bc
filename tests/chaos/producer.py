"""`python -m tests.chaos.producer PLAN DONE BEGUN`: asks for a load, as a patient user would.

A step that fails or was in doubt when the process died is asked for again under its key.
`DONE` gets a line for each step that is certain; times count from `BEGUN`.
"""

import os
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
from celery import Celery
from kombu.exceptions import KombuError
from redis.exceptions import RedisError
from sqlalchemy.exc import SQLAlchemyError

from scheduler import broadcast, enqueue, schedule
from tests import running_broadcasts
from worker.database import engine
from worker.errors import Refused
from worker.failpoints import FailpointError
from worker.settings import settings

Fields = Mapping[str, Any]
#: Seconds between two tries of one step.
_AGAIN_S = 0.1
_PROCESSES_OF_ONE_KEY = 20


def _celery() -> Celery:
    # As foreign to us as a producer can be: it knows the task's name and the queue's.
    app = Celery("producer", broker=settings().broker, set_as_current=False)
    app.conf.task_ignore_result = True
    app.conf.broker_transport_options = {"max_retries": 0, "socket_timeout": 2}
    return app


def _task(app: Celery, fields: Fields) -> None:
    app.send_task("mirrorpost.deliver", kwargs=dict(fields), queue="mirrorpost", retry=False)


def _schedule(fields: Fields) -> None:
    given = dict(fields)
    while True:
        try:
            schedule(**given)
            return
        except Refused as refused:
            if "another body" in str(refused):
                # An earlier try was stored after all.
                return
            # The database was away so long that its time has passed.
            given["at"] = (datetime.now(UTC) + timedelta(seconds=1)).isoformat()


def _running_broadcast(fields: Fields) -> None:
    database = engine(settings().database)
    running_broadcasts.make(database, fields["to"], text_=fields["text"])
    database.dispose()


def _from_many_processes(fields: Fields) -> None:
    """Enqueue one key in many processes at the same moment."""
    starts_s = time.monotonic() + 0.2
    children = []
    for _ in range(_PROCESSES_OF_ONE_KEY):
        child = os.fork()
        if child == 0:
            time.sleep(max(0.0, starts_s - time.monotonic()))
            with suppress(SQLAlchemyError):
                enqueue(**fields)
            os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)


def main() -> None:
    """Carry out what is not done yet."""
    plan, done = Path(sys.argv[1]), Path(sys.argv[2])
    begun = float(sys.argv[3])
    finished = set(done.read_text().split()) if done.exists() else set()
    app = _celery()
    ways: Mapping[str, Callable[[Fields], object]] = {
        "enqueue": lambda fields: enqueue(**fields),
        "broadcast": lambda fields: broadcast(**fields),
        "task": lambda fields: _task(app, fields),
        "schedule": _schedule,
        "fed": _running_broadcast,
        "many_processes": _from_many_processes,
    }
    with done.open("a") as certain:
        for step in orjson.loads(plan.read_bytes()):
            if step["id"] in finished:
                continue
            time.sleep(max(0.0, begun + step["at_s"] - time.time()))
            _until_certain(ways[step["way"]], step["fields"])
            certain.write(f"{step['id']}\n")
            certain.flush()


def _until_certain(way: Callable[[Fields], object], fields: Fields) -> None:
    while True:
        try:
            way(_with_time(fields))
            return
        except (SQLAlchemyError, KombuError, RedisError, OSError, FailpointError) as error:
            print(type(error).__name__, str(error)[:200], flush=True)  # noqa: T201 - its log
            time.sleep(_AGAIN_S)


def _with_time(fields: Fields) -> Fields:
    given = dict(fields)
    if (due_in_s := given.pop("due_in_s", None)) is not None:
        given["at"] = (datetime.now(UTC) + timedelta(seconds=due_in_s)).isoformat()
    return given


if __name__ == "__main__":
    main()
