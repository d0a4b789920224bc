"""What runs stand on: servers that are kept from run to run, and a fresh site for each."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.chaos.matrix import Homeserver
from tests.servers import PostgresServer, RedisServer, empty_database, flush_redis
from tests.workers import Site

#: Shorter than in production, so that what a dead worker held comes back while we wait.
LEASE_S, HTTP_TIMEOUT_S = 5.0, 2.0
_SECRET = "whsec_" + "bWlycm9ycG9zdC1jaGFvcy1zZWNyZXQtMzItYnl0ZXM="


class Services:
    """The servers of all runs; the address of each stays the same."""

    def __init__(self, *, postgres: bool) -> None:
        self.redis = RedisServer()
        self.postgres = PostgresServer() if postgres else None
        self.homeserver = Homeserver()

    def start(self) -> None:
        """Start them."""
        self.redis.start()
        if self.postgres is not None:
            self.postgres.start()

    def close(self) -> None:
        """End them."""
        self.homeserver.close()
        self.redis.close()
        if self.postgres is not None:
            self.postgres.close()


@contextmanager
def new_site(services: Services, database: str, folder: Path) -> Iterator[Site]:
    """Make a fresh site on the kept servers; its folder stays."""
    flush_redis(services.redis.url)
    services.homeserver.forget()
    variables = {
        "MATRIX_HOMESERVER": services.homeserver.url,
        "MATRIX_ACCESS_TOKEN": services.homeserver.token,
        "MIRRORPOST_WEBHOOK_SECRET": _SECRET,
        "MIRRORPOST_WEBHOOK_ALLOW_PRIVATE": "true",
        "MIRRORPOST_LEASE_S": str(LEASE_S),
        "MIRRORPOST_HTTP_TIMEOUT_S": str(HTTP_TIMEOUT_S),
        "MIRRORPOST_FAILPOINT_TOKENS": str(folder / "tokens"),
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    if database == "sqlite":
        (folder / "database").mkdir()
        url = f"sqlite:///{folder / 'database' / 'mirrorpost.db'}"
        site = Site(folder, database_url=url, redis_url=services.redis.url, variables=variables)
        try:
            yield site
        finally:
            site.close()
        return
    assert services.postgres is not None
    with empty_database(services.postgres.url) as url:
        site = Site(folder, database_url=url, redis_url=services.redis.url, variables=variables)
        try:
            yield site
        finally:
            site.close()


def new_folder() -> Path:
    """Make the folder of a run; it outlives the session, for whoever asks what went wrong."""
    return Path(tempfile.mkdtemp(prefix="mp-chaos-"))
