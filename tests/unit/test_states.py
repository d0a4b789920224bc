"""The states change by one table, and what writes them keeps to it."""

import time
from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import Connection, Engine, text

from worker import by_hand, due, outbox
from worker.by_hand import Resolution
from worker.database import engine as open_engine
from worker.database import migrate, now_ms
from worker.lanes import Lane
from worker.states import ENDS, TRANSITIONS, State, sources
from worker.verdict import Place, Settlement

PLACE = Place("telegram", "", "1", None, None)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    made = open_engine(f"sqlite:///{tmp_path_factory.mktemp('states') / 'mirrorpost.db'}")
    migrate(made)
    yield made
    made.dispose()


def test_every_state_has_its_row_in_the_table() -> None:
    assert set(TRANSITIONS) == set(State)


@pytest.mark.parametrize("target", State)
def test_sources_are_the_table_read_backwards(target: State) -> None:
    assert set(sources(target)) == {state for state in State if target in TRANSITIONS[state]}


def test_no_state_follows_itself() -> None:
    assert not any(state in TRANSITIONS[state] for state in State)


def test_only_by_hand_is_there_a_way_out_of_an_end() -> None:
    out = {state for state in ENDS if TRANSITIONS[state]}
    assert out == {State.FAILED, State.UNKNOWN, State.SUPPRESSED}
    assert TRANSITIONS[State.FAILED] == TRANSITIONS[State.SUPPRESSED] == {State.QUEUED}


def test_everything_that_is_no_end_can_reach_sent() -> None:
    for state in set(State) - ENDS:
        reached, edge = {state}, {state}
        while edge:
            edge = {after for each in edge for after in TRANSITIONS[each]} - reached
            reached |= edge
        assert State.SENT in reached, state


def test_only_a_claim_leads_to_sending_and_only_sending_or_a_person_to_sent() -> None:
    assert sources(State.SENDING) == (State.QUEUED,)
    assert set(sources(State.SENT)) == {State.SENDING, State.UNKNOWN}


def test_lane_names_sort_by_their_priority() -> None:
    assert list(Lane) == [Lane.REPLY, Lane.REMINDER, Lane.CRON, Lane.BROADCAST]
    assert sorted(Lane, reverse=True) == list(Lane)
    assert len({lane.queue for lane in Lane}) == len(Lane)


def _claim(connection: Connection) -> None:
    outbox.claim(connection, owner="w", lease_ms=1, limit=99)


def _claim_by_id(connection: Connection) -> None:
    outbox.claim(connection, owner="w", lease_ms=1, limit=99, ids=["d"])


def _release(connection: Connection) -> None:
    outbox.release_held(connection, platform="telegram", account="", credential_print="new")


def _rescue(connection: Connection) -> None:
    due.rescue(connection, keyed=["matrix"], asked=["slack"])


WRITERS: dict[str, Callable[[Connection], object]] = {
    "claim": _claim,
    "claim by id": _claim_by_id,
    "give_back": lambda connection: outbox.give_back(connection, [("d", 1)]),
    "release_held": _release,
    "mark_mirror_failed": lambda connection: outbox.mark_mirror_failed(connection, ["d"]),
    "mark_mirrored": lambda connection: outbox.mark_mirrored(connection, "d", "alice"),
    "expire": due.expire,
    "queue_due": due.queue_due,
    "queue_unpublished": due.queue_unpublished,
    "queue_stale": lambda connection: due.queue_stale(connection, Lane.REPLY, 9**15),
    "rescue": _rescue,
    "retry": lambda connection: by_hand.retry(connection, ["d"]),
    "cancel": lambda connection: by_hand.cancel(connection, ["d"]),
    "resolve sent": lambda connection: by_hand.resolve(connection, "d", Resolution.SENT),
    "resolve resend": lambda connection: by_hand.resolve(connection, "d", Resolution.RESEND),
    "resolve drop": lambda connection: by_hand.resolve(connection, "d", Resolution.DROP),
    "mark_unpublished": lambda connection: due.mark_unpublished(connection, ["d"]),
}
#: What each is for; every other pair of state and writer must leave the state as it is.
MOVES = {
    ("claim", State.QUEUED, State.SENDING),
    ("claim by id", State.QUEUED, State.SENDING),
    ("give_back", State.SENDING, State.QUEUED),
    ("release_held", State.HELD, State.QUEUED),
    ("expire", State.SCHEDULED, State.EXPIRED),
    ("expire", State.QUEUED, State.EXPIRED),
    ("expire", State.RETRYING, State.EXPIRED),
    ("expire", State.HELD, State.EXPIRED),
    ("queue_due", State.SCHEDULED, State.QUEUED),
    ("queue_due", State.RETRYING, State.QUEUED),
    ("rescue", State.SENDING, State.QUEUED),
    ("retry", State.FAILED, State.QUEUED),
    ("retry", State.SUPPRESSED, State.QUEUED),
    ("retry", State.HELD, State.QUEUED),
    ("retry", State.UNKNOWN, State.QUEUED),
    ("cancel", State.SCHEDULED, State.CANCELLED),
    ("cancel", State.QUEUED, State.CANCELLED),
    ("cancel", State.RETRYING, State.CANCELLED),
    ("cancel", State.HELD, State.CANCELLED),
    ("cancel", State.UNKNOWN, State.CANCELLED),
    ("resolve sent", State.UNKNOWN, State.SENT),
    ("resolve resend", State.UNKNOWN, State.QUEUED),
    ("resolve drop", State.UNKNOWN, State.CANCELLED),
}
#: Writers that leave alone what must not go out any more.
WITHIN_TIME = {"retry", "resolve resend"}


def put(engine: Engine, state: State, **columns: object) -> None:
    """Make the one row: due, expired, leased in the past, held for a credential, unpublished."""
    values = {
        "id": "d",
        "body_hash": "",
        "target": "telegram:1",
        "platform": "telegram",
        "account": "",
        "chat_id": "1",
        "text": "x",
        "silent": False,
        "source": "",
        "lane": "reply",
        "policy": "resend",
        "state": state.value,
        "due_ms": 1,
        "expires_ms": 1,
        "created_ms": 1,
        "attempt": 1,
        "attempts_used": 0,
        "lease_until_ms": 1,
        "published_ms": 0,
        "error_kind": "auth",
        "credential_print": "old",
        "maybe_duplicate": False,
        **columns,
    }
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM delivery"))
        connection.execute(
            text(
                f"INSERT INTO delivery ({', '.join(values)}) "
                f"VALUES ({', '.join(f':{name}' for name in values)})"
            ),
            values,
        )


def state_after(engine: Engine, write: Callable[[Connection], object]) -> State:
    with engine.begin() as connection:
        write(connection)
        return State(connection.execute(text("SELECT state FROM delivery")).scalar_one())


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("name", WRITERS)
def test_each_writer_moves_only_what_it_is_for(engine: Engine, name: str, state: State) -> None:
    put(engine, state, **({"expires_ms": None} if name in WITHIN_TIME else {}))
    after = state_after(engine, WRITERS[name])
    moved = {(name, state, after)} if after is not state else set()
    assert moved == {move for move in MOVES if move[:2] == (name, state)}
    assert after is state or after in TRANSITIONS[state]


@pytest.mark.parametrize(
    ("platform", "policy", "used", "after"),
    [
        ("telegram", "resend", 0, State.QUEUED),
        # Its worker would have noted that it had begun.
        ("telegram", "hold", 0, State.QUEUED),
        ("telegram", "resend", 6, State.UNKNOWN),
        ("matrix", "hold", 0, State.QUEUED),
        ("matrix", "resend", 6, State.UNKNOWN),
        (None, "resend", 0, State.QUEUED),
        (None, "hold", 0, State.QUEUED),
        # The second time it waits: it may be what kills the workers.
        ("telegram", "resend", 1, State.RETRYING),
        ("slack", "hold", 0, State.QUEUED),
    ],
)
def test_a_rescue_leads_only_where_sending_may_lead(
    engine: Engine, platform: str | None, policy: str, used: int, after: State
) -> None:
    put(engine, State.SENDING, platform=platform, policy=policy, attempts_used=used)
    assert state_after(engine, _rescue) is after
    assert after in TRANSITIONS[State.SENDING]
    with engine.begin() as connection:
        ended = connection.execute(text("SELECT ended_ms FROM delivery")).scalar_one()
        assert (ended is not None) == (after in ENDS)
        assert ended is None or abs(ended - now_ms(connection)) < 5_000


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("target", State)
def test_a_settle_writes_only_what_may_follow_sending(
    engine: Engine, state: State, target: State
) -> None:
    put(engine, state)
    settlement = Settlement("d", 1, target, PLACE, started_ms=time.time_ns() // 1_000_000)

    def write(connection: Connection) -> None:
        outbox.settle(connection, [settlement], owner="w")

    if target in TRANSITIONS[State.SENDING]:
        assert state_after(engine, write) is (target if state is State.SENDING else state)
    else:
        with pytest.raises(AssertionError, match="does not follow sending"):
            state_after(engine, write)
