"""The outbox against a model: whatever order things happen in, each row is where it should be."""

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from itertools import count
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
)
from sqlalchemy import event, text

from tests.processes import remove_folder, short_folder
from worker import by_hand, due, order, outbox
from worker.backoff import MAX_ATTEMPTS
from worker.by_hand import Resolution
from worker.database import engine as open_engine
from worker.database import migrate
from worker.errors import KeyConflict
from worker.intake import NewDelivery, check
from worker.states import ENDS, TRANSITIONS, State
from worker.taxonomy import ErrorKind, Failure
from worker.verdict import Place, Settlement

PLACE = Place("telegram", "", "1", None, "alice")
IN_ORDER = {State.QUEUED, State.SENDING, State.RETRYING, State.HELD}
SETTLED = sorted(TRANSITIONS[State.SENDING])
NO_CREDENTIAL = Failure(ErrorKind.AUTH, "refused")


RESOLVED = {
    Resolution.SENT: State.SENT,
    Resolution.RESEND: State.QUEUED,
    Resolution.DROP: State.CANCELLED,
}


@dataclass
class Row:
    """What the model knows of a delivery."""

    number: int
    chat: str | None
    later: bool
    key: str
    state: State
    attempt: int = 0
    used: int = 0
    #: Held for a credential, not for those before it.
    waits: bool = False

    @property
    def is_parked(self) -> bool:
        return self.state is State.HELD and not self.waits

    def go(self, *states: State) -> None:
        """Take steps that are legal, each of them."""
        for state in states:
            assert state in TRANSITIONS[self.state], f"{self.state} -> {state}"
            self.state, self.waits = state, False


@cache
def _migrated() -> Path:
    """Give an empty database, made once."""
    path = short_folder("model-") / "empty.db"
    made = open_engine(f"sqlite:///{path}")
    migrate(made)
    made.dispose()
    return path


class Outbox(RuleBasedStateMachine):
    """Rows of three chats, of which one is without order."""

    rows = Bundle("rows")
    claims = Bundle("claims")

    @initialize()
    def open(self) -> None:
        self.folder = short_folder("model-")
        database = self.folder / "model.db"
        shutil.copy(_migrated(), database)
        self.engine = open_engine(f"sqlite:///{database}")
        # Nothing here outlives the process, and thousands of flushes would take minutes.
        event.listen(self.engine, "connect", lambda made, _: made.execute("PRAGMA synchronous=OFF"))
        self.model: dict[str, Row] = {}
        self.numbers = count()

    def teardown(self) -> None:
        if hasattr(self, "engine"):
            self.engine.dispose()
            remove_folder(self.folder)

    def asked(self, chat: str | None, later: bool, key: str, said: str) -> NewDelivery:
        return check(
            to=f"telegram:{chat or 3}",
            text=said,
            key=key,
            order="none" if chat is None else "strict",
            at="2100-01-01" if later else None,
        )

    def behind(self, id_: str) -> bool:
        row = self.model[id_]
        return row.chat is not None and any(
            other.chat == row.chat and other.number < row.number and other.state in IN_ORDER
            for other in self.model.values()
        )

    def free(self, chats: set[str | None]) -> None:
        """Let the model's next row of each chat go."""
        for chat in chats - {None}:
            held = [r for r in self.model.values() if r.chat == chat and r.is_parked]
            if held:
                min(held, key=lambda r: r.number).go(State.QUEUED)

    def line_up(self, ids: Iterable[str]) -> None:
        """Queue again: what had ended comes last."""
        for row in sorted((self.model[id_] for id_ in ids), key=lambda r: (r.later, r.number)):
            if row.state in ENDS:
                row.number = next(self.numbers)
            row.go(State.QUEUED)
            row.used = 0

    @rule(target=rows, chat=st.sampled_from(["1", "2", None]), later=st.booleans())
    def insert(self, chat: str | None, later: bool) -> str:
        number = next(self.numbers)
        new = self.asked(chat, later, f"key-{number}", "x")
        with self.engine.begin() as connection:
            outbox.insert(connection, [new])
        state = State.SCHEDULED if later else State.QUEUED
        self.model[new.id] = Row(number, chat, later, f"key-{number}", state)
        return new.id

    @rule(id_=rows, other=st.booleans())
    def insert_again(self, id_: str, other: bool) -> None:
        """Its key gives the same row for the same body, in whatever state, else a conflict."""
        row = self.model[id_]
        again = self.asked(row.chat, row.later, row.key, "y" if other else "x")
        conflict = False
        try:
            with self.engine.begin() as connection:
                [accepted] = outbox.insert(connection, [again])
        except KeyConflict:
            conflict = True
        else:
            assert (accepted.id, accepted.created) == (id_, False)
            assert accepted.state == row.state
        assert conflict == other

    @rule(target=claims, named=st.booleans(), wanted=st.lists(rows, max_size=4))
    def claim(self, named: bool, wanted: list[str]) -> object:
        ids = wanted if named and wanted else []
        with self.engine.begin() as connection:
            taken = outbox.claim(connection, owner="w", lease_ms=60_000, limit=99, ids=ids)
        expected = set()
        queued = [i for i, r in self.model.items() if r.state is State.QUEUED]
        chosen = [i for i in queued if not ids or i in ids]
        behind = {i for i in chosen if self.behind(i)}
        for id_ in chosen:
            row = self.model[id_]
            if id_ in behind:
                row.go(State.HELD)
            else:
                row.go(State.SENDING)
                row.attempt += 1
                expected.add(id_)
        assert {c.id for c in taken.claimed} == expected
        return multiple(*[(c.id, c.attempt) for c in taken.claimed])

    @rule(claimed=consumes(claims), state=st.sampled_from(SETTLED), stale=st.booleans())
    def settle(self, claimed: tuple[str, int], state: State, stale: bool) -> None:
        id_, attempt = claimed
        row = self.model[id_]
        holds = row.state is State.SENDING and row.attempt == attempt and not stale
        cost = int(state in {State.RETRYING, State.SENT})
        settlement = Settlement(
            id_,
            attempt - stale,
            state,
            PLACE,
            delay_ms=0,
            cost=cost,
            failure=NO_CREDENTIAL if state is State.HELD else None,
            credential_print="old" if state is State.HELD else None,
            outcome="transient",
        )
        with self.engine.begin() as connection:
            settled = outbox.settle(connection, [settlement], owner="w")
            if settled and state in ENDS and row.chat:
                order.release(connection, {f"telegram@:{row.chat}"})
        assert settled == ({id_} if holds else set())
        if holds:
            row.go(state)
            row.used, row.waits = row.used + cost, state is State.HELD
            if state in ENDS:
                self.free({row.chat})

    @rule(claimed=consumes(claims))
    def give_back(self, claimed: tuple[str, int]) -> None:
        id_, attempt = claimed
        with self.engine.begin() as connection:
            outbox.give_back(connection, [claimed])
        row = self.model[id_]
        if row.state is State.SENDING and row.attempt == attempt:
            row.go(State.QUEUED)

    @rule()
    def lose_every_lease(self) -> None:
        with self.engine.begin() as connection:
            connection.execute(text("UPDATE delivery SET lease_until_ms = 1"))
            due.rescue(connection, keyed=["matrix"], asked=["slack"])
        ended: set[str | None] = set()
        for row in self.model.values():
            if row.state is State.SENDING:
                spent = row.used + 1 >= MAX_ATTEMPTS
                again = State.QUEUED if row.used == 0 else State.RETRYING
                row.go(State.UNKNOWN if spent else again)
                row.used += 1
                if spent:
                    ended.add(row.chat)
        self.free(ended)

    @rule(id_=rows)
    def become_due(self, id_: str) -> None:
        with self.engine.begin() as connection:
            connection.execute(text("UPDATE delivery SET due_ms = 1 WHERE id = :id"), {"id": id_})
            # Everything retrying is due: it was settled without a delay or is made so.
            connection.execute(text("UPDATE delivery SET due_ms = 1 WHERE state = 'retrying'"))
            due.queue_due(connection)
        for other, row in self.model.items():
            if row.state is State.RETRYING:
                row.go(State.QUEUED)
            elif other == id_ and row.state is State.SCHEDULED:
                row.go(State.QUEUED)
                row.number = next(self.numbers)

    @rule(id_=rows)
    def pass_its_time(self, id_: str) -> None:
        with self.engine.begin() as connection:
            connection.execute(
                text("UPDATE delivery SET expires_ms = 1 WHERE id = :id"), {"id": id_}
            )
            due.expire(connection)
            connection.execute(text("UPDATE delivery SET expires_ms = NULL"))
        row = self.model[id_]
        if row.state in {State.SCHEDULED, State.QUEUED, State.RETRYING, State.HELD}:
            row.go(State.EXPIRED)
            self.free({row.chat})

    @rule()
    def get_another_credential(self) -> None:
        with self.engine.begin() as connection:
            outbox.release_held(connection, platform="telegram", account="", credential_print="new")
        for row in self.model.values():
            if row.waits:
                row.go(State.QUEUED)

    @rule(wanted=st.lists(rows, max_size=3))
    def retry_by_hand(self, wanted: list[str]) -> None:
        with self.engine.begin() as connection:
            again = by_hand.retry(connection, wanted)
        allowed = {
            id_
            for id_ in wanted
            if self.model[id_].state in by_hand.RETRYABLE and not self.model[id_].is_parked
        }
        assert {requeued.id for requeued in again} == allowed
        self.line_up(allowed)

    @rule(wanted=st.lists(rows, max_size=3))
    def cancel_by_hand(self, wanted: list[str]) -> None:
        with self.engine.begin() as connection:
            cancelled = by_hand.cancel(connection, wanted)
        allowed = {id_ for id_ in wanted if self.model[id_].state in by_hand.CANCELLABLE}
        assert set(cancelled) == allowed
        for id_ in allowed:
            self.model[id_].go(State.CANCELLED)
        self.free({self.model[id_].chat for id_ in allowed})

    @rule(id_=rows, resolution=st.sampled_from(Resolution))
    def resolve_by_hand(self, id_: str, resolution: Resolution) -> None:
        with self.engine.begin() as connection:
            done = by_hand.resolve(connection, id_, resolution)
        row = self.model[id_]
        assert (done is None) == (row.state is not State.UNKNOWN)
        if row.state is State.UNKNOWN:
            if resolution is Resolution.RESEND:
                self.line_up([id_])
            else:
                row.go(RESOLVED[resolution])
                self.free({row.chat})

    @rule()
    def sweep(self) -> None:
        with self.engine.begin() as connection:
            order.sweep(connection)
        free = [row for i, row in self.model.items() if row.is_parked and not self.behind(i)]
        for row in free:
            row.go(State.QUEUED)

    @invariant()
    def every_row_is_where_the_model_says(self) -> None:
        if not hasattr(self, "model"):
            return
        with self.engine.begin() as connection:
            found = connection.execute(text("SELECT id, state, attempt FROM delivery")).all()
        assert {r.id: (r.state, r.attempt) for r in found} == {
            id_: (row.state.value, row.attempt) for id_, row in self.model.items()
        }

    @invariant()
    def no_chat_has_two_under_way(self) -> None:
        if not hasattr(self, "model"):
            return
        with self.engine.begin() as connection:
            most = connection.execute(
                text(
                    "SELECT max(n) FROM (SELECT count(*) AS n FROM delivery WHERE order_key IS "
                    "NOT NULL AND state = 'sending' GROUP BY order_key) AS chats"
                )
            ).scalar()
        assert most in (None, 1)


TestOutbox = Outbox.TestCase
TestOutbox.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
