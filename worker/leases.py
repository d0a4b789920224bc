"""Leases: what this process holds, by which fence, and for how long it may still send it.

The drain's own view, on its loop and its monotonic clock; the rows have the database's.
"""

import time
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass

from worker.outbox import Claimed

#: How often a lease is renewed while it lasts.
RENEWALS = 3


@dataclass(frozen=True, slots=True)
class _Lease:
    """`until` on the monotonic clock, in seconds."""

    attempt: int
    until: float


class Leases:
    """The deliveries that were claimed and are not settled yet."""

    def __init__(self, lease_s: float) -> None:
        self._lease_s = lease_s
        self._held: dict[str, _Lease] = {}

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, id_: str) -> bool:
        return id_ in self._held

    def until(self) -> float:
        """Give until when leases last that are taken or renewed from now on."""
        return time.monotonic() + self._lease_s

    def add(self, claims: Iterable[Claimed], until: float) -> None:
        """Hold what was claimed."""
        self._held.update((claim.id, _Lease(claim.attempt, until)) for claim in claims)

    def let_go(self, fences: Iterable[tuple[str, int]]) -> None:
        """Hold no longer what was settled or given back, unless it was claimed anew."""
        for id_, attempt in fences:
            if self._is_held(id_, attempt):
                del self._held[id_]

    def old(self) -> dict[str, int]:
        """Give what is to be renewed now, with its fences."""
        old = time.monotonic() + self._lease_s * (1 - 0.5 / RENEWALS)
        return {i: lease.attempt for i, lease in self._held.items() if lease.until < old}

    def renew(self, asked: Mapping[str, int], kept: Container[str], until: float) -> None:
        """Hold for longer what was asked for and is still this process's."""
        for id_, attempt in asked.items():
            if id_ in kept and self._is_held(id_, attempt):
                self._held[id_] = _Lease(attempt, until)

    def lasts(self, claim: Claimed, seconds: float) -> bool:
        """Tell whether a delivery is held by this claim, and for so long, if it is not renewed.

        A process that was frozen finds here that its rows are somebody else's by now; one that
        was lost and claimed anew is for that claim to send.
        """
        lease = self._held.get(claim.id)
        return (
            lease is not None
            and lease.attempt == claim.attempt
            and lease.until - time.monotonic() > seconds
        )

    def _is_held(self, id_: str, attempt: int) -> bool:
        lease = self._held.get(id_)
        return lease is not None and lease.attempt == attempt
