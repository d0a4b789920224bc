"""Intake while the database cannot take a row: producers are told, messages wait, none is lost."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from uuid import uuid4

import psutil
import pytest
from celery import Celery

from tests.processes import remove_folder, short_folder
from tests.servers import PostgresServer, empty_database, flush_redis
from tests.waiting import wait_until
from tests.workers import Running, Site, running_site

_BYTES = 64 * 1024


@pytest.fixture(scope="module")
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    with running_site(request, "sqlite") as made, made.scheduler():
        yield made


def tell(site: Site, name: str, **message: object) -> str:
    """Send a task from a bare producer; give its id."""
    task_id = str(uuid4())
    with Celery(broker=site.redis_url) as app:
        app.send_task(name, queue="mirrorpost", task_id=task_id, **message)
    return task_id


@contextmanager
def full_disk(worker: Running, database: Path) -> Iterator[None]:
    """Let no process of a worker make the database's log longer."""
    size = max(_BYTES, Path(f"{database}-wal").stat().st_size)
    root = psutil.Process(worker.process.pid)
    tree = [root, *root.children(recursive=True)]
    for process in tree:
        process.rlimit(psutil.RLIMIT_FSIZE, (size, psutil.RLIM_INFINITY))
    yield
    for process in tree:
        process.rlimit(psutil.RLIMIT_FSIZE, (psutil.RLIM_INFINITY, psutil.RLIM_INFINITY))


def test_a_full_disk_keeps_messages_at_the_broker_until_there_is_room(site: Site) -> None:
    with site.worker() as worker:
        site.reaches(site.enqueue("telegram:51", "before"), "sent")
        with full_disk(worker, site.folder / "mirrorpost.db"):
            ids = [
                tell(site, "mirrorpost.deliver", kwargs={"to": "telegram:52", "text": "x" * 90_000})
                for _ in range(4)
            ]
            worker.has_printed("intake_waits_for_database")
            stored = [row for id_ in ids if (row := site.by_key(f"task:{id_}"))]
            assert len(stored) < len(ids)
        for id_ in ids:
            wait_until(lambda id_=id_: site.by_key(f"task:{id_}"), what="its row")  # type: ignore[misc]
            row = site.by_key(f"task:{id_}")
            assert row is not None
            site.reaches(row.id, "sent", within_s=60)
        site.reaches(site.enqueue("telegram:53", "after"), "sent")


def test_a_producer_is_told_that_the_disk_is_full_and_nothing_is_stored(site: Site) -> None:
    script = (
        "import resource, sys; from scheduler.cli import main; "
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({_BYTES}, {_BYTES})); "
        "sys.argv = ['mirrorpost', 'send', 'telegram:54', 'x' * 90_000, '--key', 'full']; main()"
    )
    site.execute("CREATE TABLE grow (t TEXT)")
    site.execute("INSERT INTO grow VALUES (:t)", t="x" * 2 * _BYTES)
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=site.env,
        cwd=site.cwd,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "the database cannot be used: " in done.stderr
    assert "Traceback" not in done.stderr
    assert site.by_key("full") is None


def test_what_the_worker_cannot_do_anything_with_is_ignored_and_it_goes_on(site: Site) -> None:
    with site.worker() as worker:
        sent = site.enqueue("telegram:55", "once")
        site.reaches(sent, "sent")
        for ids in (["0" * 32], [sent], [sent] * 50, "no list", [7]):
            for _ in range(10):
                tell(site, "mirrorpost.send", args=[ids])
        big = tell(
            site, "mirrorpost.deliver", kwargs={"to": "telegram:56", "text": "x" * 5_000_000}
        )
        (refused,) = wait_until(lambda: site.rejected(big), 30.0, "a refusal")
        assert refused.reason == "text is too long for telegram: 5000000, at most 100000"
        site.reaches(site.enqueue("telegram:55", "and again"), "sent")
        assert "Traceback" not in worker.printed()
    assert site.sandbox.texts("telegram", "55") == ["once", "and again"]
    assert len(site.attempts(sent)) == 1


def test_messages_wait_at_the_broker_while_postgresql_is_away(redis_server_url: str) -> None:
    flush_redis(redis_server_url)
    server, folder = PostgresServer(), short_folder("site-")
    with ExitStack() as stack:
        stack.callback(remove_folder, folder)
        stack.callback(server.close)
        server.start()
        url = stack.enter_context(empty_database(server.url))
        site = Site(folder, database_url=url, redis_url=redis_server_url, variables={})
        stack.callback(site.close)
        with site.worker() as worker, site.scheduler():
            site.reaches(site.enqueue("telegram:57", "before"), "sent")
            server.stop()
            id_ = tell(site, "mirrorpost.deliver", kwargs={"to": "telegram:58", "text": "kept"})
            worker.has_printed("intake_waits_for_database")
            server.start()
            wait_until(lambda: site.sandbox.texts("telegram", "58") == ["kept"], 30.0, "it")
            row = site.by_key(f"task:{id_}")
            assert row is not None
            assert row.state == "sent"
