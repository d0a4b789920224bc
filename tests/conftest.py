"""The servers and folders that every test gets, and the promise that nothing outlives the run."""

import fcntl
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from kombu import Connection
from sqlalchemy.engine import make_url

from tests.isolation import forget_foreign_variables
from tests.processes import remove_folder, short_folder
from tests.servers import PostgresServer, RedisServer, empty_database, flush_redis
from worker.lanes import INTAKE_QUEUE, Lane


def pytest_configure(config: pytest.Config) -> None:
    # A shell starts what it puts into the background with SIGINT ignored, and so would be
    # everything that the tests start and interrupt.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    forget_foreign_variables()


# A machine that has other work would fail a property that holds.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")


def pytest_report_header() -> list[str]:
    return [
        f"PostgreSQL: {_named('TEST_DATABASE_URL') or 'started by the suite'}",
        f"Redis: {_named('TEST_REDIS_URL') or 'started by the suite'}",
        f"RabbitMQ: {_named('TEST_AMQP_URL') or 'left out, TEST_AMQP_URL is not set'}",
    ]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "broker_url" in metafunc.fixturenames:
        brokers = ["redis", "amqp"] if os.environ.get("TEST_AMQP_URL") else ["redis"]
        metafunc.parametrize("broker_url", brokers, indirect=True)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if os.environ.get("TEST_AMQP_URL"):
        return
    left_out = [item for item in items if "amqp_url" in getattr(item, "fixturenames", ())]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture(scope="session")
def postgres_server_url() -> Iterator[str]:
    """Address of the session's PostgreSQL; tests take `postgres_url`."""
    named = os.environ.get("TEST_DATABASE_URL")
    if named:
        yield named
        return
    server = PostgresServer()
    try:
        server.start()
        yield server.url
    finally:
        server.close()


@pytest.fixture
def postgres_url(postgres_server_url: str) -> Iterator[str]:
    """A fresh, empty database; dropped afterwards."""
    with empty_database(postgres_server_url) as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A fresh, empty database: what takes this runs on SQLite and on PostgreSQL."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'mirrorpost.db'}"
    url: str = request.getfixturevalue("postgres_url")
    return url


@pytest.fixture(scope="session")
def redis_server_url() -> Iterator[str]:
    """Address of the session's Redis; tests take `redis_url`."""
    named = os.environ.get("TEST_REDIS_URL")
    if named:
        address = make_url(named)
        # Database 0 is where people keep things: without a number take the last ones, one for
        # each process of the session.
        yield named if address.database else f"{named.rstrip('/')}/{15 - _process()}"
        return
    server = RedisServer()
    try:
        server.start()
        yield server.url
    finally:
        server.close()


@pytest.fixture
def redis_url(redis_server_url: str) -> str:
    """An empty Redis database without persistence that evicts nothing."""
    flush_redis(redis_server_url)
    return redis_server_url


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    """A running Redis of the test's own, to be stopped, killed and frozen."""
    server = RedisServer()
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture
def postgres_server() -> Iterator[PostgresServer]:
    """A running PostgreSQL of the test's own, to be stopped and killed."""
    server = PostgresServer()
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture
def amqp_url() -> Iterator[str]:
    """The RabbitMQ that TEST_AMQP_URL names, without our queues; unset, the test is left out.

    One test at a time has it, of all processes of the session.
    """
    url = os.environ["TEST_AMQP_URL"]
    lock = Path(tempfile.gettempdir()) / f"mirrorpost-amqp-{os.geteuid()}.lock"
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        _delete_queues(url)
        yield url
        _delete_queues(url)


@pytest.fixture
def broker_url(request: pytest.FixtureRequest) -> str:
    """Each broker that is there: Redis always, RabbitMQ where TEST_AMQP_URL names one."""
    name = {"redis": "redis_url", "amqp": "amqp_url"}[request.param]
    url: str = request.getfixturevalue(name)
    return url


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty MIRRORPOST_HOME, and an empty working directory beside it without a `.env`."""
    folder = short_folder()
    data, here = folder / "home", folder / "cwd"
    data.mkdir()
    here.mkdir()
    monkeypatch.setenv("MIRRORPOST_HOME", str(data))
    monkeypatch.chdir(here)
    yield data
    remove_folder(folder)


def _delete_queues(url: str) -> None:
    with Connection(url) as connection, connection.channel() as channel:
        for queue in (INTAKE_QUEUE, *(lane.queue for lane in Lane)):
            channel.queue_delete(queue)


def _process() -> int:
    """Give the number of this process among those of the session."""
    return int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))


def _named(variable: str) -> str | None:
    value = os.environ.get(variable)
    return make_url(value).render_as_string(hide_password=True) if value else None
