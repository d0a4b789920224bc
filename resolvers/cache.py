"""Answers of a store, remembered for at most a second.

What `sql` and `redis` put before their reads. Bounded in size and in time; what this process
links or unlinks itself is seen at once, what others do within the time to live.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence

from resolvers.errors import ResolverError
from resolvers.protocol import Account, is_linkable, unlinked

#: Seconds: how long another process's link may go unseen. The promise of every stored resolver.
MAX_STALENESS_S = 1.0
#: Accounts: some 3 MB, and more people than one worker writes to within a second.
DEFAULT_CACHE_SIZE = 10_000


class AnswerCache:
    """Remember who accounts resolve to, linked or not.

    `ttl_s` is in seconds, 0 to `MAX_STALENESS_S`; `clock` gives monotonic seconds.
    """

    def __init__(
        self, ttl_s: float, size: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        if not 0 <= ttl_s <= MAX_STALENESS_S:
            raise ResolverError(
                f"a cache of {ttl_s} s: links may be at most {MAX_STALENESS_S:g} s old, at least 0"
            )
        if size < 1:
            raise ResolverError(f"a cache of {size} accounts: give at least 1")
        self._ttl_s = ttl_s
        self._size = size
        self._clock = clock
        self._lock = threading.Lock()
        self._answers: OrderedDict[Account, tuple[str, float]] = OrderedDict()
        self._changes = 0

    def resolve(
        self,
        accounts: Sequence[Account],
        fetch: Callable[[list[Account]], Mapping[Account, str]],
    ) -> list[str]:
        """Return one unified user per account, in order, asking the store once at most.

        `fetch` gets the distinct accounts that are not remembered and returns the linked ones.
        """
        # Age counts from before the read: a slow one must not make its answer look younger.
        asked_at = self._clock()
        with self._lock:
            changes = self._changes
            answers = {account: self._remembered(account, asked_at) for account in accounts}
        unknown = [
            account
            for account, answer in answers.items()
            if answer is None and is_linkable(*account)
        ]
        linked = fetch(unknown) if unknown else {}
        fetched = {account: linked.get(account, unlinked(*account)) for account in unknown}
        with self._lock:
            # A link made by this process during the read makes what was read out of date.
            if changes == self._changes:
                self._remember(fetched, asked_at)
        return [answers[a] or fetched.get(a) or unlinked(*a) for a in accounts]

    def forget(self, account: Account) -> None:
        """Drop what is remembered of an account, and what reads under way would remember."""
        with self._lock:
            self._changes += 1
            self._answers.pop(account, None)

    def _remembered(self, account: Account, now: float) -> str | None:
        answer, asked_at = self._answers.get(account, (None, 0.0))
        return answer if now - asked_at < self._ttl_s else None

    def _remember(self, fetched: Mapping[Account, str], asked_at: float) -> None:
        for account, answer in fetched.items():
            _, other_asked_at = self._answers.get(account, ("", asked_at))
            if other_asked_at > asked_at:
                continue
            self._answers[account] = (answer, asked_at)
            self._answers.move_to_end(account)
        while len(self._answers) > self._size:
            self._answers.popitem(last=False)
