"""Links in memory, found by account and by unified user.

What `memory` serves and `file` loads. Not thread-safe by itself: its owner holds the lock.
"""

import heapq
from collections.abc import Iterable, Iterator

from resolvers.protocol import Account, IdentityLink, by_account, unlinked


class LinkTable:
    """Hold links with an index in each direction."""

    def __init__(self, links: Iterable[IdentityLink] = ()) -> None:
        self._by_account: dict[Account, IdentityLink] = {}
        self._by_user: dict[str, dict[Account, IdentityLink]] = {}
        for link in links:
            self.put(link)

    def __iter__(self) -> Iterator[IdentityLink]:
        return iter(self._by_account.values())

    def __len__(self) -> int:
        return len(self._by_account)

    def resolve(self, platform: str, platform_user_id: str) -> str:
        """Return the unified user of an account, its own name when unlinked."""
        link = self._by_account.get((platform, platform_user_id))
        return unlinked(platform, platform_user_id) if link is None else link.unified_user_id

    def put(self, link: IdentityLink) -> bool:
        """Store a link; return False when it was there already, whose time then stays."""
        account = by_account(link)
        if self._by_account.get(account) == link:
            return False
        self.remove(account)
        self._by_account[account] = link
        self._by_user.setdefault(link.unified_user_id, {})[account] = link
        return True

    def remove(self, account: Account) -> bool:
        """Forget an account's link; return False when there was none."""
        link = self._by_account.pop(account, None)
        if link is None:
            return False
        accounts = self._by_user[link.unified_user_id]
        del accounts[account]
        if not accounts:
            del self._by_user[link.unified_user_id]
        return True

    def links_for(self, unified_user_id: str) -> list[IdentityLink]:
        """Return a unified user's links in the order of their accounts."""
        return sorted(self._by_user.get(unified_user_id, {}).values(), key=by_account)

    def links(self, limit: int) -> list[IdentityLink]:
        """Return the first `limit` links in the order of their accounts."""
        return heapq.nsmallest(limit, self, key=by_account)
