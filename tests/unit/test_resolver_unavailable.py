"""A store that cannot be used: one error of ours, one line, no secret in it."""

import pytest
from sqlalchemy import create_engine

from resolvers import RedisIdentityResolver, SqlIdentityResolver, StoreUnavailable

SECRET = "s3cr3t-of-the-store"

#: Nobody listens on port 1 of this machine.
STORES = {
    "redis": lambda: RedisIdentityResolver(f"redis://:{SECRET}@127.0.0.1:1/0"),
    "postgresql": lambda: SqlIdentityResolver(
        create_engine(f"postgresql+psycopg://nobody:{SECRET}@127.0.0.1:1/none")
    ),
    "not migrated": lambda: SqlIdentityResolver(create_engine("sqlite://")),
}


@pytest.mark.parametrize("store", STORES)
def test_a_store_that_cannot_be_used_is_an_error_and_never_a_stranger(store: str) -> None:
    resolver = STORES[store]()

    for use in (
        lambda: resolver.resolve("telegram", "1"),
        lambda: resolver.resolve_many([("telegram", "1")]),
        lambda: resolver.link("telegram", "1", "alice"),
        lambda: resolver.unlink("telegram", "1"),
        lambda: resolver.links_for("alice"),
        resolver.links,
    ):
        with pytest.raises(StoreUnavailable) as caught:
            use()
        assert SECRET not in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_database_without_the_table_says_how_to_make_it() -> None:
    resolver = SqlIdentityResolver(create_engine("sqlite://"))

    with pytest.raises(StoreUnavailable, match=r"no such table: identity_link.*mirrorpost migrate"):
        resolver.resolve("telegram", "1")
