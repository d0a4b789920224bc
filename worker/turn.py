"""One turn of the drain: a short transaction that settles, mirrors and claims.

Called by the pipeline, on its one database thread.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import structlog
from sqlalchemy import Connection, Engine

from resolvers import IdentityResolverProtocol
from worker import outbox
from worker.mirror_batch import MirrorRefusedError, mirror_sent
from worker.resolve import Resolved, resolve
from worker.send import Bots
from worker.settings import HTTP_TIMEOUT_S, LEASE_S
from worker.states import State
from worker.verdict import Settlement

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Finished:
    """One delivery with what came of it, not committed yet."""

    resolved: Resolved
    settlement: Settlement


class Turns:
    """Take turns on one connection; every call from the same thread."""

    def __init__(
        self, *, engine: Engine, resolver: IdentityResolverProtocol, bots: Bots, owner: str
    ) -> None:
        self._engine = engine
        self._resolver = resolver
        self._bots = bots
        self._owner = owner
        self._connection: Connection | None = None

    def take(self, finished: Sequence[Finished], ids: Sequence[str], limit: int) -> list[Resolved]:
        """Settle and mirror what is finished, and claim and resolve what is next.

        Args:
            ids: What to claim; empty for whatever is queued.
            limit: How many at most; 0 claims nothing.
        """
        try:
            claimed = self._commit(finished, ids, limit, singly=False)
        except MirrorRefusedError:
            claimed = self._commit(finished, ids, limit, singly=True)
        if not claimed:
            return []
        return resolve(
            claimed,
            engine=self._engine,
            resolver=self._resolver,
            has_credential=lambda name: self._bots.get(name)[0] is not None,
        )

    def _commit(
        self, finished: Sequence[Finished], ids: Sequence[str], limit: int, *, singly: bool
    ) -> list[outbox.Claimed]:
        # An answer takes at most the timeout, and settling it needs a margin of as much.
        send_by = time.monotonic() + LEASE_S - 2 * HTTP_TIMEOUT_S
        with self._transaction() as connection:
            self._settle(connection, finished, singly=singly)
            if not limit:
                return []
            return outbox.claim(
                connection,
                owner=self._owner,
                lease_ms=int(LEASE_S * 1000),
                send_by=send_by,
                limit=limit,
                ids=ids,
            )

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        """Give a transaction on the drain's own connection, made anew after a failure.

        A connection of the pool's would be tried with a round trip each time.
        """
        if self._connection is None:
            self._connection = self._engine.connect()
        try:
            with self._connection.begin():
                yield self._connection
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the connection; the next turn opens another one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _settle(
        self, connection: Connection, finished: Sequence[Finished], *, singly: bool
    ) -> None:
        settlements = [each.settlement for each in finished]
        settled = outbox.settle(connection, settlements, owner=self._owner)
        if len(settled) < len(settlements):
            fenced = [s.id for s in settlements if s.id not in settled]
            _log.warning("settle_fenced", deliveries=fenced)
        sent = [
            (each.resolved.claim, each.settlement)
            for each in finished
            if each.settlement.state is State.SENT and each.settlement.id in settled
        ]
        mirror_sent(connection, sent, singly=singly)

    def give_back(self, waiting: Sequence[Resolved]) -> None:
        """Return claimed deliveries that were not sent."""
        with self._transaction() as connection:
            outbox.give_back(connection, [(r.claim.id, r.claim.attempt) for r in waiting])
