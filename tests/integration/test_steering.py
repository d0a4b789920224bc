"""Pausing, resuming and cancelling a broadcast; what ends it, and what makes it halt by itself."""

import time
from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, text

from scheduler.broadcasts import feed as feeding
from scheduler.broadcasts import steer
from scheduler.broadcasts.feed import feed
from scheduler.broadcasts.oversee import Overseer
from scheduler.broadcasts.states import BroadcastState
from tests.running_broadcasts import end, fan_out, make, states, stored, telegram
from tests.waiting import wait_until
from tests.workers import DATABASES, running_site
from worker import by_broadcast
from worker.database import NOW_MS, migrate
from worker.database import engine as open_engine
from worker.errors import NotFound, Refused


@pytest.fixture
def engine(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    made = open_engine(database_url)
    migrate(made)
    monkeypatch.setattr(feeding, "publish", lambda *_: None)
    yield made
    made.dispose()


def oversee(engine: Engine) -> None:
    Overseer(engine).run()


def test_a_pause_takes_back_what_waits_for_a_worker_and_a_resume_lets_it_go_again(
    engine: Engine,
) -> None:
    id_ = make(engine, telegram(50))
    feed(engine)
    end(engine, id_, "sent", 5)
    end(engine, id_, "sending", 3)
    end(engine, id_, "retrying", 2)
    assert steer.pause(engine, "news") == 42
    assert states(engine, id_) == {"held": 42, "sent": 5, "sending": 3}
    feed(engine)
    assert states(engine, id_)["held"] == 42
    steer.resume(engine, "news")
    feed(engine)
    assert states(engine, id_) == {"queued": 42, "sent": 5, "sending": 3}


def test_what_a_worker_gives_back_after_the_pause_waits_as_well(engine: Engine) -> None:
    id_ = make(engine, telegram(4))
    feed(engine)
    end(engine, id_, "sending", 4)
    steer.pause(engine, "news")
    with engine.begin() as connection:
        connection.execute(text("UPDATE delivery SET state = 'retrying'"))
    oversee(engine)
    assert states(engine, id_) == {"held": 4}


def test_a_message_that_is_sent_in_part_is_finished(engine: Engine) -> None:
    id_ = make(engine, telegram(4))
    feed(engine)
    with engine.begin() as connection:
        connection.execute(
            text("UPDATE delivery SET receipt = '[\"1\"]' WHERE target = 'telegram:1'")
        )
    steer.pause(engine, "news")
    assert states(engine, id_) == {"held": 3, "queued": 1}
    assert sum(steer.cancel(engine, "news")) == 3
    assert states(engine, id_) == {"cancelled": 3, "queued": 1}
    assert stored(engine, id_).ended_ms is None
    end(engine, id_, "sent", 1)
    oversee(engine)
    assert stored(engine, id_).ended_ms is not None


def test_a_cancel_ends_whatever_has_not_gone_out(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(by_broadcast, "BATCH", 10)
    id_ = make(engine, telegram(145))
    feed(engine)
    end(engine, id_, "sent", 5)
    assert sum(steer.cancel(engine, "news")) == 140
    assert states(engine, id_) == {"cancelled": 140, "sent": 5}
    row = stored(engine, id_)
    assert (row.state, row.ended_ms is None) == ("cancelled", False)


def test_a_cancel_that_was_interrupted_lets_nothing_go_and_is_finished_by_the_scheduler(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(by_broadcast, "BATCH", 10)
    id_ = make(engine, telegram(145))
    feed(engine)
    next(steer.cancel(engine, "news"))
    assert states(engine, id_) == {"cancelled": 119, "held": 26}
    feed(engine)
    assert states(engine, id_)["held"] == 26
    oversee(engine)
    assert states(engine, id_) == {"cancelled": 145}
    assert stored(engine, id_).ended_ms is not None


@pytest.mark.parametrize(
    ("verb", "state", "why"),
    [
        ("pause", "draft", "is a draft and has not been started"),
        ("pause", "checked", "has not been started"),
        ("pause", "paused", "is paused already"),
        ("pause", "halted", "mirrorpost broadcast resume news, or cancel news"),
        ("pause", "done", "is done"),
        ("pause", "cancelled", "was cancelled"),
        ("resume", "draft", "never started: mirrorpost broadcast preflight news, then start news"),
        ("resume", "checked", "never started: mirrorpost broadcast start news"),
        ("resume", "running", "is running already"),
        ("resume", "done", "nobody left to send it to"),
        ("resume", "cancelled", "for good: create another one"),
        ("cancel", "done", "nothing left to cancel"),
        ("cancel", "cancelled", "was cancelled already"),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(
    engine: Engine, verb: str, state: str, why: str
) -> None:
    id_ = make(engine, telegram(1), state=state, ended_ms=1)
    with pytest.raises(Refused, match=why):
        list(getattr(steer, verb)(engine, "news"))
    assert stored(engine, id_).state == state
    assert states(engine, id_) == {"held": 1}
    with pytest.raises(NotFound, match="no broadcast 'x': see mirrorpost broadcast list"):
        list(getattr(steer, verb)(engine, "x"))


@pytest.mark.parametrize("state", ["draft", "checked", "running", "paused", "halted"])
def test_whatever_has_not_ended_can_be_cancelled(engine: Engine, state: str) -> None:
    id_ = make(engine, telegram(1), state=state)
    list(steer.cancel(engine, "news"))
    assert (stored(engine, id_).state, states(engine, id_)) == ("cancelled", {"cancelled": 1})


def test_it_is_done_when_everybody_has_a_delivery_and_all_have_ended(engine: Engine) -> None:
    id_ = make(engine, telegram(3), fanned_out=2)
    feed(engine)
    end(engine, id_, "sent", 2)
    oversee(engine)
    assert stored(engine, id_).state == "running"
    fan_out(engine, id_, ["telegram:3"])
    with engine.begin() as connection:
        connection.execute(text("UPDATE broadcast SET fanned_out = 3"))
    oversee(engine)
    assert stored(engine, id_).state == "running"
    feed(engine)
    end(engine, id_, "failed", 1)
    oversee(engine)
    row = stored(engine, id_)
    assert (row.state, row.reason, row.ended_ms is None) == ("done", None, False)


def test_one_without_recipients_is_done_at_once(engine: Engine) -> None:
    id_ = make(engine, [])
    oversee(engine)
    assert stored(engine, id_).state == "done"


def test_a_canary_waits_for_a_person_and_goes_on_when_told(engine: Engine) -> None:
    id_ = make(engine, telegram(300), canary_percent=1.0, fanned_out=3)
    feed(engine)
    end(engine, id_, "sent", 2)
    oversee(engine)
    assert stored(engine, id_).state == "running"
    end(engine, id_, "failed", 1, kind="invalid")
    oversee(engine)
    row = stored(engine, id_)
    assert (row.state, row.canary_done) == ("paused", True)
    assert row.reason == (
        "the canary has ended: 2 sent, 1 failed; mirrorpost broadcast resume news"
    )
    steer.resume(engine, "news")
    oversee(engine)
    assert (stored(engine, id_).state, stored(engine, id_).reason) == ("running", None)


@pytest.mark.parametrize(("failed", "state"), [(0, "running"), (1, "halted")])
def test_a_canary_that_may_goes_on_by_itself_when_few_fail(
    engine: Engine, failed: int, state: str
) -> None:
    id_ = make(engine, telegram(300), canary_percent=1.0, canary_then="go", fanned_out=3)
    feed(engine)
    end(engine, id_, "sent", 3 - failed)
    end(engine, id_, "failed", failed, kind="invalid")
    oversee(engine)
    row = stored(engine, id_)
    assert (row.state, row.canary_done) == (state, True)
    if failed:
        assert row.reason == "the canary has ended: 1 of 3 failed, 33%: over 10%"


@pytest.mark.parametrize(
    ("bad", "kind", "count", "why"),
    [
        ("failed", "invalid", 3, "3 of 25 failed, 12%: over 10%"),
        ("unknown", "ambiguous", 3, "3 of 25 failed, 12%: over 10%"),
        ("failed", "forbidden", 8, "8 of 25 have blocked the bot or are gone, 32%: over 30%"),
        ("suppressed", "target_gone", 8, "8 of 25 have blocked the bot or are gone"),
    ],
)
def test_it_halts_when_too_many_end_badly_and_goes_on_when_a_person_says_so(
    engine: Engine, bad: str, kind: str, count: int, why: str
) -> None:
    id_ = make(engine, telegram(200))
    feed(engine)
    end(engine, id_, "sent", 25 - count)
    end(engine, id_, bad, count - 1, kind=kind)
    oversee(engine)
    assert stored(engine, id_).state == "running"
    end(engine, id_, bad, 1, kind=kind)
    oversee(engine)
    row = stored(engine, id_)
    assert row.state == "halted"
    assert why in (row.reason or "")
    assert "queued" not in states(engine, id_)
    steer.resume(engine, "news")
    feed(engine)
    oversee(engine)
    assert stored(engine, id_).state == "running"
    end(engine, id_, "failed", 20, kind="invalid")
    oversee(engine)
    assert stored(engine, id_).state == "halted"


def test_it_halts_when_too_many_opt_out_because_of_it(engine: Engine) -> None:
    id_ = make(engine, telegram(100), topic="news", started_ms=1_000)
    other = make(engine, telegram(100, first=500), name="other", topic="jobs", started_ms=1_000)
    feed(engine)
    for each in (id_, other):
        end(engine, each, "sent", 30)
    with engine.begin() as connection:
        for n, (topic, since) in enumerate([("news", 2_000)] * 3 + [("", 2_000)] + [("", 1)], 1):
            connection.execute(
                text("INSERT INTO opt_out VALUES (:user, :topic, :since)"),
                {"user": f"telegram:{n}", "topic": topic, "since": since},
            )
    oversee(engine)
    assert stored(engine, other).state == "running"
    assert stored(engine, id_).reason == "4 of 30 opted out, 13%: over 10%"


def test_it_halts_when_the_platform_says_too_often_to_slow_down(engine: Engine) -> None:
    id_ = make(engine, telegram(200))
    feed(engine)
    end(engine, id_, "sent", 94)
    end(engine, id_, "retrying", 6)
    with engine.begin() as connection:
        now = NOW_MS[engine.dialect.name]
        connection.execute(
            text(
                "INSERT INTO attempt (delivery_id, attempt, owner, started_ms, took_ms, outcome) "
                f"SELECT id, 1, 'w', {now} - 1000, 5, CASE WHEN state = 'sent' THEN 'sent' "
                "ELSE 'rate_limited' END FROM delivery WHERE state IN ('sent', 'retrying')"
            )
        )
    oversee(engine)
    row = stored(engine, id_)
    assert row.state == "halted"
    assert row.reason == "6 of 100 attempts were told to slow down, 6%: over 5%"
    steer.resume(engine, "news")
    oversee(engine)
    assert stored(engine, id_).state == "running"


def test_every_state_of_a_broadcast_has_its_words() -> None:
    for words, able in (
        (steer._PAUSE, {"running"}),
        (steer._RESUME, {"paused", "halted"}),
        (steer._CANCEL, {"draft", "checked", "running", "paused", "halted"}),
    ):
        assert {state.value for state in words} | able == {state.value for state in BroadcastState}


@pytest.mark.parametrize("database", DATABASES)
def test_a_pause_and_a_cancel_act_while_workers_send(
    request: pytest.FixtureRequest, database: str
) -> None:
    with (
        running_site(request, database, limits=True) as site,
        site.worker(),
        site.scheduler(),
    ):
        site.sandbox.fault("telegram", None, "slow", seconds=1.0)
        id_ = make(site.engine, telegram(600))
        wait_until(lambda: states(site.engine, id_).get("sent", 0) > 20, 30, "it to run")
        steer.pause(site.engine, "news")
        wait_until(lambda: set(states(site.engine, id_)) == {"sent", "held"}, 5, "the pause")
        sent = states(site.engine, id_)["sent"]
        assert len(site.sandbox.accepted("telegram")) == sent < 600
        site.sandbox.no_faults()
        steer.resume(site.engine, "news")
        wait_until(lambda: states(site.engine, id_)["sent"] > sent, 5, "it to go on")
        list(steer.cancel(site.engine, "news"))
        wait_until(lambda: set(states(site.engine, id_)) == {"sent", "cancelled"}, 5, "the cancel")
        row = wait_until(lambda: stored(site.engine, id_).ended_ms, 5, "its end")
        assert row
        assert len(site.sandbox.accepted("telegram")) == states(site.engine, id_)["sent"]


def test_a_pause_acts_at_once_on_a_slow_platform_without_a_limit(
    request: pytest.FixtureRequest,
) -> None:
    with running_site(request, "sqlite") as site, site.worker(), site.scheduler():
        site.sandbox.fault("telegram", None, "slow", seconds=1.0)
        id_ = make(site.engine, telegram(3_000))
        wait_until(lambda: states(site.engine, id_).get("sent", 0) > 200, 30, "it to run")
        steer.pause(site.engine, "news")
        time.sleep(3.5)
        # Two seconds, one for the answers to what had left by then, and some for this machine.
        sent = states(site.engine, id_).get("sent", 0)
        wait_until(lambda: set(states(site.engine, id_)) == {"sent", "held"}, 5, "the pause")
        assert states(site.engine, id_)["sent"] == sent < 3_000
