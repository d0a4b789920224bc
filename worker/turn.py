"""One turn of the drain: a short transaction that settles, mirrors and claims.

Called by the pipeline, on its one database thread.
"""

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import structlog
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import InterfaceError, OperationalError

from resolvers import IdentityResolverProtocol
from worker import etiquette, order, outbox, suppress
from worker.bots import Bots
from worker.dead import Standing
from worker.failpoints import reach
from worker.mirror_batch import MirrorRefusedError, mirror_sent
from worker.resolve import Resolved, resolve
from worker.states import ENDS, State
from worker.verdict import Settlement

_log = structlog.get_logger(__name__)

#: Rows that make a claim worth repeating: there is probably more behind them.
MANY = 64


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a turn should claim.

    Attributes:
        ids: First of all these, and then whatever is queued if `anything`.
        limit: How many at most; 0 claims nothing.
    """

    ids: Sequence[str] = ()
    anything: bool = False
    limit: int = 0


@dataclass(frozen=True, slots=True)
class Got:
    """What a turn claimed; `more` says that there is probably more to be had."""

    claimed: Sequence[Resolved] = ()
    more: bool = False


@dataclass(frozen=True, slots=True)
class Finished:
    """One delivery with what came of it, not committed yet."""

    resolved: Resolved
    settlement: Settlement


class Turns:
    """Take turns on one connection; every call from the same thread."""

    def __init__(
        self,
        *,
        engine: Engine,
        resolver: IdentityResolverProtocol,
        bots: Bots,
        owner: str,
        lease_s: float,
        rules: etiquette.Rules,
    ) -> None:
        self._engine = engine
        self._resolver = resolver
        self._bots = bots
        self._owner = owner
        self._lease_ms = int(lease_s * 1000)
        self._rules = rules
        self._connection: Connection | None = None
        #: What was claimed and could not be used, to be given back with its fences.
        self._astray: Sequence[tuple[str, int]] = ()

    def take(self, finished: Sequence[Finished], wanted: Wanted) -> Got:
        """Settle and mirror what is finished, and claim and resolve what is next.

        What is next are also the further parts of what was settled, and what waited behind it.
        """
        read_s = time.monotonic()
        try:
            taken, noted, spares = self._commit(finished, wanted, singly=False)
        except MirrorRefusedError:
            taken, noted, spares = self._commit(finished, wanted, singly=True)
        self._astray = ()
        if not taken.claimed:
            return Got(more=taken.touched >= wanted.limit > 0)
        more = taken.touched >= min(wanted.limit, MANY)
        try:
            return self._prepare(taken.claimed, noted, read_s, spares=spares, more=more)
        except (OperationalError, InterfaceError) as error:
            # What is finished is settled by now, and must not be so again.
            _log.warning("claimed_in_vain", error=type(error).__name__, count=len(taken.claimed))
            self._astray = [(claim.id, claim.attempt) for claim in taken.claimed]
            return Got(more=True)

    def _prepare(
        self,
        claimed: Sequence[outbox.Claimed],
        noted: dict[str, Standing],
        read_s: float,
        *,
        spares: bool,
        more: bool,
    ) -> Got:
        """Give what was claimed its place, and spare its person what they should not get now."""
        resolved = resolve(
            claimed,
            engine=self._engine,
            resolver=self._resolver,
            print_of=self._print_of,
            read_s=read_s,
        )
        noted |= self._noted_of_routes(resolved)
        if noted:
            resolved = [
                suppress.follow(each, noted.get(each.claim.id), self._print_of) for each in resolved
            ]
        return self._spare(resolved, more=more) if spares else Got(resolved, more)

    def _commit(
        self, finished: Sequence[Finished], wanted: Wanted, *, singly: bool
    ) -> tuple[outbox.Taken, dict[str, Standing], bool]:
        with self._transaction() as connection:
            outbox.give_back(connection, self._astray)
            ids = [*self._settle(connection, finished, singly=singly), *wanted.ids]
            taken = self._claim(connection, ids, wanted)
            if not taken.claimed:
                return taken, {}, False
            places = ((claim.id, suppress.place_of(claim)) for claim in taken.claimed)
            noted = suppress.look_up(connection, places, self._print_of)
            return taken, noted, etiquette.is_needed(connection, self._rules)

    def _claim(self, connection: Connection, ids: Sequence[str], wanted: Wanted) -> outbox.Taken:
        claim = partial(outbox.claim, connection, owner=self._owner, lease_ms=self._lease_ms)
        taken = outbox.Taken([], 0)
        if ids and wanted.limit:
            taken = claim(limit=wanted.limit, ids=ids)
        # Tasks that come after the rows that they name were claimed must not cost a turn.
        if wanted.anything and taken.touched < wanted.limit:
            rest = claim(limit=wanted.limit - taken.touched)
            taken = outbox.Taken(taken.claimed + rest.claimed, taken.touched + rest.touched)
        return taken

    def _spare(self, resolved: Sequence[Resolved], *, more: bool) -> Got:
        """Give what may go to its person now; what may not is held, or has ended."""
        people = etiquette.people_of(resolved, self._resolver)
        if not people:
            return Got(resolved, more)
        with self._transaction() as connection:
            spared = etiquette.spare(connection, resolved, people, self._rules)
            suppress.give_back(connection, spared.back)
        return Got(spared.going, more or spared.freed)

    def _noted_of_routes(self, resolved: Sequence[Resolved]) -> dict[str, Standing]:
        """Give what is noted of the places that were only now chosen for people."""
        places = [(each.claim.id, each.place) for each in resolved if each.opens is not None]
        if not places:
            return {}
        with self._transaction() as connection:
            return suppress.look_up(connection, places, self._print_of)

    def _print_of(self, platform: str, account: str) -> str:
        return self._bots.get(platform, account)[1]

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
    ) -> list[str]:
        """Settle and mirror; give the ids that can be claimed because of it."""
        settlements = [each.settlement for each in finished]
        settled = outbox.settle(connection, settlements, owner=self._owner)
        if settled:
            reach("in_settle")
        if len(settled) < len(settlements):
            fenced = [s.id for s in settlements if s.id not in settled]
            _log.warning("settle_fenced", deliveries=fenced)
        done = [each for each in finished if each.settlement.id in settled]
        sent = [(d.resolved.claim, d.settlement) for d in done if d.settlement.state is State.SENT]
        mirror_sent(connection, sent, singly=singly)
        suppress.learn(connection, [(d.resolved, d.settlement) for d in done])
        _report_dead_letters([d.settlement for d in done])
        keys = {
            d.resolved.claim.order_key
            for d in done
            if d.resolved.claim.order_key is not None and d.settlement.state in ENDS
        }
        further_parts = [d.settlement.id for d in done if d.settlement.state is State.QUEUED]
        return [*further_parts, *order.release(connection, keys)]

    def renew(self, held: Mapping[str, int]) -> set[str]:
        """Lengthen the leases of deliveries, given with their fences; give those still held."""
        with self._transaction() as connection:
            return outbox.renew(connection, held, lease_ms=self._lease_ms)

    def note(self, claim: outbox.Claimed) -> bool:
        """Note before a send that it may be accepted from now on; `False` when it was lost."""
        with self._transaction() as connection:
            held = {claim.id: claim.attempt}
            return bool(outbox.renew(connection, held, lease_ms=self._lease_ms, in_doubt=True))

    def give_back(self, waiting: Sequence[Resolved]) -> None:
        """Return claimed deliveries that were not sent."""
        with self._transaction() as connection:
            outbox.give_back(connection, [(r.claim.id, r.claim.attempt) for r in waiting])
            suppress.give_back(connection, waiting)


def _report_dead_letters(settlements: Sequence[Settlement]) -> None:
    """Alarm once for all that failed of one cause, not once for each."""
    causes = Counter(
        (s.place.platform, s.failure.kind if s.failure else None)
        for s in settlements
        if s.state is State.FAILED
    )
    for (platform, kind), count in causes.items():
        _log.error("dead_letters", platform=platform, error_kind=kind, deliveries=count)
