"""The faults: each one function that does harm to a run under load and takes it back.

A fault may also prepare a run before anything has started. What it chooses, it chooses by
the run's own random numbers, so the seed repeats it.
"""

import random
import shutil
import subprocess
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from os import geteuid
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import redis
from celery import Celery
from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError

from tests.chaos.harness import LEASE_S, Run
from tests.chaos.load import PLATFORMS, POISON, Asked, Way, with_poison
from worker.database import reading

BOTH = ("sqlite", "postgresql")
#: How often a process dies at a fail-point in one run.
_DEATHS = 3
_FAKETIME = "/usr/lib/*/faketime/libfaketimeMT.so.1"
_TWO_HOURS_S = 7200
#: Room for the database of a run, several times over.
_DISK = "24m"


def _nothing(_run: Run) -> None:
    """Prepare nothing."""


def _same(_rng: random.Random, asked: Sequence[Asked]) -> Sequence[Asked]:
    return asked


@dataclass(frozen=True, slots=True)
class Fault:
    """One kind of fault.

    Attributes:
        act: Does it while the load is asked for; comes back when it is over.
        prepare: Changes the run before its processes start.
        changes: Changes the load.
        missing: Gives what this machine lacks for it, `None` for nothing.
    """

    name: str
    act: Callable[[Run], None]
    prepare: Callable[[Run], None] = _nothing
    changes: Callable[[random.Random, Sequence[Asked]], Sequence[Asked]] = _same
    missing: Callable[[], str | None] = lambda: None
    databases: Sequence[str] = BOTH


# Processes.


def _kill_workers(run: Run) -> None:
    for _ in range(_DEATHS):
        run.pause(run.rng.uniform(0.2, 1.2))
        run.kill(run.rng.choice(run.processes("worker")))


def _kill_pool_children(run: Run) -> None:
    for _ in range(2 * _DEATHS):
        run.pause(run.rng.uniform(0.1, 0.7))
        children = run.children(run.rng.choice(run.processes("worker")))
        if children:
            with suppress(psutil.NoSuchProcess):
                run.kill_one(run.rng.choice(children))


def _kill_schedulers(run: Run) -> None:
    for _ in range(_DEATHS):
        run.pause(run.rng.uniform(0.3, 1.5))
        run.kill(run.rng.choice(run.processes("scheduler")))


def _restart_in_turn(run: Run) -> None:
    for name in [*run.processes("worker"), *run.processes("scheduler")]:
        run.pause(run.rng.uniform(0.1, 0.5))
        run.stop_and_start(name)


def _freeze_worker(run: Run) -> None:
    run.pause(run.rng.uniform(0.1, 0.8))
    name = run.rng.choice(run.processes("worker"))
    run.freeze(name)
    # Past the lease, so that the relay gives its rows to the other one.
    run.pause(LEASE_S * 3 if run.full else LEASE_S + 2.0)
    run.thaw(name)


# Fail-points.


def _at(name: str, role: str, *, most: int) -> Fault:
    """Give the fault that kills processes of a role at one fail-point."""

    def prepare(run: Run) -> None:
        every = run.rng.randint(1, most)
        run.set_variables(role, {"MIRRORPOST_FAILPOINT": f"{name}:kill:{every}"})
        run.note = f"(every {every} times)"

    def act(run: Run) -> None:
        for n in range(_DEATHS):
            (run.tokens / f"{n}").touch()
            run.pause(run.rng.uniform(0.3, 1.5))
        with suppress(AssertionError):
            run.until(lambda: not any(run.tokens.iterdir()), 6.0)
        left = len(list(run.tokens.iterdir()))
        run.killed += _DEATHS - left
        run.disarm()

    return Fault(f"kill-{role}-{name.replace('_', '-')}", act, prepare)


def _poison_prepare(run: Run) -> None:
    run.set_variables(
        "worker",
        {
            "MIRRORPOST_FAILPOINT": f"before_send:kill:~{POISON}",
            # It has to die as often as there are attempts, each time for a lease.
            "MIRRORPOST_LEASE_S": "2",
            "MIRRORPOST_HTTP_TIMEOUT_S": "1",
        },
    )
    for n in range(100):
        (run.tokens / f"{n}").touch()


def _poison(run: Run) -> None:
    run.pause(2.0)
    # The rest of its attempts is taken while the run waits for quiet.
    run.killed = sum(a.is_poison for a in run.asked)


# Redis.


def _restart_redis(run: Run) -> None:
    for _ in range(5 if run.full else 2):
        run.pause(run.rng.uniform(0.3, 1.5))
        run.services.redis.kill()
        run.pause(run.rng.uniform(0.0, 1.0))
        run.services.redis.start()


def _freeze_redis(run: Run) -> None:
    run.pause(run.rng.uniform(0.1, 0.8))
    run.services.redis.pause()
    run.pause(30.0 if run.full else 4.0)
    run.services.redis.resume()


def _cut_redis(run: Run) -> None:
    for _ in range(6):
        run.pause(run.rng.uniform(0.1, 0.8))
        with redis.Redis.from_url(run.services.redis.url) as client:
            client.client_kill_filter(_type="normal", skipme=True)
            client.client_kill_filter(_type="pubsub", skipme=True)


def _flush_redis(run: Run) -> None:
    for _ in range(_DEATHS):
        run.pause(run.rng.uniform(0.2, 1.2))
        with redis.Redis.from_url(run.services.redis.url) as client:
            client.flushall()


# The database.


def _restart_postgres(run: Run) -> None:
    assert run.services.postgres is not None
    for hard in (False, True):
        run.pause(run.rng.uniform(0.3, 1.2))
        if hard:
            run.services.postgres.kill()
        else:
            run.services.postgres.stop()
        run.pause(run.rng.uniform(0.0, 30.0 if run.full else 1.5))
        run.services.postgres.start()
    run.site.engine.dispose()


def _cut_postgres(run: Run) -> None:
    assert run.services.postgres is not None
    engine = create_engine(run.services.postgres.url, isolation_level="AUTOCOMMIT")
    for _ in range(6):
        run.pause(run.rng.uniform(0.1, 0.8))
        with engine.connect() as connection:
            connection.execute(
                text(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE pid <> pg_backend_pid() AND application_name = 'mirrorpost'"
                )
            )
    engine.dispose()
    run.site.engine.dispose()


def _as_root(*command: str | Path) -> bool:
    """Run a command as root; tell whether that was possible."""
    prefix = () if geteuid() == 0 else ("sudo", "-n")
    try:
        return subprocess.run([*prefix, *command], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def _mount(folder: Path) -> bool:
    options = f"size={_DISK},mode=0777"
    return _as_root("mount", "-t", "tmpfs", "-o", options, "mirrorpost-chaos", folder)


def _needs_mount() -> str | None:
    with TemporaryDirectory() as folder:
        if _mount(Path(folder)):
            _as_root("umount", "-l", folder)
            return None
    return "a small file system of its own, which only root can mount"


def _small_disk(run: Run) -> None:
    """Move the database onto a file system of its own before anybody has it open."""
    folder = run.folder / "database"
    kept = run.folder / "moved"
    run.site.engine.dispose()
    shutil.move(folder, kept)
    folder.mkdir()
    assert _mount(folder), "no small file system"
    run.at_end(lambda: _as_root("umount", "-l", folder))
    for file in kept.iterdir():
        shutil.copy(file, folder)


def _fill_disk(run: Run) -> None:
    filler = run.folder / "database" / "filler"
    for _ in range(2):
        run.pause(run.rng.uniform(0.3, 1.0))
        with filler.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(4096))
        run.pause(run.rng.uniform(1.0, 20.0 if run.full else 3.0))
        filler.unlink()


# The platforms.


def _platforms(name: str, fault: str, for_s: float, **more: object) -> Fault:
    """Give the fault that goes on at every platform for a while."""

    def act(run: Run) -> None:
        run.pause(run.rng.uniform(0.1, 0.8))
        run.fault(fault, *PLATFORMS, **more)
        run.pause(for_s * (5 if run.full else 1))
        run.no_faults()

    return Fault(name, act)


def _platforms_away(run: Run) -> None:
    """Let nothing answer at all: connections are taken and stay silent."""
    run.pause(run.rng.uniform(0.1, 0.8))
    run.site.sandbox.pause()
    run.services.homeserver.fault = "hang"
    run.pause(15.0 if run.full else 3.0)
    run.site.sandbox.resume()
    run.no_faults()


# The same again.


def _publish_again(run: Run) -> None:
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
    for asked in [a for a in run.asked if a.way is Way.TASK][:20]:
        fields = {"to": asked.target, "text": asked.text, "key": asked.key, "policy": asked.policy}
        for _ in range(10):
            app.send_task(
                "mirrorpost.deliver", kwargs={**fields, "lane": asked.lane}, queue="mirrorpost"
            )
    app.close()


def _same_key_at_once(run: Run) -> None:
    single = [a for a in run.asked if a.way is Way.ENQUEUE and not a.ordered]
    run.produce(
        "many",
        [
            {
                "id": f"many{a.n}",
                "at_s": a.at_s - 0.1,
                "way": "many_processes",
                "fields": {
                    "to": a.target,
                    "text": a.text,
                    "key": a.key,
                    "lane": a.lane,
                    "policy": a.policy,
                },
            }
            for a in run.rng.sample(single, min(4, len(single)))
        ],
    )
    run.pause(2.0)


# The clock.


def _faketime() -> Path | None:
    return next(iter(Path("/").glob(_FAKETIME.removeprefix("/"))), None)


def _needs_faketime() -> str | None:
    return None if _faketime() else "libfaketime: apt-get install faketime"


def _own_clock(run: Run) -> None:
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
                "FAKETIME_DONT_RESET": "1",
            },
        )


def _step_clock(run: Run) -> None:
    offset = run.folder / "clock"
    for step_s in (_TWO_HOURS_S, -_TWO_HOURS_S, 0):
        run.pause(run.rng.uniform(0.5, 1.5))
        offset.write_text(f"{step_s:+d}\n")
    run.pause(2.0)


def _nothing_happens(run: Run) -> None:
    run.pause(1.0)


FAULTS: dict[str, Fault] = {
    fault.name: fault
    for fault in (
        Fault("none", _nothing_happens),
        Fault("kill-worker", _kill_workers),
        Fault("kill-pool-child", _kill_pool_children),
        Fault("kill-scheduler", _kill_schedulers),
        *(_at(name, "producer", most=20) for name in ("after_insert", "after_commit")),
        _at("after_publish", "producer", most=20),
        *(_at(name, "worker", most=20) for name in ("after_insert", "after_commit", "before_ack")),
        *(_at(name, "worker", most=6) for name in ("after_claim", "after_permit")),
        *(_at(name, "worker", most=40) for name in ("before_send", "in_request")),
        *(_at(name, "worker", most=40) for name in ("request_written", "after_answer")),
        *(_at(name, "worker", most=6) for name in ("in_settle", "in_mirror", "after_settle")),
        *(_at(name, "scheduler", most=2) for name in ("in_fire", "after_fire")),
        *(_at(name, "scheduler", most=2) for name in ("in_relay", "after_publish")),
        Fault("poison", _poison, _poison_prepare, lambda rng, asked: with_poison(rng, asked, 1)),
        Fault("rolling-restart", _restart_in_turn),
        Fault("worker-frozen", _freeze_worker),
        Fault("redis-restarted-empty", _restart_redis),
        Fault("redis-flushed", _flush_redis),
        Fault("redis-frozen", _freeze_redis),
        Fault("redis-connections-cut", _cut_redis),
        Fault("postgres-restarted", _restart_postgres, databases=("postgresql",)),
        Fault("postgres-connections-cut", _cut_postgres, databases=("postgresql",)),
        Fault("disk-full", _fill_disk, _small_disk, missing=_needs_mount, databases=("sqlite",)),
        _platforms("accept-then-cut", "drop", 2.0),
        _platforms("accept-then-hang", "hang", 2.0, seconds=10),
        _platforms("platform-500", "500", 3.0),
        _platforms("platform-429", "429", 3.0, retry_after=1),
        Fault("platform-silent", _platforms_away),
        Fault("clock-stepped", _step_clock, _own_clock, missing=_needs_faketime),
        Fault("task-ten-times", _publish_again),
        Fault("one-key-from-20-processes", _same_key_at_once),
    )
}
