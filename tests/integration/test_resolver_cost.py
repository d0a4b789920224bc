"""Resolving costs at a million links what it costs at a thousand."""

import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis
from sqlalchemy import Engine, Executable, create_engine, text
from sqlmodel import SQLModel

from resolvers import IdentityLinkRow, RedisIdentityResolver, SqlIdentityResolver
from resolvers.redis import LINKS_KEY
from resolvers.sql import select_accounts, select_links_for

MANY = 1_000_000
#: A table that is read through would cost a thousand times as much, a deeper index some tenths.
MOST_TIMES_AS_MUCH = 4

FILL = {
    "sqlite": """
        INSERT INTO identity_link (platform, platform_user_id, unified_user_id, created_ms)
        WITH RECURSIVE number(n) AS (
            SELECT CAST(:first AS INTEGER) UNION ALL SELECT n + 1 FROM number WHERE n < :last)
        SELECT 'telegram', CAST(n AS TEXT), 'user' || CAST(n / 2 AS TEXT), 0 FROM number
    """,
    "postgresql": """
        INSERT INTO identity_link (platform, platform_user_id, unified_user_id, created_ms)
        SELECT 'telegram', CAST(n AS TEXT), 'user' || CAST(n / 2 AS TEXT), 0
        FROM generate_series(CAST(:first AS INTEGER), CAST(:last AS INTEGER)) AS n
    """,
}

FILL_REDIS = """
for n = tonumber(ARGV[1]), tonumber(ARGV[2]) do
    redis.call('HSET', KEYS[1], string.format('["telegram","%d"]', n), '0 user' .. n)
end
"""


@pytest.fixture(params=["sqlite", "postgresql"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    engine = create_engine(
        f"sqlite:///{tmp_path / 'links.db'}"
        if request.param == "sqlite"
        else request.getfixturevalue("postgres_url")
    )
    SQLModel.metadata.create_all(engine, tables=[IdentityLinkRow.__table__])
    yield engine
    engine.dispose()


def _fill(engine: Engine, first: int, last: int) -> None:
    with engine.begin() as connection:
        connection.execute(text(FILL[engine.dialect.name]), {"first": first, "last": last})
        connection.execute(text("ANALYZE identity_link"))


def _plan(engine: Engine, statement: Executable) -> str:
    explain = "EXPLAIN QUERY PLAN" if engine.dialect.name == "sqlite" else "EXPLAIN"
    compiled = statement.compile(engine, compile_kwargs={"literal_binds": True})
    with engine.connect() as connection:
        rows = connection.exec_driver_sql(f"{explain} {compiled}").all()
    return "\n".join(str(row[-1]) for row in rows)


def _median_resolve_s(
    resolver: SqlIdentityResolver | RedisIdentityResolver, highest: int, times: int = 200
) -> float:
    """Time resolves spread over all links; each is asked of the store."""
    took = []
    for n in range(times):
        number = n * highest // times
        start = time.perf_counter()
        unified = resolver.resolve("telegram", str(number))
        took.append(time.perf_counter() - start)
        assert unified.startswith("user")
    return statistics.median(took)


def test_a_million_links_in_sql_are_resolved_by_index_at_the_cost_of_a_thousand(
    engine: Engine,
) -> None:
    resolver = SqlIdentityResolver(engine, cache_ttl_s=0)
    _fill(engine, 0, 999)
    _median_resolve_s(resolver, 1000)
    few_s = _median_resolve_s(resolver, 1000)

    _fill(engine, 1000, MANY - 1)
    _median_resolve_s(resolver, MANY)
    many_s = _median_resolve_s(resolver, MANY)

    assert many_s < few_s * MOST_TIMES_AS_MUCH
    assert len(resolver.links_for("user77777")) == 2
    chunk = [(("telegram", "discord", "slack")[n % 3], str(n * 971)) for n in range(64)]
    for statement, index in (
        (select_accounts(chunk[:1]), "identity_link_pkey"),
        (select_accounts(chunk), "identity_link_pkey"),
        (select_links_for("user77777"), "ix_identity_link_unified_user_id"),
    ):
        plan = _plan(engine, statement)
        name = index.replace("identity_link_pkey", "sqlite_autoindex_identity_link_1")
        assert (name if engine.dialect.name == "sqlite" else index) in plan
        assert "Seq Scan" not in plan
        assert "SCAN identity_link" not in plan


def test_a_million_links_in_redis_are_resolved_at_the_cost_of_a_thousand(redis_url: str) -> None:
    with Redis.from_url(redis_url) as client:
        resolver = RedisIdentityResolver(client, cache_ttl_s=0)
        client.eval(FILL_REDIS, 1, LINKS_KEY, 0, 999)
        _median_resolve_s(resolver, 1000)
        few_s = _median_resolve_s(resolver, 1000)

        for first in range(1000, MANY, 111_000):
            client.eval(FILL_REDIS, 1, LINKS_KEY, first, first + 110_999)
        assert client.hlen(LINKS_KEY) == MANY
        many_s = _median_resolve_s(resolver, MANY)
        client.unlink(LINKS_KEY)

    assert many_s < few_s * MOST_TIMES_AS_MUCH
