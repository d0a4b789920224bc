"""The SQL resolver on the worker's own engine and migrated tables."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from resolvers import SqlIdentityResolver
from worker import database


@pytest.fixture(params=["sqlite", "postgresql"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    engine = database.engine(
        f"sqlite:///{tmp_path / 'mirrorpost.db'}"
        if request.param == "sqlite"
        else request.getfixturevalue("postgres_url")
    )
    database.migrate(engine)
    yield engine
    engine.dispose()


def test_links_are_kept_in_the_table_that_the_migrations_make(engine: Engine) -> None:
    SqlIdentityResolver(engine).link("telegram", "42", "alice")
    SqlIdentityResolver(engine).link("telegram", "42", "bob")
    resolver = SqlIdentityResolver(engine)

    assert resolver.resolve_many([("telegram", "42"), ("slack", "U1")]) == ["bob", "slack:U1"]
    assert resolver.links_for("bob") == resolver.links()
    resolver.unlink("telegram", "42")
    assert resolver.links() == []


def test_resolving_waits_for_no_writer(engine: Engine) -> None:
    resolver = SqlIdentityResolver(engine, cache_ttl_s=0)
    resolver.link("telegram", "42", "alice")

    with engine.begin() as writer:
        writer.execute(text("UPDATE identity_link SET unified_user_id = 'bob'"))

        assert resolver.resolve("telegram", "42") == "alice"
        assert len(resolver.links_for("alice")) == len(resolver.links()) == 1

    assert resolver.resolve("telegram", "42") == "bob"
