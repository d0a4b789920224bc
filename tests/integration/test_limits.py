"""At the platform's pace: real workers against a sandbox that counts every violation."""

from datetime import datetime
from itertools import pairwise

import pytest

from tests.waiting import wait_until
from tests.workers import DATABASES, Site, running_site
from worker import process
from worker.errors import Misconfigured
from worker.limiter import broadcast_pace, check_limits, rates


def times(site: Site, platform: str, chat: str | None = None) -> list[float]:
    """Give when the platform accepted each message, in seconds."""
    return sorted(
        datetime.fromisoformat(str(message["at"])).timestamp()
        for message in site.sandbox.accepted(platform, chat)
    )


@pytest.mark.parametrize("database", DATABASES)
def test_many_chats_get_theirs_at_the_bots_pace_without_one_refusal(
    request: pytest.FixtureRequest, database: str
) -> None:
    with (
        running_site(request, database, limits=True) as site,
        site.worker(),
        site.worker(),
        site.scheduler(),
    ):
        site.broadcast([f"telegram:{n}" for n in range(1, 201)], "hello", id="b")
        wait_until(lambda: len(site.sandbox.accepted("telegram")) == 200, 30)
        assert site.sandbox.answers("telegram") == {"200": 200}
        took = times(site, "telegram")[-1] - times(site, "telegram")[0]
        assert 199 / 30 <= took < 199 / 24


def test_a_slow_chat_holds_no_fast_one_and_costs_no_attempt(
    request: pytest.FixtureRequest,
) -> None:
    with running_site(request, "sqlite", limits=True) as site, site.worker(), site.scheduler():
        slow = [
            site.enqueue("telegram:-5", f"to the group {n}", order="none", lane="cron")
            for n in range(25)
        ]
        fast = [site.enqueue(f"telegram:{n}", "quick") for n in range(1, 11)]
        for id_ in fast:
            site.reaches(id_, "sent", 5)
        # Twenty a minute in a group, one a second in a chat: the rest waits in its row.
        wait_until(lambda: len(site.sandbox.texts("telegram", "-5")) >= 5, 20)
        assert site.sandbox.answers("telegram").keys() == {"200"}
        in_group = times(site, "telegram", "-5")
        assert all(later - earlier > 0.9 for earlier, later in pairwise(in_group[2:]))
        waiting = [row for row in map(site.delivery, slow) if row.state == "retrying"]
        assert waiting
        assert {(row.attempts_used, row.error_kind) for row in waiting} == {(0, "rate_limited")}
        assert not site.attempts(waiting[0].id)


def test_a_reply_passes_a_broadcast_that_uses_all_of_a_bots_pace(
    request: pytest.FixtureRequest,
) -> None:
    with running_site(request, "sqlite", limits=True) as site, site.worker(), site.scheduler():
        site.broadcast([f"telegram:{n}" for n in range(1, 601)], "to all", id="b")
        wait_until(lambda: len(site.sandbox.accepted("telegram")) > 30, 20)
        for n in range(10):
            row = site.reaches(site.enqueue(f"telegram:{9000 + n}", "reply"), "sent", 5)
            assert row.ended_ms is not None
            assert row.ended_ms - row.created_ms < 1_000
        assert len(site.sandbox.accepted("telegram")) < 600
        assert site.sandbox.answers("telegram").keys() == {"200"}


def test_discord_goes_by_what_the_headers_say_of_each_channel(
    request: pytest.FixtureRequest,
) -> None:
    with running_site(request, "sqlite", limits=True) as site, site.worker(), site.scheduler():
        for n in range(8):
            site.enqueue("discord:5", f"{n}", order="none")
        site.broadcast([f"discord:{n}" for n in range(100, 200)], "hello", id="b")
        wait_until(lambda: len(site.sandbox.accepted("discord")) == 108, 20)
        assert site.sandbox.answers("discord") == {"200": 108}
        channel = times(site, "discord", "5")
        assert channel[5] - channel[0] >= 4.9


def test_without_redis_nothing_is_sent_that_is_under_a_limit_unless_a_share_is_named(
    request: pytest.FixtureRequest,
) -> None:
    with running_site(request, "sqlite", limits=True) as site:
        nowhere = {"REDIS_URL": "redis://127.0.0.1:1/0", "CELERY_BROKER_URL": site.redis_url}
        with site.worker(nowhere):
            waits = site.enqueue("telegram:1", "later")
            goes = site.enqueue("console:me", "no limit")
            site.reaches(waits, "retrying")
            site.reaches(goes, "sent")
            assert site.sandbox.accepted("telegram") == []
            assert site.delivery(waits).attempts_used == 0
        with site.worker(nowhere | {"MIRRORPOST_LIMITER_FALLBACK": "share:2"}), site.scheduler():
            site.reaches(waits, "sent")


def test_a_limit_is_set_for_each_bot(monkeypatch: pytest.MonkeyPatch) -> None:
    from worker import settings

    def limit(platform: str, account: str = "") -> float | None:
        settings._environment.cache_clear()
        rates.cache_clear()
        return rates(platform, account).per_s

    monkeypatch.setenv("MIRRORPOST_LIMIT_TELEGRAM_PAID", "1000/s")
    monkeypatch.setenv("MIRRORPOST_LIMIT_SLACK", "90/m")
    monkeypatch.setenv("MIRRORPOST_LIMIT_DISCORD", "off")
    try:
        assert limit("telegram") == 30.0
        assert limit("telegram", "paid") == 1000.0
        assert limit("slack", "any") == 1.5
        assert broadcast_pace("discord") is None
        assert not rates("discord", "").limited
        for wrong in ("0/s", "0", "fast", "-1/s", "10/h"):
            monkeypatch.setenv("MIRRORPOST_LIMIT_TELEGRAM", wrong)
            with pytest.raises(Misconfigured, match=r"must read 1000/s, 600/m or off"):
                limit("telegram")
            with pytest.raises(Misconfigured, match="MIRRORPOST_LIMIT_TELEGRAM must read"):
                check_limits()
    finally:
        monkeypatch.undo()
        settings._environment.cache_clear()
        rates.cache_clear()


def test_a_worker_does_not_start_with_a_limit_that_it_could_not_keep(
    monkeypatch: pytest.MonkeyPatch, home: object
) -> None:
    from worker import settings

    settings._environment.cache_clear()
    monkeypatch.setenv("MIRRORPOST_LIMIT_TELEGRAM_PAID", "0/s")
    try:
        with pytest.raises(SystemExit, match=r"LIMIT_TELEGRAM_PAID must read 1000/s, 600/m or off"):
            process.prepare()
    finally:
        settings._environment.cache_clear()


@pytest.mark.parametrize("database", DATABASES)
def test_a_flood_of_replies_of_one_bot_holds_up_no_other_bots(
    request: pytest.FixtureRequest, database: str
) -> None:
    second = {"TELEGRAM_BOT_TOKEN_SECOND": "7700002:tg2-Lk5rTq88XvBn3Hs0"}
    with (
        running_site(request, database, second, limits=True) as site,
        site.worker(processes=1),
        site.scheduler(),
    ):
        # One task each, so that a minute of one bot's pace stands in the queue before the other's.
        flood = [site.enqueue(f"telegram:{n}", "flood") for n in range(1, 1_501)]
        others = [site.enqueue(f"telegram@second:{9_000 + n}", "quick") for n in range(5)]
        rows = [site.reaches(id_, "sent", 20) for id_ in others]
        assert max((row.ended_ms or 0) - row.created_ms for row in rows) < 2_000
        assert site.delivery(flood[-1]).state != "sent"
        assert site.sandbox.answers("telegram").keys() == {"200"}
