"""What running broadcasts let go: some seconds' worth, shared, by bot, and only while they run."""

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, event, text

from scheduler.broadcasts import feed as feeding
from scheduler.broadcasts.feed import feed
from tests.running_broadcasts import end, make, states, telegram
from tests.waiting import wait_until
from tests.workers import DATABASES, running_site
from worker import by_broadcast
from worker.by_broadcast import Bot
from worker.database import engine as open_engine
from worker.database import migrate

#: Four seconds of Telegram's pace.
ROOM = 119


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def engine(database_url: str, told: list[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    made = open_engine(database_url)
    migrate(made)
    monkeypatch.setattr(feeding, "publish", lambda _, rows: told.extend(r.id for r in rows))
    yield made
    made.dispose()


def test_only_some_seconds_worth_is_let_go_and_the_workers_are_told(
    engine: Engine, told: list[str]
) -> None:
    id_ = make(engine, telegram(300))
    assert feed(engine) == 1
    assert states(engine, id_) == {"queued": ROOM, "held": 300 - ROOM}
    assert len(told) == ROOM
    assert told == sorted(told)
    feed(engine)
    assert states(engine, id_)["queued"] == ROOM
    end(engine, id_, "sent", 30)
    feed(engine)
    assert states(engine, id_) == {"sent": 30, "queued": ROOM, "held": 300 - ROOM - 30}
    assert len(set(told)) == len(told) == ROOM + 30


@pytest.mark.parametrize("state", ["checked", "paused", "halted", "cancelled", "done"])
def test_what_does_not_run_lets_nothing_go(engine: Engine, state: str) -> None:
    id_ = make(engine, telegram(5), state=state)
    assert feed(engine) == 0
    assert states(engine, id_) == {"held": 5}


def test_each_bot_has_a_pace_of_its_own_and_a_slow_one_holds_no_other(engine: Engine) -> None:
    targets = [t for n in range(300) for t in (f"telegram:{n + 1}", f"discord:{n + 1}")]
    targets += [f"slack:C{n}" for n in range(300)] + [f"telegram@two:{n + 1}" for n in range(300)]
    targets += [f"user:u{n}" for n in range(300)]
    id_ = make(engine, targets)
    feed(engine)
    with engine.begin() as connection:
        rows = connection.execute(
            text(
                "SELECT platform, account, count(*) FROM delivery WHERE broadcast_id = :id "
                "AND state = 'queued' GROUP BY platform, account"
            ),
            {"id": id_},
        ).all()
    assert {(row[0], row[1]): row[2] for row in rows} == {
        ("telegram", ""): ROOM,
        ("telegram", "two"): ROOM,
        ("discord", ""): 196,
        ("slack", ""): 300,
        (None, ""): 192,
    }


def test_tenants_share_a_bot_and_so_do_the_broadcasts_of_one(engine: Engine) -> None:
    first = make(engine, telegram(200), name="a", tenant="x")
    second = make(engine, telegram(200), name="b", tenant="x")
    other = make(engine, telegram(200), name="c", tenant="y")
    feed(engine)
    queued = [states(engine, id_)["queued"] for id_ in (first, second, other)]
    assert sorted(queued[:2]) == [30, 30]
    assert queued[2] == ROOM // 2


def test_a_later_broadcast_does_not_come_after_all_of_an_earlier_one(engine: Engine) -> None:
    first = make(engine, telegram(300), name="a")
    feed(engine)
    second = make(engine, telegram(300), name="b")
    feed(engine)
    assert states(engine, second)["queued"] == ROOM // 2
    end(engine, first, "sent", 100)
    feed(engine)
    with engine.begin() as connection:
        due = {
            row.broadcast_id: row
            for row in connection.execute(
                text(
                    "SELECT broadcast_id, min(due_ms) AS first, max(due_ms) AS last "
                    "FROM delivery WHERE state = 'queued' GROUP BY broadcast_id"
                )
            )
        }
    # Workers take what is due first: what is let go now comes after what was let go before.
    assert due[first].last > due[second].first


def retry_later(engine: Engine, id_: str, delay_ms: int) -> None:
    with engine.begin() as connection:
        now = feeding.by_broadcast.NOW_MS[engine.dialect.name]
        connection.execute(
            text(
                f"UPDATE delivery SET state = 'retrying', due_ms = {now} + :delay "
                "WHERE broadcast_id = :id AND state = 'queued'"
            ),
            {"id": id_, "delay": delay_ms},
        )


def test_what_waits_long_for_another_attempt_does_not_stop_the_others(engine: Engine) -> None:
    id_ = make(engine, telegram(400))
    feed(engine)
    retry_later(engine, id_, 1_000)
    feed(engine)
    assert "queued" not in states(engine, id_)
    retry_later(engine, id_, 1_000)
    with engine.begin() as connection:
        connection.execute(
            text("UPDATE delivery SET due_ms = due_ms + 600000 WHERE state = 'retrying'")
        )
    feed(engine)
    assert states(engine, id_)["queued"] == ROOM


def test_a_platform_that_is_down_is_not_tried_with_the_whole_audience(engine: Engine) -> None:
    id_ = make(engine, telegram(1_500))
    for _ in range(20):
        feed(engine)
        retry_later(engine, id_, 600_000)
    assert states(engine, id_)["retrying"] == 10 * ROOM


def test_no_look_of_the_feed_reads_more_than_it_needs(engine: Engine) -> None:
    id_ = make(engine, telegram(2_000))
    make(engine, telegram(2_000), name="other")
    with engine.begin() as connection:
        connection.execute(text("ANALYZE"))
    seen: list[tuple[str, object]] = []

    def note(
        _connection: object, _cursor: object, statement: str, parameters: object, *_rest: object
    ) -> None:
        if "delivery" in statement:
            seen.append((statement, parameters))

    event.listen(engine, "before_cursor_execute", note)
    with engine.begin() as connection:
        by_broadcast.bots_waited_for(connection, [id_])
        by_broadcast.first_waiting(connection, id_, Bot("telegram", ""), limit=10)
        by_broadcast.first_waiting(connection, id_, Bot(None, ""), limit=10)
        by_broadcast.under_way(connection, id_, within_ms=4_000)
        by_broadcast.over(connection, [id_])
        by_broadcast.let_go(connection, ["x"])
        by_broadcast.take_back(connection, id_)
        by_broadcast.cancel_let_go(connection, id_)
        by_broadcast.cancel_held(connection, "none", after="x")
    event.remove(engine, "before_cursor_execute", note)
    sqlite = engine.dialect.name == "sqlite"
    explain = "EXPLAIN QUERY PLAN" if sqlite else "EXPLAIN"
    for statement, parameters in seen:
        with engine.begin() as connection:
            if not sqlite:
                # Two thousand rows are few: what counts is that there is an index to go by.
                connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
                connection.exec_driver_sql("SET LOCAL enable_bitmapscan = off")
            rows = connection.exec_driver_sql(f"{explain} {statement}", parameters).all()  # type: ignore[call-overload]
        plan = "\n".join(str(row[-1]) for row in rows)
        assert "Seq Scan on delivery" not in plan, plan
        assert "SCAN delivery" not in plan, plan
        if "SELECT id FROM delivery WHERE broadcast_id" in statement and "LIMIT" in statement:
            held = (
                "ix_delivery_broadcast" if statement.startswith("UPDATE") else "ix_delivery_waiting"
            )
            assert held in plan, plan
            # The bots of all broadcasts are few, and put in order afterwards.
            if not statement.startswith("WITH"):
                assert "Sort" not in plan, plan
                assert "TEMP B-TREE" not in plan, plan


@pytest.mark.parametrize("database", DATABASES)
def test_everybody_gets_it_once_by_workers_and_two_schedulers(
    request: pytest.FixtureRequest, database: str
) -> None:
    with running_site(request, database) as site, site.worker(), site.scheduler(), site.scheduler():
        targets = telegram(250) + [f"slack:C0NEWS{n:03d}" for n in range(50)]
        id_ = make(site.engine, targets)
        wait_until(lambda: states(site.engine, id_) == {"sent": 300}, 60, "everybody to get it")
        got = [m["chat"] for p in ("telegram", "slack") for m in site.sandbox.accepted(p)]
        assert sorted(got) == sorted(t.partition(":")[2] for t in targets)
