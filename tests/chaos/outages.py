"""Faults of what we lean on: Redis, the database and its disk, the platforms."""

import shutil
import subprocess
from collections.abc import Callable
from contextlib import suppress
from os import geteuid
from pathlib import Path
from tempfile import TemporaryDirectory

import redis
from sqlalchemy import create_engine, text

from tests.chaos.harness import Run
from tests.chaos.load import PLATFORMS

#: Room for the database of a run, several times over.
_DISK = "24m"
_FLUSHES = 3


def restart_redis(run: Run) -> None:
    for _ in range(5 if run.full else 2):
        run.pause(run.rng.uniform(0.3, 1.5))
        run.services.redis.kill()
        run.pause(run.rng.uniform(0.0, 1.0))
        run.services.redis.start()


def freeze_redis(run: Run) -> None:
    run.pause(run.rng.uniform(0.1, 0.8))
    run.services.redis.pause()
    run.pause(30.0 if run.full else 4.0)
    run.services.redis.resume()


def cut_redis(run: Run) -> None:
    for _ in range(6):
        run.pause(run.rng.uniform(0.1, 0.8))
        with redis.Redis.from_url(run.services.redis.url) as client:
            client.client_kill_filter(_type="normal", skipme=True)
            client.client_kill_filter(_type="pubsub", skipme=True)


def flush_redis(run: Run) -> None:
    for _ in range(_FLUSHES):
        run.pause(run.rng.uniform(0.2, 1.2))
        with redis.Redis.from_url(run.services.redis.url) as client:
            client.flushall()


def restart_postgres(run: Run) -> None:
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


def cut_postgres(run: Run) -> None:
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


def needs_mount() -> str | None:
    with TemporaryDirectory() as folder:
        if _mount(Path(folder)):
            _as_root("umount", "-l", folder)
            return None
    return "a small file system of its own, which only root can mount"


def small_disk(run: Run) -> None:
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


def fill_disk(run: Run) -> None:
    filler = run.folder / "database" / "filler"
    for _ in range(2):
        run.pause(run.rng.uniform(0.3, 1.0))
        with filler.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(4096))
        run.pause(run.rng.uniform(1.0, 20.0 if run.full else 3.0))
        filler.unlink()


def platforms(fault: str, for_s: float, **more: object) -> Callable[[Run], None]:
    """Give how every platform fails for a while."""

    def act(run: Run) -> None:
        run.pause(run.rng.uniform(0.1, 0.8))
        run.fault(fault, *PLATFORMS, **more)
        run.pause(for_s * (5 if run.full else 1))
        run.no_faults()

    return act


def platforms_away(run: Run) -> None:
    """Let nothing answer at all: connections are taken and stay silent."""
    run.pause(run.rng.uniform(0.1, 0.8))
    run.site.sandbox.pause()
    run.services.homeserver.fault = "hang"
    run.pause(15.0 if run.full else 3.0)
    run.site.sandbox.resume()
    run.no_faults()
