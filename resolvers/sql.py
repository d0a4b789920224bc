"""Identity links in the database that the deliveries are in: the default.

SQLAlchemy Core over one table that is the same on SQLite and PostgreSQL. Each resolve is
one look-up in the primary key, `links_for` one in its own index; both have a plan test.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from sqlalchemy import BigInteger, Connection, Engine, Executable, Text, and_, delete, or_, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlmodel import Field, SQLModel

from resolvers.cache import DEFAULT_CACHE_SIZE, MAX_STALENESS_S, AnswerCache
from resolvers.errors import StoreUnavailable
from resolvers.protocol import (
    Account,
    IdentityLink,
    by_account,
    check_account,
    check_link,
    link_at,
    now_ms,
)

#: Accounts in one statement: far below either database's limit on parameters.
BATCH_SIZE = 500


class IdentityLinkRow(SQLModel, table=True):
    """One account of one unified user; `created_ms` is in epoch milliseconds UTC."""

    __tablename__ = "identity_link"

    platform: str = Field(primary_key=True, sa_type=Text)
    platform_user_id: str = Field(primary_key=True, sa_type=Text)
    unified_user_id: str = Field(index=True, sa_type=Text)
    created_ms: int = Field(sa_type=BigInteger)


_table = SQLModel.metadata.tables["identity_link"]
_row = _table.c


def select_accounts(accounts: Sequence[Account]) -> Executable:
    """Return the statement that gives platform, platform user id, unified user of accounts."""
    ids: dict[str, list[str]] = {}
    for platform, platform_user_id in accounts:
        ids.setdefault(platform, []).append(platform_user_id)
    # Not one list of pairs: SQLite reads the whole table for more than one.
    return select(_row.platform, _row.platform_user_id, _row.unified_user_id).where(
        or_(
            *(
                and_(_row.platform == platform, _row.platform_user_id.in_(platform_ids))
                for platform, platform_ids in ids.items()
            )
        )
    )


def select_links_for(*unified_user_ids: str) -> Executable:
    """Return the statement that gives the rows of unified users."""
    return select(_table).where(_row.unified_user_id.in_(unified_user_ids))


class SqlIdentityResolver:
    """Keep links in the table `identity_link`, which the migrations make.

    What other processes link is seen within `cache_ttl_s` seconds, at most one.

    The methods raise `StoreUnavailable` when the database cannot be used.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        cache_ttl_s: float = MAX_STALENESS_S,
        cache_size: int = DEFAULT_CACHE_SIZE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._cache = AnswerCache(cache_ttl_s, cache_size, clock)
        # The worker's engine begins SQLite transactions as a writer's unless told that it reads:
        # a resolve would wait for every write.
        self._reader = engine.execution_options(mirrorpost_reads=True)
        if engine.dialect.name == "postgresql":
            # One round trip a read, not three: no begin and no rollback.
            self._reader = self._reader.execution_options(isolation_level="AUTOCOMMIT")

    def resolve(self, platform: str, platform_user_id: str) -> str:
        """Return the unified user of an account, `platform:platform_user_id` when unlinked."""
        return self._cache.resolve([(platform, platform_user_id)], self._fetch)[0]

    def resolve_many(self, accounts: Sequence[Account]) -> list[str]:
        """Return one unified user per account, in order, in one round trip per 500."""
        return self._cache.resolve(accounts, self._fetch)

    def link(self, platform: str, platform_user_id: str, unified_user_id: str) -> None:
        """Make an account one of a unified user's, taking it from whoever had it before.

        Raises `InvalidIdentity`: an id is empty, too long or not text; nothing was stored.
        """
        check_link(platform, platform_user_id, unified_user_id)
        insert = (
            postgresql.insert(_table)
            if self._engine.dialect.name == "postgresql"
            else sqlite.insert(_table)
        ).values(
            platform=platform,
            platform_user_id=platform_user_id,
            unified_user_id=unified_user_id,
            created_ms=now_ms(),
        )
        upsert = insert.on_conflict_do_update(
            index_elements=[_row.platform, _row.platform_user_id],
            set_={
                "unified_user_id": insert.excluded.unified_user_id,
                "created_ms": insert.excluded.created_ms,
            },
            # The same link again keeps the time at which it was made.
            where=_row.unified_user_id != insert.excluded.unified_user_id,
        )
        with self._changing((platform, platform_user_id)) as connection:
            connection.execute(upsert)

    def unlink(self, platform: str, platform_user_id: str) -> None:
        """Forget an account's link; without one, do nothing."""
        check_account(platform, platform_user_id)
        with self._changing((platform, platform_user_id)) as connection:
            connection.execute(
                delete(_table).where(
                    _row.platform == platform, _row.platform_user_id == platform_user_id
                )
            )

    def links_for(self, unified_user_id: str) -> list[IdentityLink]:
        """Return every link of a unified user, ordered by account."""
        with _unavailable(), self._reader.connect() as connection:
            rows = connection.execute(select_links_for(unified_user_id)).all()
        return sorted((link_at(*row) for row in rows), key=by_account)

    def links_for_many(self, unified_user_ids: Sequence[str]) -> list[IdentityLink]:
        """Return every link of these unified users, in one round trip per 500."""
        links: list[IdentityLink] = []
        with _unavailable(), self._reader.connect() as connection:
            for start in range(0, len(unified_user_ids), BATCH_SIZE):
                batch = unified_user_ids[start : start + BATCH_SIZE]
                links += [link_at(*row) for row in connection.execute(select_links_for(*batch))]
        return links

    def links(self, limit: int = 1000) -> list[IdentityLink]:
        """Return the first `limit` links, ordered by account."""
        statement = select(_table).order_by(_row.platform, _row.platform_user_id).limit(limit)
        with _unavailable(), self._reader.connect() as connection:
            return [link_at(*row) for row in connection.execute(statement)]

    def _fetch(self, accounts: list[Account]) -> Mapping[Account, str]:
        linked: dict[Account, str] = {}
        with _unavailable(), self._reader.connect() as connection:
            for start in range(0, len(accounts), BATCH_SIZE):
                batch = accounts[start : start + BATCH_SIZE]
                for platform, platform_user_id, unified_user_id in connection.execute(
                    select_accounts(batch)
                ):
                    linked[platform, platform_user_id] = unified_user_id
        return linked

    @contextmanager
    def _changing(self, account: Account) -> Iterator[Connection]:
        """Commit what is done inside; forget the account also when it is unsure what was."""
        try:
            with _unavailable(), self._engine.begin() as connection:
                yield connection
        finally:
            self._cache.forget(account)


@contextmanager
def _unavailable() -> Iterator[None]:
    try:
        yield
    except (DBAPIError, PoolTimeoutError) as error:
        cause = error.orig if isinstance(error, DBAPIError) else error
        reason = next(iter(str(cause).splitlines()), type(cause).__name__)
        raise StoreUnavailable(
            f"the identity links in the database cannot be used: {reason}"
            " (is it reachable, and was `mirrorpost migrate` run?)"
        ) from error
