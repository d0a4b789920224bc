"""The in-memory resolver under threads that are interrupted everywhere."""

import sys
import threading
from collections.abc import Iterator

import pytest

from resolvers import InMemoryIdentityResolver


@pytest.fixture
def hasty_threads() -> Iterator[None]:
    """Let threads take turns after a few instructions each."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_threads_that_fight_for_an_account_leave_it_with_one_owner(hasty_threads: None) -> None:
    resolver = InMemoryIdentityResolver()
    start = threading.Barrier(8)
    wrong: list[object] = []

    def work(thread: int) -> None:
        start.wait(timeout=30)
        try:
            for _ in range(2000):
                resolver.link("slack", "shared", f"owner{thread}")
                resolver.links_for(f"owner{thread}")
                resolver.unlink("slack", "shared")
                resolver.link("slack", "shared", f"owner{thread}")
        except Exception as error:  # noqa: BLE001 - shown by the assertion below
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(thread,)) for thread in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)

    assert wrong == []
    owners = [link for thread in range(8) for link in resolver.links_for(f"owner{thread}")]
    assert [link.unified_user_id for link in owners] == [resolver.resolve("slack", "shared")]
