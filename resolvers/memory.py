"""Identity links that live as long as the process: for tests and single-process bots."""

import threading

from resolvers.protocol import (
    IdentityLink,
    check_account,
    check_link,
    is_linkable,
    link_at,
    now_ms,
    unlinked,
)
from resolvers.table import LinkTable


class InMemoryIdentityResolver:
    """Keep links in this process only.

    Not for production: a worker and a command line each see their own links, and a restart
    forgets all of them.
    """

    def __init__(self) -> None:
        self._table = LinkTable()
        self._lock = threading.Lock()

    def resolve(self, platform: str, platform_user_id: str) -> str:
        """Return the unified user of an account, `platform:platform_user_id` when unlinked."""
        if not is_linkable(platform, platform_user_id):
            return unlinked(platform, platform_user_id)
        with self._lock:
            return self._table.resolve(platform, platform_user_id)

    def link(self, platform: str, platform_user_id: str, unified_user_id: str) -> None:
        """Make an account one of a unified user's, taking it from whoever had it before.

        Raises `InvalidIdentity`: an id is empty, too long or not text; nothing was stored.
        """
        check_link(platform, platform_user_id, unified_user_id)
        with self._lock:
            self._table.put(link_at(platform, platform_user_id, unified_user_id, now_ms()))

    def unlink(self, platform: str, platform_user_id: str) -> None:
        """Forget an account's link; without one, do nothing."""
        check_account(platform, platform_user_id)
        with self._lock:
            self._table.remove((platform, platform_user_id))

    def links_for(self, unified_user_id: str) -> list[IdentityLink]:
        """Return every link of a unified user, ordered by account."""
        with self._lock:
            return self._table.links_for(unified_user_id)

    def links(self, limit: int = 1000) -> list[IdentityLink]:
        """Return the first `limit` links, ordered by account."""
        with self._lock:
            return self._table.links(limit)
