"""The outbox under several processes, after months, and with a fence against the late."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

import pytest
from sqlalchemy import Engine, event, text

from scheduler.mirror_repair import _UNMIRRORED
from worker import due, outbox
from worker.database import engine as open_engine
from worker.database import migrate
from worker.intake import check
from worker.lanes import Lane
from worker.outbox import Claimed
from worker.states import State
from worker.verdict import Place, Settlement

PLACE = Place("telegram", "", "5", None, "alice")
CLAIM_ALL = """
import json, sys
from worker.database import engine
from worker.outbox import claim
made = engine(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
held = []
while True:
    with made.begin() as connection:
        found = claim(connection, owner=sys.argv[2], lease_ms=60_000, limit=7).claimed
    if not found:
        break
    held += [each.id for each in found]
print(json.dumps(held))
"""


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    made = open_engine(database_url)
    migrate(made)
    yield made
    made.dispose()


def put(engine: Engine, count: int = 1, **fields: object) -> list[str]:
    with engine.begin() as connection:
        new = [check(to=f"telegram:{n + 1}", text="x", **fields) for n in range(count)]  # type: ignore[arg-type]
        return [accepted.id for accepted in outbox.insert(connection, new)]


def claim(engine: Engine, limit: int = 64, ids: Sequence[str] = ()) -> list[Claimed]:
    with engine.begin() as connection:
        return outbox.claim(connection, owner="w", lease_ms=60_000, limit=limit, ids=ids).claimed


def settle(engine: Engine, claimed: Sequence[Claimed]) -> set[str]:
    done = [
        Settlement(
            c.id,
            c.attempt,
            State.SENT,
            PLACE,
            cost=1,
            receipt=("7",),
            mirror="done",
            outcome="sent",
        )
        for c in claimed
    ]
    with engine.begin() as connection:
        return outbox.settle(connection, done, owner="w")


def test_two_processes_never_claim_one_row_twice(engine: Engine, database_url: str) -> None:
    ids = put(engine, 400)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", CLAIM_ALL, database_url, f"w{n}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for n in range(2)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    held = [process.communicate("go\n", timeout=60)[0] for process in processes]
    claimed = [id_ for each in held for id_ in json.loads(each)]
    # A row that the other one was looking at is skipped, and taken by the next.
    claimed += [each.id for each in claim(engine, 400)]
    assert sorted(claimed) == ids


def test_a_row_given_back_is_claimed_again_under_a_new_fence(engine: Engine) -> None:
    put(engine)
    [first] = claim(engine)
    with engine.begin() as connection:
        outbox.give_back(connection, [(first.id, first.attempt)])
    [second] = claim(engine)
    assert second.attempt == first.attempt + 1
    assert second.attempts_used == 0
    assert settle(engine, [first]) == set()
    # Nor can the first holder give back what the second holds.
    with engine.begin() as connection:
        outbox.give_back(connection, [(first.id, first.attempt)])
    assert settle(engine, [second]) == {first.id}


def test_a_settle_that_comes_twice_records_one_attempt(engine: Engine) -> None:
    put(engine, 3)
    claimed = claim(engine)
    assert settle(engine, claimed) == {each.id for each in claimed}
    assert settle(engine, claimed) == set()
    with engine.begin() as connection:
        assert connection.execute(text("SELECT count(*) FROM attempt")).scalar() == 3


def test_a_lost_lease_is_taken_up_where_no_platform_can_tell_what_was_sent(engine: Engine) -> None:
    [id_] = put(engine)
    claim(engine)
    with engine.begin() as connection:
        connection.execute(text("UPDATE delivery SET lease_until_ms = 1"))
        rescued = due.rescue(connection, keyed=[], asked=[])
        doubled = connection.execute(text("SELECT maybe_duplicate FROM delivery")).scalar()
    assert [each.id for each in rescued] == [id_]
    assert doubled


def test_of_one_key_twice_in_one_batch_one_is_stored(engine: Engine) -> None:
    with engine.begin() as connection:
        new = [check(to="telegram:5", text="x", key="k") for _ in range(2)]
        first, second = outbox.insert(connection, new)
    assert (first.created, second.created) == (True, False)
    assert first.id == second.id


def fill(engine: Engine, ended: int) -> None:
    """Store as many ended deliveries as months leave behind, and look at them as a server does."""
    columns = (
        "body_hash, target, platform, account, chat_id, text, silent, source, lane, policy, "
        "state, due_ms, created_ms, attempt, attempts_used, maybe_duplicate, mirror, ended_ms"
    )
    numbers = (
        "SELECT value AS n FROM json_each(:numbers)"
        if engine.dialect.name == "sqlite"
        else "SELECT n FROM json_array_elements_text(CAST(:numbers AS json)) AS n"
    )
    with engine.begin() as connection:
        connection.execute(
            text(
                f"INSERT INTO delivery (id, {columns}) SELECT n, 'h', 'telegram:1', 'telegram', "
                "'', '1', 'x', false, '', 'reply', 'resend', 'sent', 1, 1, 1, 1, false, 'done', 1 "
                f"FROM ({numbers}) AS numbers"
            ),
            {"numbers": json.dumps([f"{n:032x}" for n in range(ended)])},
        )
    with engine.connect() as connection:
        connection.exec_driver_sql("ANALYZE")
        connection.commit()


def reads_whole_table(engine: Engine, statement: str, parameters: object) -> str | None:
    """Give the plan of a statement that reads every delivery."""
    sqlite = engine.dialect.name == "sqlite"
    with engine.begin() as connection:
        explain = "EXPLAIN QUERY PLAN" if sqlite else "EXPLAIN"
        rows = connection.exec_driver_sql(f"{explain} {statement}", parameters).all()  # type: ignore[call-overload]
    lines = [str(row[-1]) for row in rows]
    bad = ["Seq Scan on delivery"] if not sqlite else ["SCAN delivery"]
    whole = [x for x in lines if any(b in x for b in bad) and " USING " not in x.upper()]
    return "\n".join(lines) if whole else None


def test_no_duty_of_the_relay_reads_the_ended_deliveries(engine: Engine) -> None:
    fill(engine, 20_000)
    seen: list[tuple[str, object]] = []

    def note(
        _connection: object, _cursor: object, statement: str, parameters: object, *_rest: object
    ) -> None:
        if "delivery" in statement:
            seen.append((statement, parameters))

    event.listen(engine, "before_cursor_execute", note)
    with engine.begin() as connection:
        due.next_duty(connection)
        due.expire(connection)
        due.queue_due(connection)
        due.queue_waiting(connection)
        due.queue_unpublished(connection)
        due.correct_times(connection, lease_ms=30_000)
        due.stale_before(connection)
        due.queue_stale(connection, Lane.REPLY, 9)
        due.rescue(connection, keyed=["matrix"], asked=["slack"])
        due.mark_unpublished(connection, ["x"])
        outbox.give_back(connection, [("x", 1)])
        outbox.mark_mirror_failed(connection, ["x"])
        outbox.mark_mirrored(connection, "x", "alice")
        outbox.release_held(connection, platform="telegram", account="", credential_print="p")
        outbox.held_accounts(connection)
        connection.execute(_UNMIRRORED, {"limit": 100, "after": ""}).all()
    event.remove(engine, "before_cursor_execute", note)
    assert len(seen) == 17
    plans = [reads_whole_table(engine, statement, parameters) for statement, parameters in seen]
    assert [plan for plan in plans if plan] == []


def cost_s(engine: Engine) -> float:
    """Give the fastest of several rounds of 64: what is slower is the machine's doing."""
    rounds = []
    for _ in range(8):
        ids = put(engine, 64)
        began = time.perf_counter()
        claimed = claim(engine, ids=ids)
        assert settle(engine, claimed) == set(ids)
        rounds.append(time.perf_counter() - began)
    return min(rounds)


def test_claiming_and_settling_cost_the_same_after_a_hundred_thousand_deliveries(
    engine: Engine,
) -> None:
    fill(engine, 1_000)
    few = cost_s(engine)
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM delivery"))
    fill(engine, 100_000)
    assert cost_s(engine) < 3 * few
