"""Faults of time: the same again, at once or later, and a wall clock that is set."""

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from celery import Celery
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from tests.chaos.harness import Run
from tests.chaos.load import Way, single_fields
from worker.database import reading

_FAKETIME = "/usr/lib/*/faketime/libfaketimeMT.so.1"
_TWO_HOURS_S = 7200


def publish_again(run: Run) -> None:
    """Publish tasks that were published before, ten times, in any order."""
    app = Celery("again", broker=run.services.redis.url, set_as_current=False)
    for _ in range(4):
        run.pause(run.rng.uniform(0.3, 0.8))
        with suppress(OperationalError), reading(run.site.engine) as connection:
            ids = list(connection.execute(text("SELECT id FROM delivery")).scalars())
            chosen = run.rng.sample(ids, min(20, len(ids))) * 10
            run.rng.shuffle(chosen)
            for id_ in chosen:
                app.send_task("mirrorpost.send", args=[[id_]], queue="mirrorpost.reply")
    for asked in [a for a in run.asked if a.way is Way.TASK and not a.due_in_s][:20]:
        for _ in range(10):
            app.send_task("mirrorpost.deliver", kwargs=single_fields(asked), queue="mirrorpost")
    app.close()


def same_key_at_once(run: Run) -> None:
    single = [a for a in run.asked if a.way is Way.ENQUEUE and not a.ordered]
    chosen = run.rng.sample(single, min(4, len(single)))
    run.produce(
        "many",
        [
            {
                "id": f"many{a.n}",
                # Before the load asks for it as well.
                "at_s": a.at_s - 0.1,
                "way": "many_processes",
                "fields": single_fields(replace(a, due_in_s=0.0)),
            }
            for a in chosen
        ],
    )
    run.pause(2.0)


def _faketime() -> Path | None:
    return next(iter(Path("/").glob(_FAKETIME.removeprefix("/"))), None)


def needs_faketime() -> str | None:
    return None if _faketime() else "libfaketime: apt-get install faketime"


def own_clock(run: Run) -> None:
    library = _faketime()
    assert library is not None
    offset = run.folder / "clock"
    offset.write_text("+0\n")
    for role in ("worker", "scheduler"):
        run.set_variables(
            role,
            {
                "LD_PRELOAD": str(library),
                "FAKETIME_TIMESTAMP_FILE": str(offset),
                "FAKETIME_CACHE_DURATION": "1",
                "FAKETIME_DONT_FAKE_MONOTONIC": "1",
                # Its default lets threads that wait by the monotonic clock wake seconds late.
                "FAKETIME_FORCE_MONOTONIC_FIX": "0",
                "FAKETIME_DONT_RESET": "1",
            },
        )


def step_clock(run: Run) -> None:
    offset = run.folder / "clock"
    for step_s in (_TWO_HOURS_S, -_TWO_HOURS_S, 0):
        run.pause(run.rng.uniform(0.5, 1.5))
        offset.write_text(f"{step_s:+d}\n")
    run.pause(2.0)
