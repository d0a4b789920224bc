"""The database: one engine for SQLite and PostgreSQL, its clock, its migrations.

Called by whoever needs a connection. Every `engine.begin()` is one short transaction; none
spans a network call.
"""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import alembic.command
import structlog
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from worker.errors import Misconfigured, SchemaMismatch, SchemaOutdated
from worker.settings import Settings

_log = structlog.get_logger(__name__)

#: Seconds that a worker or scheduler waits for the migration of a release beside it.
MIGRATION_WITHIN_S = 20.0
#: Seconds between two looks at the schema meanwhile.
_SCHEMA_POLL_S = 0.2
#: The PostgreSQL advisory lock under which migrations run; any constant will do.
_MIGRATION_LOCK = 0x6D6972726F72
#: Milliseconds that a SQLite writer waits for another one.
_BUSY_TIMEOUT_MS = 30_000
#: Seconds between two tries to switch to write-ahead logging.
_WAL_POLL_S = 0.02

#: SQL for the database's own clock, in epoch milliseconds.
NOW_MS = {
    "sqlite": "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)",
    "postgresql": "CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT)",
}


def engine(url: str) -> Engine:
    """Give an engine with the settings that keep a committed row.

    On SQLite every transaction begins as `BEGIN IMMEDIATE`, because a deferred one that
    turns into a writer fails at once whatever the busy timeout; see `reading` for reads.
    """
    if make_url(url).get_backend_name() == "sqlite":
        made = create_engine(url, connect_args={"check_same_thread": False})
        event.listen(made, "connect", _prepare_sqlite)
        event.listen(made, "begin", _begin_sqlite)
        return made
    return create_engine(
        url,
        pool_pre_ping=True,
        pool_size=5,
        max_overflow=5,
        connect_args={"connect_timeout": 5, "application_name": "mirrorpost"},
    )


def _prepare_sqlite(connection: object, _record: object) -> None:
    connection.isolation_level = None  # type: ignore[attr-defined]  # the DBAPI has no types
    cursor = connection.cursor()  # type: ignore[attr-defined]  # the DBAPI has no types
    # FULL: a committed message survives a loss of power.
    for pragma in (f"busy_timeout={_BUSY_TIMEOUT_MS}", "synchronous=FULL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    _write_ahead(cursor)
    cursor.close()


def _write_ahead(cursor: sqlite3.Cursor) -> None:
    """Switch to WAL; for that SQLite does not wait while another process does the same."""
    deadline = time.monotonic() + _BUSY_TIMEOUT_MS / 1000
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(_WAL_POLL_S)
        else:
            return


def _begin_sqlite(connection: Connection) -> None:
    reads = connection.get_execution_options().get("mirrorpost_reads", False)
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """Give a connection that only reads, and so waits for no writer."""
    with engine.connect().execution_options(mirrorpost_reads=True) as connection:
        yield connection


def now_ms(connection: Connection) -> int:
    """Give the database's clock in epoch milliseconds."""
    value = connection.execute(text(f"SELECT {NOW_MS[connection.dialect.name]}")).scalar_one()
    return int(value)


def masked(url: str) -> str:
    """Give a URL without its password."""
    return make_url(url).render_as_string(hide_password=True)


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config


def migrate(engine: Engine) -> None:
    """Bring the schema up to this code; safe to run from several processes at once."""
    config = _config()
    with engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(
                text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _MIGRATION_LOCK}
            )
        config.attributes["connection"] = connection
        alembic.command.upgrade(config, "head")


def downgrade(engine: Engine, revision: str) -> None:
    """Take the schema back to a revision (`base` for an empty database)."""
    config = _config()
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        alembic.command.downgrade(config, revision)


def check_schema(engine: Engine) -> None:
    """Refuse a database that this code does not know.

    Raises:
        SchemaOutdated: It is older, or empty; names the command that mends it.
        SchemaMismatch: It is newer.
        Misconfigured: The database cannot be reached.

    """
    script = ScriptDirectory.from_config(_config())
    try:
        with reading(engine) as connection:
            found = MigrationContext.configure(connection).get_current_revision()
    except SQLAlchemyError as error:
        reason = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
        shown = engine.url.render_as_string(hide_password=True)
        raise Misconfigured(f"the database {shown} cannot be reached: {reason}") from None
    wanted = script.get_current_head()
    if found == wanted:
        return
    known = {revision.revision for revision in script.walk_revisions()}
    if found is not None and found not in known:
        raise SchemaMismatch(
            f"the database is at revision {found}, newer than this code ({wanted}): "
            "upgrade mirrorpost"
        )
    raise SchemaOutdated(
        f"the database is at revision {found or 'none'}, this code needs {wanted}: "
        "run mirrorpost migrate"
    )


def await_schema(engine: Engine, within_s: float) -> None:
    """Wait for a migration that runs beside this process, as a release step does.

    Raises:
        SchemaOutdated: Nothing migrated it in time; names the command.
        SchemaMismatch: It is newer than this code.
        Misconfigured: The database cannot be reached.
    """
    deadline = time.monotonic() + within_s
    waiting = False
    while True:
        try:
            return check_schema(engine)
        except SchemaOutdated as error:
            if time.monotonic() > deadline:
                raise
            if not waiting:
                _log.warning("waiting_for_migration", reason=str(error), within_s=within_s)
                waiting = True
        time.sleep(_SCHEMA_POLL_S)


def ready(config: Settings) -> Engine:
    """Give the engine of a database that this code can use.

    The embedded one, where nothing is configured, is made and migrated on the way; any other
    is migrated by `mirrorpost migrate` alone.

    Raises:
        SchemaMismatch: Names the command that mends it.
        Misconfigured: The database cannot be reached.

    """
    made = engine(config.database)
    try:
        check_schema(made)
    except SchemaOutdated:
        if config.database_url is not None:
            raise
        migrate(made)
    return made
