import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import psutil
import psycopg
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.servers import PostgresServer, RedisServer, empty_database
from tests.waiting import wait_until

_ROOT = Path(__file__).parents[2]


def _plain(url: str) -> str:
    return url.replace("+psycopg", "")


def test_each_test_gets_a_database_with_no_tables(postgres_url: str) -> None:
    with psycopg.connect(_plain(postgres_url)) as connection:
        tables = connection.execute(
            "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"
        ).fetchone()
        connection.execute("CREATE TABLE left_behind (id int)")
    assert tables == (0,)


def test_a_database_is_dropped_although_somebody_is_still_connected(
    postgres_server_url: str,
) -> None:
    with empty_database(postgres_server_url) as url:
        lingering = psycopg.connect(_plain(url))
    with pytest.raises(psycopg.OperationalError):
        lingering.execute("SELECT 1")
    lingering.close()
    with pytest.raises(psycopg.OperationalError, match="does not exist"):
        psycopg.connect(_plain(url))


def test_redis_comes_empty_and_never_evicts(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        assert client.dbsize() == 0
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        client.set("left", "behind")


def test_a_killed_redis_starts_again_empty_at_the_same_address(redis_server: RedisServer) -> None:
    with redis.Redis.from_url(redis_server.url) as client:
        client.set("key", "value")
        redis_server.kill()
        redis_server.start()
        assert client.get("key") is None


def test_a_frozen_redis_answers_nothing_until_it_is_resumed(redis_server: RedisServer) -> None:
    with redis.Redis.from_url(
        redis_server.url, socket_timeout=0.2, retry=Retry(NoBackoff(), 0)
    ) as client:
        client.set("key", "value")
        redis_server.pause()
        with pytest.raises(redis.exceptions.TimeoutError):
            client.get("key")
        redis_server.resume()
        assert wait_until(lambda: client.get("key"), what="the resumed server") == b"value"


def test_a_killed_postgres_keeps_what_was_committed(postgres_server: PostgresServer) -> None:
    with psycopg.connect(_plain(postgres_server.url)) as connection:
        connection.execute("CREATE TABLE kept (id int)")
    postgres_server.kill()
    postgres_server.start()
    with psycopg.connect(_plain(postgres_server.url)) as connection:
        assert connection.execute("SELECT count(*) FROM kept").fetchone() == (0,)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=["interrupted", "killed"])
def test_servers_end_with_a_session_that_is(how: signal.Signals, tmp_path: Path) -> None:
    said = tmp_path / "said"
    suite = tmp_path / "test_waiting_for_the_end.py"
    suite.write_text(
        textwrap.dedent(f"""
        import pathlib, signal
        def test_waits(redis_server, postgres_server):
            pathlib.Path({str(said)!r}).write_text(
                f"{{redis_server.pid}} {{postgres_server.pid}} "
                f"{{redis_server.folder}} {{postgres_server.folder}}"
            )
            signal.pause()
        """)
    )
    session = subprocess.Popen(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "tests.conftest"),
            *("-p", "no:cacheprovider", str(suite)),
        ],
        cwd=_ROOT,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "TEST_DATABASE_URL": "", "TEST_REDIS_URL": ""},
        start_new_session=True,
    )
    try:
        wait_until(
            lambda: said.exists() and len(said.read_text().split()) == 4, 60.0, "the servers"
        )
        session.send_signal(how)
        session.wait(timeout=30)
    finally:
        session.kill()
        session.wait()
    redis_pid, postgres_pid, *folders = said.read_text().split()
    wait_until(
        lambda: not psutil.pid_exists(int(redis_pid)) and not psutil.pid_exists(int(postgres_pid)),
        what="the end of both servers",
    )
    wait_until(lambda: not any(Path(f).exists() for f in folders), what="the folders' removal")


def test_waiting_in_vain_says_for_what() -> None:
    with pytest.raises(AssertionError, match=r"waited 0\.05 s in vain for: a miracle"):
        wait_until(lambda: False, 0.05, "a miracle")


def test_home_is_empty_and_nothing_foreign_is_in_the_environment(home: Path) -> None:
    assert os.environ["MIRRORPOST_HOME"] == str(home)
    assert not list(home.iterdir())
    assert not list(Path.cwd().iterdir())
    assert not {name for name in os.environ if name.endswith("_TOKEN")} & {
        "TELEGRAM_BOT_TOKEN",
        "SLACK_BOT_TOKEN",
    }
    assert "DATABASE_URL" not in os.environ
