"""The fire pass on both databases: what is due goes out once, whatever happens meanwhile."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from itertools import count, pairwise
from pathlib import Path

import pytest
from sqlalchemy import Engine, event, text
from sqlalchemy.exc import DBAPIError

from scheduler.fire import FirePass, _look, fire_due
from worker.database import engine as open_engine
from worker.database import migrate, now_ms, reading
from worker.outbox import Accepted

MESSAGE = {"to": "console:me", "text": "Stand-up"}
HOUR_MS = 3_600_000
_ids = count()


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    made = open_engine(database_url)
    migrate(made)
    yield made
    made.dispose()


@pytest.fixture(autouse=True)
def published(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Keep ids from the broker of whoever runs the tests, which a process finds only once.

    Publishing for real is shown by the scheduler processes of test_clock.py.
    """
    ids: list[str] = []

    def publish(_engine: Engine, accepted: Sequence[Accepted]) -> int:
        ids.extend(each.id for each in accepted)
        return len(accepted)

    monkeypatch.setattr("scheduler.fire.publish", publish)
    return ids


def put(engine: Engine, spec: object, message: object = MESSAGE, **columns: object) -> str:
    """Add a schedule as a process would that knows only the table."""
    name = f"s{next(_ids)}"
    documents = {"spec": spec, "message": message}
    if "policy" in columns:
        documents["policy"] = columns.pop("policy")
    values = {"id": name, "name": name, **columns}
    values |= {key: v if isinstance(v, str) else json.dumps(v) for key, v in documents.items()}
    with engine.begin() as connection:
        connection.execute(
            text(
                f"INSERT INTO schedule ({', '.join(values)}) "
                f"VALUES ({', '.join(f':{column}' for column in values)})"
            ),
            values,
        )
    return name


def change(engine: Engine, schedule: str, **columns: object) -> None:
    with engine.begin() as connection:
        connection.execute(
            text(f"UPDATE schedule SET {', '.join(f'{c} = :{c}' for c in columns)} WHERE id = :id"),
            {
                "id": schedule,
                **{c: json.dumps(v) if isinstance(v, dict) else v for c, v in columns.items()},
            },
        )


def row(engine: Engine, schedule: str):
    with reading(engine) as connection:
        return connection.execute(
            text("SELECT * FROM schedule WHERE id = :id"), {"id": schedule}
        ).one()


def fires(engine: Engine, schedule: str):
    with reading(engine) as connection:
        return connection.execute(
            text(
                "SELECT fire_ms, outcome, missed, missed_since_ms, fired_by, "
                "CAST(delivery_ids AS TEXT) AS delivery_ids "
                "FROM fire WHERE schedule_id = :id ORDER BY fire_ms"
            ),
            {"id": schedule},
        ).all()


def deliveries(engine: Engine, schedule: str = ""):
    with reading(engine) as connection:
        return connection.execute(
            text("SELECT id, key, text, lane, source, state FROM delivery WHERE key LIKE :key"),
            {"key": f"schedule:{schedule}{':' if schedule else ''}%"},
        ).all()


def clock(engine: Engine) -> int:
    with reading(engine) as connection:
        return now_ms(connection)


def fire(engine: Engine) -> FirePass:
    return fire_due(engine, by="test")


# What is due.


def test_what_is_due_becomes_one_fire_and_one_delivery_with_the_key_of_the_occurrence(
    engine: Engine, published: list[str]
) -> None:
    hour = clock(engine) // HOUR_MS * HOUR_MS
    schedule = put(engine, {"every_s": 3600}, next_fire_ms=hour)
    done = fire(engine)
    (fired,) = fires(engine, schedule)
    (delivery,) = deliveries(engine, schedule)
    assert (done.fired, done.left_out, done.broken) == (1, 0, 0)
    assert (fired.fire_ms, fired.outcome, fired.missed) == (hour, "fired", 0)
    assert json.loads(fired.delivery_ids) == [delivery.id] == published
    assert fired.fired_by == "test"
    assert delivery.key.startswith(f"schedule:{schedule}:20")
    assert delivery.key.endswith(":00:00+00:00")
    assert (delivery.text, delivery.lane) == ("Stand-up", "cron")
    assert delivery.source == f"schedule:{schedule}"
    assert row(engine, schedule).next_fire_ms == hour + HOUR_MS == done.next_due_ms


def test_a_second_pass_has_nothing_to_do(engine: Engine) -> None:
    schedule = put(engine, {"every_s": 3600}, next_fire_ms=clock(engine) - 1)
    fire(engine)
    assert fire(engine).taken == 0
    assert len(deliveries(engine, schedule)) == len(fires(engine, schedule)) == 1


def test_what_is_not_due_stays_and_its_time_is_told(engine: Engine) -> None:
    due = clock(engine) + HOUR_MS
    put(engine, {"every_s": 3600}, next_fire_ms=due + 5)
    put(engine, {"every_s": 3600}, next_fire_ms=due)
    assert fire(engine).next_due_ms == due
    assert deliveries(engine) == []


def test_without_schedules_nothing_is_due(engine: Engine) -> None:
    assert fire(engine).next_due_ms is None


@pytest.mark.parametrize("state", ["paused", "ended", "broken"])
def test_only_active_schedules_fire(engine: Engine, state: str) -> None:
    put(engine, {"every_s": 3600}, next_fire_ms=clock(engine) - 1, state=state)
    assert fire(engine).next_due_ms is None
    assert deliveries(engine) == []


def test_the_same_text_goes_out_at_every_occurrence(engine: Engine) -> None:
    past = clock(engine) - 3 * HOUR_MS
    schedule = put(
        engine,
        {"every_s": 3600, "anchor_ms": past},
        next_fire_ms=past,
        policy={"misfire": "all"},
    )
    fire(engine)
    assert len({delivery.key for delivery in deliveries(engine, schedule)}) == 4


# What other processes write.


def test_a_row_with_nothing_but_its_four_columns_is_planned_and_has_defaults(
    engine: Engine,
) -> None:
    before = clock(engine)
    schedule = put(engine, {"cron": "0 9 * * *", "tz": "Europe/Berlin"})
    fire(engine)
    planned = row(engine, schedule)
    assert planned.state == "active"
    assert before - 1 <= planned.created_ms == planned.updated_ms <= clock(engine) + 1
    assert before < planned.next_fire_ms <= before + 25 * HOUR_MS
    assert deliveries(engine) == []


def test_a_row_whose_first_occurrence_passed_before_it_was_seen_still_fires_it(
    engine: Engine,
) -> None:
    now = clock(engine)
    schedule = put(
        engine,
        {"every_s": 10, "anchor_ms": now - 5_000},
        created_ms=now - 6_000,
        updated_ms=now - 6_000,
    )
    fire(engine)
    assert [fired.fire_ms for fired in fires(engine, schedule)] == [now - 5_000]


def test_a_changed_spec_is_planned_anew(engine: Engine) -> None:
    schedule = put(engine, {"every_s": 86_400})
    fire(engine)
    change(engine, schedule, spec={"every_s": 60})
    fire(engine)
    assert 0 < row(engine, schedule).next_fire_ms - clock(engine) <= 60_000


def test_a_changed_spec_that_brings_its_own_time_keeps_it(engine: Engine) -> None:
    schedule = put(engine, {"every_s": 86_400})
    fire(engine)
    due = clock(engine) + 12_345
    change(engine, schedule, spec={"every_s": 60}, next_fire_ms=due)
    assert fire(engine).next_due_ms == due


def test_a_changed_message_is_what_goes_out(engine: Engine) -> None:
    schedule = put(engine, {"every_s": 3600}, next_fire_ms=clock(engine) - 1)
    change(engine, schedule, message=MESSAGE | {"text": "Changed"})
    fire(engine)
    assert [delivery.text for delivery in deliveries(engine, schedule)] == ["Changed"]


def test_an_ended_one_off_with_a_new_time_fires_again(engine: Engine) -> None:
    now = clock(engine)
    schedule = put(engine, {"at_ms": now - 2})
    fire(engine)
    assert row(engine, schedule).state == "ended"
    change(engine, schedule, spec={"at_ms": now - 1})
    fire(engine)
    assert [fired.fire_ms for fired in fires(engine, schedule)] == [now - 2, now - 1]
    assert row(engine, schedule).state == "ended"


# What no clock saw.


def test_after_downtime_the_latest_goes_out_once_and_the_rest_is_written_down(
    engine: Engine,
) -> None:
    now = clock(engine)
    since = now - 5 * HOUR_MS
    schedule = put(engine, {"every_s": 3600, "anchor_ms": since}, next_fire_ms=since)
    done = fire(engine)
    (fired,) = fires(engine, schedule)
    assert len(deliveries(engine, schedule)) == 1
    assert fired.fire_ms == since + 5 * HOUR_MS
    assert (fired.outcome, fired.missed, fired.missed_since_ms) == ("fired", 5, since)
    assert done.left_out == 5


def test_after_downtime_all_go_out_where_the_schedule_says_so(engine: Engine) -> None:
    since = clock(engine) - 249_500
    schedule = put(
        engine,
        {"every_s": 1, "anchor_ms": since},
        next_fire_ms=since,
        policy={"misfire": "all"},
    )
    while fire(engine).taken and row(engine, schedule).next_fire_ms < since + 250_000:
        pass
    times = [fired.fire_ms for fired in fires(engine, schedule)]
    assert times[:250] == [since + 1_000 * n for n in range(250)]
    assert len(deliveries(engine, schedule)) == len(times)


def test_after_downtime_none_goes_out_where_the_schedule_says_so(engine: Engine) -> None:
    since = clock(engine) - 5 * HOUR_MS - HOUR_MS // 2
    schedule = put(
        engine,
        {"every_s": 3600, "anchor_ms": since},
        next_fire_ms=since,
        policy={"misfire": "none"},
    )
    fire(engine)
    (skipped,) = fires(engine, schedule)
    assert deliveries(engine, schedule) == []
    assert (skipped.outcome, skipped.missed, skipped.missed_since_ms) == ("skipped", 6, since)
    assert row(engine, schedule).next_fire_ms == since + 6 * HOUR_MS


def test_a_one_off_of_the_downtime_goes_out_once_and_never_again(engine: Engine) -> None:
    schedule = put(engine, {"at_ms": clock(engine) - HOUR_MS})
    for _ in range(3):
        fire(engine)
    assert [delivery.lane for delivery in deliveries(engine, schedule)] == ["reminder"]
    assert row(engine, schedule).state == "ended"
    assert row(engine, schedule).next_fire_ms is None


def test_a_time_that_was_set_back_does_not_fire_twice(engine: Engine) -> None:
    hour = clock(engine) // HOUR_MS * HOUR_MS
    schedule = put(engine, {"every_s": 3600}, next_fire_ms=hour)
    fire(engine)
    change(engine, schedule, next_fire_ms=hour, message=MESSAGE | {"text": "Changed"})
    fire(engine)
    assert [delivery.text for delivery in deliveries(engine, schedule)] == ["Stand-up"]
    assert row(engine, schedule).next_fire_ms == hour + HOUR_MS
    assert row(engine, schedule).state == "active"


# What cannot be read.


@pytest.mark.parametrize(
    "bad",
    [
        {"spec": {"cron": "61 * * * *"}},
        {"spec": {"cron": "0 0 30 2 *"}},
        {"spec": {"cron": "@daily", "tz": "Mars/Olympus"}},
        {"spec": {"every_s": 0}},
        {"spec": {}},
        {"spec": []},
        {"message": {"to": "console:me"}},
        {"message": {"to": "console:me", "text": " "}},
        {"message": {"to": "pigeon:me", "text": "x"}},
        {"message": {"to": "console:me", "text": 5}},
        {"message": {"to": "console:me", "text": "x", "txt": "y"}},
        {"message": {"to": "console:me", "text": "x", "lane": "fast"}},
        {"message": []},
        {"policy": {"misfire": "maybe"}},
        {"policy": []},
        {"updated_ms": 10**17},
    ],
)
@pytest.mark.parametrize("due", [True, False])
def test_a_row_that_cannot_be_read_is_parked_and_stops_no_other(
    engine: Engine, bad: dict[str, object], due: bool
) -> None:
    if "updated_ms" in bad and due:
        bad = {"next_fire_ms": -(10**17)}
    now = clock(engine)
    columns = {"next_fire_ms": now - 1} if due else {}
    broken = put(engine, **{"spec": {"every_s": 3600}, **columns, **bad})
    good = put(engine, {"every_s": 3600}, next_fire_ms=now - 1)
    assert fire(engine).broken == 1
    parked = row(engine, broken)
    assert parked.state == "broken"
    assert parked.error
    assert "\n" not in parked.error
    assert len(deliveries(engine)) == len(deliveries(engine, good)) == 1
    assert fire(engine).taken == 0


def test_a_document_that_is_not_json_is_parked_too(tmp_path: Path) -> None:
    # Only SQLite takes it.
    engine = open_engine(f"sqlite:///{tmp_path / 'clock.db'}")
    migrate(engine)
    schedule = put(engine, "every day, please")
    fire(engine)
    assert row(engine, schedule).error.startswith("spec is not JSON")
    engine.dispose()


def test_a_mended_row_fires_what_it_could_not(engine: Engine) -> None:
    due = clock(engine) - 1
    schedule = put(engine, {"every_s": 3600}, {"to": "console:me"}, next_fire_ms=due)
    fire(engine)
    assert row(engine, schedule).state == "broken"
    change(engine, schedule, message=MESSAGE)
    fire(engine)
    assert (row(engine, schedule).state, row(engine, schedule).error) == ("active", None)
    assert [fired.fire_ms for fired in fires(engine, schedule)] == [due]
    assert len(deliveries(engine, schedule)) == 1


def test_a_mended_spec_is_planned(engine: Engine) -> None:
    schedule = put(engine, {"cron": "never"})
    fire(engine)
    change(engine, schedule, spec={"every_s": 60})
    fire(engine)
    assert row(engine, schedule).state == "active"
    assert row(engine, schedule).next_fire_ms > clock(engine)


def test_a_key_that_somebody_else_used_parks_that_schedule_alone(engine: Engine) -> None:
    hour = clock(engine) // HOUR_MS * HOUR_MS
    mine, other = (put(engine, {"every_s": 3600}, next_fire_ms=hour) for _ in range(2))
    fire(engine)
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM fire"))
        connection.execute(text("UPDATE schedule SET next_fire_ms = :hour"), {"hour": hour})
        connection.execute(
            text("UPDATE delivery SET body_hash = 'another' WHERE key LIKE :key"),
            {"key": f"schedule:{mine}:%"},
        )
    assert fire(engine).broken == 1
    assert "was used before for another body" in row(engine, mine).error
    assert row(engine, other).state == "active"
    assert len(fires(engine, other)) == 1


# Several at once, and faults.


@pytest.mark.parametrize("schedulers", [2, 5])
def test_several_schedulers_fire_each_occurrence_once(
    engine: Engine, database_url: str, schedulers: int
) -> None:
    since = clock(engine) - 4_500
    for _ in range(60):
        put(
            engine,
            {"every_s": 3600, "anchor_ms": since},
            next_fire_ms=since,
            policy={"misfire": "all"},
        )
    engines = [open_engine(database_url) for _ in range(schedulers)]
    together = threading.Barrier(schedulers)
    failed: list[BaseException] = []

    def work(own: Engine, name: str) -> None:
        try:
            together.wait(10)
            for _ in range(5):
                fire_due(own, by=name)
        except BaseException as error:  # noqa: BLE001 - told by the test itself
            failed.append(error)

    threads = [
        threading.Thread(target=work, args=(own, f"clock-{n}")) for n, own in enumerate(engines)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for own in engines:
        own.dispose()
    assert failed == []
    assert len(deliveries(engine)) == 60
    with reading(engine) as connection:
        assert connection.execute(text("SELECT count(*) FROM fire")).scalar_one() == 60


def test_a_failure_between_deliveries_and_fires_leaves_neither_and_loses_nothing(
    engine: Engine,
) -> None:
    schedule = put(engine, {"every_s": 3600}, next_fire_ms=clock(engine) - 1)
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE fire RENAME TO away"))
        connection.execute(text("CREATE TABLE fire (schedule_id TEXT, fire_ms BIGINT)"))
    with pytest.raises(DBAPIError):
        fire(engine)
    assert deliveries(engine) == []
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE fire"))
        connection.execute(text("ALTER TABLE away RENAME TO fire"))
    fire(engine)
    assert len(deliveries(engine, schedule)) == len(fires(engine, schedule)) == 1


@pytest.mark.parametrize("point", ["record", "_move", "publish"])
def test_a_scheduler_killed_at_any_point_fires_each_occurrence_once(
    engine: Engine, database_url: str, point: str
) -> None:
    schedules = [put(engine, {"every_s": 3600}, next_fire_ms=clock(engine) - 1) for _ in range(20)]
    script = (
        "import os, signal, sys, scheduler.fire as fire, worker.database as database\n"
        f"fire.{point} = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)\n"
        "fire.fire_due(database.engine(sys.argv[1]), by='killed')\n"
    )
    killed = subprocess.run(
        [sys.executable, "-c", script, database_url], env=os.environ, timeout=60, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    fire(engine)
    for schedule in schedules:
        assert len(deliveries(engine, schedule)) == len(fires(engine, schedule)) == 1
    assert {d.state for d in deliveries(engine)} == {"queued"}


# What it costs.


def test_many_due_cost_no_more_statements_than_one(engine: Engine) -> None:
    statements: list[int] = []

    def counted(rows: int) -> int:
        for _ in range(rows):
            put(engine, {"every_s": 3600}, next_fire_ms=clock(engine) - 1)
        seen: list[str] = []

        def note(_connection, _cursor, statement, *_rest) -> None:
            seen.append(statement)

        event.listen(engine, "before_cursor_execute", note)
        done = fire(engine)
        event.remove(engine, "before_cursor_execute", note)
        assert done.fired == rows
        return len([s for s in seen if "published_ms = 0" not in s])

    statements = [counted(1), counted(100), counted(400)]
    assert len(set(statements)) == 1


def test_a_pass_takes_at_most_its_batch_and_says_that_there_is_more(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO schedule (id, name, spec, message, next_fire_ms) "
                "VALUES (:id, :id, :spec, :message, 1000)"
            ),
            [
                {"id": f"many{n}", "spec": '{"at_ms": 1000}', "message": json.dumps(MESSAGE)}
                for n in range(1_100)
            ],
        )
    passes = [fire(engine) for _ in range(3)]
    assert [done.fired for done in passes] == [500, 500, 100]
    assert all(done.next_due_ms <= done.now_ms for done in passes[:2])
    assert passes[2].next_due_ms is None


def test_the_look_of_an_idle_clock_reads_only_the_edge_of_an_index(engine: Engine) -> None:
    dialect = engine.dialect.name
    explain = "EXPLAIN QUERY PLAN" if dialect == "sqlite" else "EXPLAIN"
    with engine.begin() as connection:
        if dialect == "postgresql":
            connection.execute(text("SET LOCAL enable_seqscan = off"))
        plan = connection.execute(text(f"{explain} {_look(dialect)}")).all()
    lines = [str(line) for line in plan]
    assert sum("ix_schedule_due" in line for line in lines) == 2
    assert not any("SCAN schedule" in line and "ix_schedule_due" not in line for line in lines)
    assert not any("Seq Scan" in line or "B-TREE" in line or "Sort" in line for line in lines)


def test_occurrences_of_an_interval_do_not_drift_over_many_fires(engine: Engine) -> None:
    anchor = clock(engine) - 777
    schedule = put(
        engine,
        {"every_s": 1, "anchor_ms": anchor - 20_000},
        next_fire_ms=anchor - 20_000,
        policy={"misfire": "all"},
    )
    fire(engine)
    times = [fired.fire_ms for fired in fires(engine, schedule)]
    assert len(times) >= 20
    assert {later - earlier for earlier, later in pairwise(times)} == {1_000}
