"""The migrations: what they make is what the code says, there, back, and from two sides at once."""

import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, Index, String, inspect, text
from sqlalchemy.types import TypeEngine
from sqlmodel import SQLModel
from sqlmodel.sql.sqltypes import AutoString

from worker.database import check_schema, downgrade, migrate
from worker.database import engine as open_engine
from worker.errors import Misconfigured, SchemaMismatch, SchemaOutdated

#: Where tables are described; each adds its own to the models' metadata.
DESCRIBED = (
    "resolvers.sql",
    "scheduler.broadcasts.tables",
    "scheduler.tables",
    "worker.people.tables",
    "worker.sessions.table",
    "worker.tables",
)
HEAD_INDEX = "ix_delivery_queued"
MIGRATE = """
import sys
from worker.database import check_schema, engine, migrate
made = engine(sys.argv[1])
sys.stdin.readline()
migrate(made)
check_schema(made)
"""


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    made = open_engine(database_url)
    yield made
    made.dispose()


def objects(engine: Engine) -> set[str]:
    """Name every table, index, trigger and function that is there."""
    query = {
        "sqlite": "SELECT name FROM sqlite_master WHERE name NOT LIKE 'sqlite_%'",
        "postgresql": "SELECT relname FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace "
        "WHERE nspname = 'public' UNION SELECT proname FROM pg_proc p "
        "JOIN pg_namespace n ON n.oid = pronamespace WHERE nspname = 'public'",
    }[engine.dialect.name]
    with engine.begin() as connection:
        return set(connection.execute(text(query)).scalars())


def differ(
    context: object, inspected: object, described: object, is_: TypeEngine[object], said: object
) -> bool | None:
    """Take text without a limit as one type, however it is spelled."""
    both = isinstance(is_, String) and isinstance(said, String | AutoString)
    return False if both and is_.length is None and said.length is None else None


def is_of_an_expression(change: tuple[object, ...]) -> bool:
    """Tell of `lane DESC`, which no reflection gives back as it was said."""
    return len(change) > 1 and isinstance(change[1], Index) and change[1].name == HEAD_INDEX


def test_the_schema_is_the_one_that_the_models_describe(engine: Engine) -> None:
    for module in DESCRIBED:
        import_module(module)
    migrate(engine)
    with engine.begin() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": differ})
        found = compare_metadata(context, SQLModel.metadata)
    assert [change for change in found if not is_of_an_expression(change)] == []


def test_down_leaves_nothing_and_up_again_makes_the_same(engine: Engine) -> None:
    migrate(engine)
    made = objects(engine)
    downgrade(engine, "base")
    left = objects(engine) - {"alembic_version", "alembic_version_pkc"}
    assert left == set()
    migrate(engine)
    assert objects(engine) == made


def test_up_twice_keeps_what_is_stored(engine: Engine) -> None:
    migrate(engine)
    with engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO identity_link (platform, platform_user_id, unified_user_id, "
                "created_ms) VALUES ('telegram', '1', 'alice', 1)"
            )
        )
    migrate(engine)
    with engine.begin() as connection:
        assert connection.execute(text("SELECT count(*) FROM identity_link")).scalar() == 1


def test_deliveries_survive_people_and_broadcasts_there_and_back(engine: Engine) -> None:
    def store(id_: str, columns: str = "", values: str = "") -> None:
        with engine.begin() as connection:
            connection.execute(
                text(
                    "INSERT INTO delivery (id, body_hash, target, platform, account, text, silent, "
                    "source, lane, policy, state, due_ms, created_ms, attempt, attempts_used, "
                    f"maybe_duplicate{columns}) VALUES ('{id_}', 'h', 'telegram:1', 'telegram', "
                    "'', 'hi', false, '', 'reply', 'resend', 'queued', 1, 1, 0, 0, false"
                    f"{values})"
                )
            )

    migrate(engine)
    downgrade(engine, "0002")
    store("old")
    migrate(engine)
    store("new", ", topic, broadcast_id", ", 'offers', 'b'")
    store("edit", ", action, refers_to", ", 'edit', 'old'")
    with engine.begin() as connection:
        found = connection.execute(text("SELECT topic, action FROM delivery WHERE id = 'old'"))
        assert found.one() == ("", "send")
    downgrade(engine, "0002")
    with engine.begin() as connection:
        found = connection.execute(text("SELECT id, state FROM delivery"))
        # What the older code would take for a message of its own does not go out.
        assert {row.id: row.state for row in found} == {
            "old": "queued",
            "new": "queued",
            "edit": "cancelled",
        }


def test_processes_that_migrate_at_once_do_not_disturb_each_other(database_url: str) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", MIGRATE, database_url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(3)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], said


def test_an_empty_database_is_refused_with_the_command_that_mends_it(engine: Engine) -> None:
    with pytest.raises(SchemaOutdated, match=r"revision none, .*: run mirrorpost migrate"):
        check_schema(engine)
    assert not inspect(engine).has_table("delivery")


def test_a_newer_database_is_refused_with_what_to_upgrade(engine: Engine) -> None:
    migrate(engine)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(SchemaMismatch, match=r"9999, newer than this code .*: upgrade mirrorpost"):
        check_schema(engine)


def test_a_database_that_cannot_be_reached_is_named_without_its_password() -> None:
    made = open_engine("postgresql+psycopg://bob:hunter2@127.0.0.1:1/none")
    with pytest.raises(Misconfigured, match=r"bob:\*\*\*@127\.0\.0\.1:1/none") as refused:
        check_schema(made)
    made.dispose()
    assert "hunter2" not in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1
