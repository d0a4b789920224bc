"""Schedules as people handle them, on both databases."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from scheduler.fire import fire_due
from scheduler.occurrences import cron
from scheduler.schedule_views import fires, get, list_, preview, preview_of
from scheduler.schedules import add, pause, remove, resume, run
from worker.database import engine as open_engine
from worker.database import migrate, now_ms, reading
from worker.errors import NotFound, Refused
from worker.outbox import Accepted

TO_ME = {"to": "console:me", "text": "Stand-up"}


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


def sql(engine: Engine, statement: str, **values: object) -> None:
    with engine.begin() as connection:
        connection.execute(text(statement), values)


def rows(engine: Engine, table: str):
    with reading(engine) as connection:
        return connection.execute(text(f"SELECT * FROM {table}")).all()


def clock(engine: Engine) -> int:
    with reading(engine) as connection:
        return now_ms(connection)


def test_a_cron_schedule_is_planned_in_its_zone_when_it_is_added(engine: Engine) -> None:
    view = add(engine, "stand-up", cron="0 9 * * 1-5", tz="Europe/Berlin", **TO_ME)
    assert view.spec == {"cron": "0 9 * * 1-5", "tz": "Europe/Berlin"}
    assert view.message == TO_ME | {"lane": "cron"}
    assert view.state == "active"
    assert view.next_fire == datetime.fromisoformat(preview_of(engine, "stand-up", 1)[0]["utc"])
    assert view == get(engine, "stand-up") == get(engine, view.id)


def test_an_interval_begins_one_interval_after_it_was_added(engine: Engine) -> None:
    view = add(engine, "poll", every="1h30m", **TO_ME)
    assert view.next_fire is not None
    assert view.next_fire - view.created == pytest.approx(
        timedelta(minutes=90), abs=timedelta(seconds=1)
    )


def test_a_one_off_is_a_reminder(engine: Engine) -> None:
    view = add(engine, "call", at="in 10 minutes", **TO_ME)
    assert view.message == TO_ME | {"lane": "reminder"}
    assert view.next_fire is not None
    assert view.next_fire - view.created == pytest.approx(
        timedelta(minutes=10), abs=timedelta(seconds=1)
    )


def test_what_the_message_says_more_reaches_the_delivery(engine: Engine) -> None:
    add(
        engine,
        "poll",
        every="1h",
        lane="broadcast",
        source="billing",
        metadata={"invoice": 7},
        silent=True,
        policy="hold",
        **TO_ME,
    )
    run(engine, "poll")
    (delivery,) = rows(engine, "delivery")
    assert (delivery.lane, delivery.source, delivery.policy) == ("broadcast", "billing", "hold")
    assert bool(delivery.silent)
    metadata = delivery.metadata
    assert (json.loads(metadata) if isinstance(metadata, str) else metadata) == {"invoice": 7}


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"cron": "61 * * * *"}, "is not a cron expression"),
        ({"cron": "0 0 30 2 *"}, "is not a cron expression that ever fires"),
        ({"cron": "@daily", "tz": "Europe/Berln"}, "such as Europe/Berlin"),
        ({"every": "0s"}, "is no time at all"),
        ({"every": "1"}, "is not a duration"),
        ({"every": timedelta(0)}, "write 1s or longer"),
        ({"every": timedelta(seconds=-5)}, "write 1s or longer"),
        ({"at": "soon"}, "is not a time"),
        ({"at": "2020-01-01T09:00"}, "which is past"),
        ({"at": datetime(2020, 1, 1, tzinfo=UTC)}, "lies in the past"),
        ({"at": datetime(2099, 1, 1)}, "has no time zone"),  # noqa: DTZ001 - the defect
        ({}, "exactly one of cron, every and at"),
        ({"cron": "@daily", "every": "5m"}, "exactly one of cron, every and at"),
        ({"every": "5m", "to": "pigeon:me"}, "pigeon"),
        ({"every": "5m", "to": "me"}, "is not a target"),
        ({"every": "5m", "text": " "}, "text is empty"),
        ({"every": "5m", "lane": "fast"}, "lane 'fast' is not known"),
        ({"every": "5m", "misfire": "maybe"}, "misfire 'maybe' is not known"),
        ({"every": "5m", "metadata": {"when": object()}}, "metadata is not JSON"),
        ({"every": "5m", "name": ""}, "name must have"),
        ({"every": "5m", "name": "two\nlines"}, "name must have"),
    ],
)
def test_bad_input_is_refused_in_one_line_and_nothing_is_stored(
    engine: Engine, wrong: dict[str, object], says: str
) -> None:
    with pytest.raises(Refused, match=says) as refused:
        add(engine, **{"name": "x", **TO_ME, **wrong})
    assert "\n" not in str(refused.value)
    assert rows(engine, "schedule") == []


@pytest.mark.parametrize(
    "when",
    [
        {"cron": "@daily", "tz": "Asia/Tokyo"},
        {"every": "5m"},
        {"at": datetime(2099, 1, 1, tzinfo=UTC)},
    ],
)
def test_the_same_name_and_body_is_the_same_schedule(
    engine: Engine, when: dict[str, object]
) -> None:
    first = add(engine, "x", metadata={"a": 1}, **when, **TO_ME)
    assert add(engine, "x", metadata={"a": 1}, **when, **TO_ME) == first
    assert len(rows(engine, "schedule")) == 1


def test_a_one_off_that_has_gone_out_is_still_the_same_schedule(engine: Engine) -> None:
    soon = datetime.fromtimestamp(clock(engine) / 1000 + 1, UTC)
    first = add(engine, "x", at=soon, **TO_ME)
    past = soon - timedelta(days=1)
    sql(
        engine,
        "UPDATE schedule SET spec = :spec",
        spec=json.dumps({"at_ms": int(past.timestamp() * 1000)}),
    )
    fire_due(engine, by="test")
    past_ms = datetime.fromtimestamp(int(past.timestamp() * 1000) / 1000, UTC)
    again = add(engine, "x", at=past_ms, **TO_ME)
    assert (again.id, again.state) == (first.id, "ended")


@pytest.mark.parametrize(
    "other",
    [
        {"text": "Other"},
        {"every": "6m"},
        {"misfire": "all"},
        {"lane": "reminder"},
    ],
)
def test_the_same_name_with_another_body_is_refused_and_says_what_to_do(
    engine: Engine, other: dict[str, object]
) -> None:
    first = add(engine, "x", **{"every": "5m", **TO_ME})
    with pytest.raises(Refused, match="another name, or first run mirrorpost schedule remove x"):
        add(engine, "x", **{"every": "5m", **TO_ME, **other})
    assert list_(engine) == [first]


def test_one_name_added_by_many_at_once_is_one_schedule(engine: Engine) -> None:
    together = threading.Barrier(8)
    seen: list[str] = []

    def work() -> None:
        together.wait(10)
        seen.append(add(engine, "x", cron="@daily", **TO_ME).id)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(seen) == 8
    assert len(set(seen)) == len(rows(engine, "schedule")) == 1


def test_a_paused_schedule_does_not_fire_and_says_why(engine: Engine) -> None:
    add(engine, "x", every="1h", **TO_ME)
    view = pause(engine, "x", "holidays")
    sql(engine, "UPDATE schedule SET next_fire_ms = :past", past=clock(engine) - 1)
    assert fire_due(engine, by="test").fired == 0
    assert (view.state, view.note) == ("paused", "holidays")
    assert rows(engine, "delivery") == []


def test_what_was_missed_while_paused_is_left_out_and_written_down(engine: Engine) -> None:
    add(engine, "x", every="1h", **TO_ME)
    pause(engine, "x")
    now = clock(engine)
    since = now - 3 * 3_600_000 - 60_000
    sql(
        engine,
        "UPDATE schedule SET spec = :spec, next_fire_ms = :since",
        spec=json.dumps({"every_s": 3600, "anchor_ms": since}),
        since=since,
    )
    resumed = resume(engine, "x")
    fire_due(engine, by="test")
    assert (resumed.state, resumed.note) == ("active", None)
    assert resumed.next_fire == datetime.fromtimestamp(since / 1000, UTC) + timedelta(hours=4)
    (skipped,) = fires(engine, "x")
    assert (skipped.outcome, skipped.missed) == ("skipped", 4)
    assert skipped.missed_since == datetime.fromtimestamp(since / 1000, UTC)
    assert rows(engine, "delivery") == []


def test_resuming_in_time_misses_nothing(engine: Engine) -> None:
    view = add(engine, "x", every="1h", **TO_ME)
    pause(engine, "x")
    assert resume(engine, "x").next_fire == view.next_fire
    assert fires(engine, "x") == []


def test_a_one_off_whose_time_passed_while_paused_ends(engine: Engine) -> None:
    add(engine, "x", at="10m", **TO_ME)
    pause(engine, "x")
    past = clock(engine) - 60_000
    sql(
        engine,
        "UPDATE schedule SET spec = :spec, next_fire_ms = :past",
        spec=json.dumps({"at_ms": past}),
        past=past,
    )
    assert resume(engine, "x").state == "ended"
    assert [fire.outcome for fire in fires(engine, "x")] == ["skipped"]


def test_only_a_paused_schedule_is_resumed_and_only_an_active_one_paused(engine: Engine) -> None:
    add(engine, "x", every="1h", **TO_ME)
    with pytest.raises(Refused, match="is active: only a paused one is resumed"):
        resume(engine, "x")
    sql(engine, "UPDATE schedule SET state = 'ended'")
    with pytest.raises(Refused, match="is ended: only an active one is paused"):
        pause(engine, "x")


def test_running_now_is_an_occasion_of_its_own_and_leaves_the_plan_alone(engine: Engine) -> None:
    view = add(engine, "x", every="1h", **TO_ME)
    ids = [run(engine, "x").id for _ in range(3)]
    assert len({delivery.key for delivery in rows(engine, "delivery")}) == 3
    assert sorted(fire.delivery_ids[0] for fire in fires(engine, "x")) == sorted(ids)
    assert get(engine, "x").next_fire == view.next_fire


def test_running_now_never_takes_the_place_of_an_occurrence(engine: Engine) -> None:
    # Every second to the millisecond: whatever now is, an occurrence is near.
    view = add(engine, "x", every="1s", **TO_ME)
    assert isinstance(view.spec, dict)
    for _ in range(40):
        run(engine, "x")
    anchor = view.spec["anchor_ms"]
    assert all((fire.fire_ms - anchor) % 1000 for fire in rows(engine, "fire"))


def test_a_paused_schedule_can_be_run(engine: Engine) -> None:
    add(engine, "x", every="1h", **TO_ME)
    pause(engine, "x")
    assert run(engine, "x").created
    assert get(engine, "x").state == "paused"


def test_removing_keeps_what_it_made(engine: Engine) -> None:
    add(engine, "x", every="1h", **TO_ME)
    run(engine, "x")
    assert remove(engine, "x").name == "x"
    assert list_(engine) == []
    assert len(rows(engine, "delivery")) == len(rows(engine, "fire")) == 1


@pytest.mark.parametrize("action", [get, pause, resume, run, remove, fires])
def test_an_unknown_name_says_where_the_names_are(engine: Engine, action) -> None:
    with pytest.raises(NotFound, match="no schedule 'y': see mirrorpost schedule list"):
        action(engine, "y")


def test_a_broken_row_is_listed_as_it_is(engine: Engine) -> None:
    sql(
        engine,
        "INSERT INTO schedule (id, name, spec, message) VALUES ('a', 'a', '{\"cron\": 5}', '[]')",
    )
    fire_due(engine, by="test")
    (view,) = list_(engine)
    assert (view.state, view.spec, view.message) == ("broken", {"cron": 5}, [])
    assert view.error
    assert json.dumps(view.as_json())


def test_a_preview_shows_utc_and_the_local_clock_through_a_change() -> None:
    spec = cron("30 2 * * *", "Europe/Berlin")
    after = datetime(2027, 3, 27, 12, tzinfo=UTC)
    assert preview(spec, 2, after=after) == [
        {"utc": "2027-03-28T01:00:00+00:00", "local": "2027-03-28T03:00:00+02:00"},
        {"utc": "2027-03-29T00:30:00+00:00", "local": "2027-03-29T02:30:00+02:00"},
    ]


def test_a_producer_adds_a_schedule_to_the_database_that_the_settings_name(
    engine: Engine, database_url: str, home: Path
) -> None:
    script = (
        "from scheduler import schedule\n"
        "print(schedule('poll', every='5m', to='console:me', text='x').id)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"DATABASE_URL": database_url},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.strip() == get(engine, "poll").id
