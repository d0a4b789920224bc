"""What a broadcast costs before anything is sent: preflight, and fan-out row by row.

The command `mirrorpost broadcast preflight` is run as a process of its own against a PostgreSQL
with so many linked people, for a plain text and for a template; then the deliveries are made, of
few recipients and of all.

Example: python -m tests.bench.broadcast_rows --people 1000000
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.table import Table
from sqlalchemy import Engine, text

from resolvers import SqlIdentityResolver
from scheduler.broadcasts import audiences, drafts
from scheduler.broadcasts.fanout import CHUNK, fan_out
from scheduler.broadcasts.start import start
from tests.bench.machine import describe, pin
from tests.processes import short_folder
from tests.servers import PostgresServer, empty_database
from worker.database import engine as open_engine
from worker.database import migrate

#: The recipients of the small fan-out.
_FEW = 10_000
#: Kilobytes in a megabyte of `ru_maxrss`.
_KB = 1024
_PLAIN = "The spring offers are here, and they are as good as those of last year."
_TEMPLATE = "Hello {{ name }}, the spring offers are here for {{ city }}."

_LINKS = text(
    """
    INSERT INTO identity_link (platform, platform_user_id, unified_user_id, created_ms)
    SELECT CASE WHEN n % 10 = 0 THEN 'discord' ELSE 'telegram' END, CAST(n AS text),
        'person' || n, n FROM generate_series(1, CAST(:people AS bigint)) AS n
    """
)
_PEOPLE = text(
    """
    INSERT INTO person (unified_user, attributes)
    SELECT 'person' || n, json_build_object('name', 'N' || n, 'city', 'Ulm')
    FROM generate_series(1, CAST(:people AS bigint)) AS n
    """
)


@contextmanager
def _peopled(server: PostgresServer, people: int) -> Iterator[tuple[Engine, str]]:
    with empty_database(server.url) as url:
        engine = open_engine(url)
        migrate(engine)
        with engine.begin() as connection:
            for statement in (_LINKS, _PEOPLE):
                connection.execute(statement, {"people": people})
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("VACUUM ANALYZE")
        audiences.create_query(engine, SqlIdentityResolver(engine), "all", audiences.Kind.EVERYBODY)
        drafts.create(engine, "plain", audience="all", body=_PLAIN)
        drafts.create(engine, "template", audience="all", body=_TEMPLATE, templated=True)
        try:
            yield engine, url
        finally:
            engine.dispose()


def _preflight(name: str, env: Mapping[str, str], folder: Path) -> tuple[float, float]:
    """Run the command; give its seconds and the megabytes that it needed at most."""
    begun = time.perf_counter()
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "from scheduler.cli import main; main()",
            "broadcast",
            "preflight",
            name,
        ],
        env=env,
        cwd=folder,
        stdout=subprocess.DEVNULL,
    )
    _, status, used = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - begun
    assert os.waitstatus_to_exitcode(status) == 0, f"the preflight of {name} failed"
    return seconds, used.ru_maxrss / _KB


def _fan_out(engine: Engine, name: str, limit: int) -> float:
    """Make so many deliveries; give them a second."""
    id_ = drafts.get(engine, name).id
    begun, rows = time.perf_counter(), 0
    while rows < limit and (done := fan_out(engine, id_, CHUNK)):
        rows += done
    return rows / (time.perf_counter() - begun)


def _again(engine: Engine, name: str) -> None:
    """Let a broadcast be as if it had just been started."""
    with engine.begin() as connection:
        connection.exec_driver_sql("TRUNCATE delivery")
        connection.execute(text("UPDATE broadcast SET fanned_out = 0 WHERE name = :n"), {"n": name})


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.broadcast_rows")
    parser.add_argument("--people", type=int, default=1_000_000, help="linked people (1000000)")
    people: int = parser.parse_args().people
    machine, folder = describe(pin()), short_folder("bench-")
    server = PostgresServer(durable=True)
    table = Table("step", "what", "figure")
    try:
        server.start()
        with _peopled(server, people) as (engine, url):
            env = {**os.environ, "DATABASE_URL": url, "MIRRORPOST_HOME": str(folder)}
            for name in ("plain", "template"):
                seconds, megabytes = _preflight(name, env, folder)
                table.add_row(f"preflight, {name}", f"{people:,} people", f"{seconds:.1f} s")
                table.add_row("", "memory of the command", f"{megabytes:.0f} MB")
            for name in ("plain", "template"):
                start(engine, name)
                for rows in (min(_FEW, people), people):
                    _again(engine, name)
                    rate = _fan_out(engine, name, rows)
                    table.add_row(f"fan-out, {name}", f"{rows:,} rows", f"{rate:,.0f} rows/s")
    finally:
        server.close()
    console = Console(width=None if sys.stdout.isatty() else 110)
    console.print(f"{machine.cpu}, {machine.cores}, {machine.kernel}, Python {machine.python}")
    console.print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
