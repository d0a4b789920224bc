"""Etiquette at send time, on both databases: opt-outs, quiet hours, the frequency cap."""

import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import Engine, event, text

from resolvers import SqlIdentityResolver
from tests.waiting import wait_until
from tests.workers import DATABASES, running_site
from worker import due, outbox
from worker.bots import Bots
from worker.database import engine as engine_of
from worker.database import migrate, now_ms
from worker.etiquette import Rules
from worker.intake import check
from worker.outbox import spare
from worker.people import store
from worker.people.cap import Cap, OverCap
from worker.people.lookup import is_any_opted_out, opt_outs, sent_times, time_zones
from worker.people.quiet import Quiet, QuietHours
from worker.resolve import Resolved
from worker.states import State
from worker.turn import Finished, Turns, Wanted
from worker.verdict import Settlement

NO_RULES = Rules(None, Quiet.HOLD, ZoneInfo("UTC"), None, OverCap.SUPPRESS)
DAY_MS = 86_400_000


class Site:
    """A database and one worker's turns on it."""

    def __init__(self, database: Engine, rules: Rules = NO_RULES) -> None:
        self.engine = database
        self.resolver = SqlIdentityResolver(database, cache_ttl_s=0)
        self.rules = rules
        self._n = 0

    def turns(self) -> Turns:
        return Turns(
            engine=self.engine,
            resolver=self.resolver,
            bots=Bots(),
            owner="w1",
            lease_s=30,
            rules=self.rules,
        )

    def put(self, to: str = "telegram:5", said: str = "hello", **fields: Any) -> str:
        asked: dict[str, Any] = {"lane": "cron", **fields}
        with self.engine.begin() as connection:
            return outbox.insert(connection, [check(to=to, text=said, **asked)])[0].id

    def claim(self) -> list[Resolved]:
        """Claim until nothing is queued."""
        turns = self.turns()
        claimed: list[Resolved] = []
        while self.queued():
            claimed += turns.take([], Wanted(anything=True, limit=100)).claimed
        turns.close()
        return claimed

    def queued(self) -> int:
        with self.engine.begin() as connection:
            query = text("SELECT count(*) FROM delivery WHERE state = 'queued'")
            return int(connection.execute(query).scalar_one())

    def send(self) -> list[Resolved]:
        """Claim until nothing is queued and let the platform accept it."""
        claimed = self.claim()
        turns = self.turns()
        with self.engine.begin() as connection:
            now = now_ms(connection)
        turns.take([Finished(r, accepted(r, now)) for r in claimed], Wanted())
        turns.close()
        return claimed

    def row(self, id_: str) -> Any:
        with self.engine.begin() as connection:
            return connection.execute(
                text("SELECT * FROM delivery WHERE id = :id"), {"id": id_}
            ).one()

    def run(self, statement: str, **values: object) -> None:
        with self.engine.begin() as connection:
            connection.execute(text(statement), values)

    def relay(self) -> list[str]:
        with self.engine.begin() as connection:
            due.expire(connection)
            return [each.id for each in due.queue_waiting(connection)]

    def passes(self, milliseconds: int) -> None:
        """Let time pass: everything that is stored is so much older."""
        self.run(
            "UPDATE delivery SET due_ms = due_ms - :ms, expires_ms = expires_ms - :ms",
            ms=milliseconds,
        )
        self.run("UPDATE message SET timestamp_ms = timestamp_ms - :ms", ms=milliseconds)


def accepted(resolved: Resolved, now: int) -> Settlement:
    claim = resolved.claim
    return Settlement(
        claim.id,
        claim.attempt,
        State.SENT,
        resolved.place,
        cost=1,
        receipt=("77",),
        mirror="done",
        outcome="sent",
        started_ms=now,
    )


@pytest.fixture
def site(database_url: str, home: object) -> Iterator[Site]:
    made = engine_of(database_url)
    migrate(made)
    yield Site(made)
    made.dispose()


def ids(claimed: list[Resolved]) -> list[str]:
    return [each.claim.id for each in claimed]


def opt_out(site: Site, user: str, topic: str = "") -> None:
    with site.engine.begin() as connection:
        store.opt_out(connection, user, topic)


def now_quiet(zone: str = "UTC") -> QuietHours:
    """Give a window that lasts from an hour ago to in two hours, by a zone's clock."""
    here = datetime.now(ZoneInfo(zone)).replace(second=0, microsecond=0)
    return QuietHours((here - timedelta(hours=1)).time(), (here + timedelta(hours=2)).time())


def test_who_opted_out_of_a_topic_gets_nothing_about_it_and_all_else(site: Site) -> None:
    opt_out(site, "telegram:5", "news")
    news, other, another = site.put(topic="news"), site.put(), site.put("telegram:6", topic="news")
    assert set(ids(site.claim())) == {other, another}
    row = site.row(news)
    assert (row.state, row.error_kind) == ("suppressed", "opted_out")
    assert row.error_text == "opted out of 'news'"


def test_who_opted_out_of_everything_gets_replies_alone(site: Site) -> None:
    opt_out(site, "telegram:5")
    stopped = [site.put(lane=lane) for lane in ("reminder", "cron", "broadcast")]
    reply = site.put(lane="reply", topic="news")
    assert ids(site.claim()) == [reply]
    assert {site.row(id_).state for id_ in stopped} == {"suppressed"}
    assert site.row(stopped[0]).error_text == "opted out of everything"


def test_an_opt_out_of_one_account_holds_for_its_person_at_every_account(site: Site) -> None:
    opt_out(site, "telegram:5", "news")
    site.resolver.link("telegram", "5", "alice")
    site.resolver.link("discord", "9", "alice")
    stopped = [
        site.put("telegram:5", topic="news"),
        site.put("discord:9", topic="news"),
        site.put("user:alice", topic="news"),
    ]
    going = site.put("user:alice")
    assert ids(site.claim()) == [going]
    assert {site.row(id_).state for id_ in stopped} == {"suppressed"}


def test_what_stopped_lets_the_next_of_its_chat_go(site: Site) -> None:
    opt_out(site, "telegram:5", "news")
    news, reminder = site.put(lane="reminder", topic="news"), site.put(lane="reminder")
    assert ids(site.claim()) == [reminder]
    assert site.row(news).state == "suppressed"


def test_while_the_resolver_fails_nobody_who_may_have_opted_out_is_written_to(site: Site) -> None:
    opt_out(site, "alice", "news")
    site.resolver.link("telegram", "5", "alice")
    news = site.put(topic="news")
    site.resolver = SqlIdentityResolver(engine_of("sqlite:////nowhere/at/all.db"))
    (claimed,) = site.claim()
    assert claimed.claim.id == news
    assert claimed.failure is not None
    assert "opted out" in claimed.failure.text


def test_in_quiet_hours_a_message_waits_for_their_end_and_a_reply_does_not(site: Site) -> None:
    site.rules = replace(NO_RULES, quiet_hours=now_quiet())
    reminder, reply = site.put(lane="reminder"), site.put(lane="reply")
    assert ids(site.send()) == [reply]
    row = site.row(reminder)
    assert (row.state, row.error_kind) == ("held", "quiet_hours")
    assert row.error_text.endswith("in UTC, the default time zone")
    with site.engine.begin() as connection:
        assert 3_500_000 < row.due_ms - now_ms(connection) <= 7_200_000
        assert due.next_duty(connection).next_ms == row.due_ms
    assert site.relay() == []
    site.passes(7_200_000)
    site.rules = NO_RULES
    assert site.relay() == [reminder]
    assert ids(site.claim()) == [reminder]


def test_quiet_hours_are_by_the_person_s_own_clock(site: Site) -> None:
    away, here = "Pacific/Kiritimati", "UTC"
    with site.engine.begin() as connection:
        store.save(connection, "alice", zone=away)
        store.save(connection, "bob", zone=here)
    site.resolver.link("telegram", "5", "alice")
    site.resolver.link("telegram", "6", "bob")
    site.rules = replace(NO_RULES, quiet_hours=now_quiet(away))
    alices, bobs = site.put("telegram:5"), site.put("telegram:6")
    assert ids(site.claim()) == [bobs]
    assert site.row(alices).error_text.endswith(f"in {away}")


def test_where_the_platform_can_a_message_goes_out_silently_in_quiet_hours(site: Site) -> None:
    site.rules = replace(NO_RULES, quiet_hours=now_quiet(), quiet=Quiet.SILENT)
    there, held = site.put("telegram:5"), site.put("slack:C012345678")
    (claimed,) = site.claim()
    assert (claimed.claim.id, claimed.claim.silent) == (there, True)
    assert site.row(there).silent
    assert site.row(held).state == "held"


def test_what_expires_while_it_is_held_does_not_go_out(site: Site) -> None:
    site.rules = replace(NO_RULES, quiet_hours=now_quiet())
    expires = datetime.now(ZoneInfo("UTC")) + timedelta(minutes=5)
    held = site.put(expires=expires)
    assert site.claim() == []
    site.passes(360_000)
    assert site.relay() == []
    assert site.row(held).state == "expired"


def test_what_was_held_together_comes_back_in_its_order(site: Site) -> None:
    site.rules = replace(NO_RULES, quiet_hours=now_quiet())
    reminders = [site.put(lane="reminder", said=str(n)) for n in range(4)]
    assert site.claim() == []
    assert {site.row(id_).state for id_ in reminders} == {"held"}
    site.passes(7_200_000)
    site.rules = NO_RULES
    assert len(site.relay()) == 4
    assert [ids(site.send()) for _ in range(4)] == [[id_] for id_ in reminders]


def capped(count: int, over: OverCap = OverCap.SUPPRESS) -> Rules:
    return replace(NO_RULES, cap=Cap(count, DAY_MS), over_cap=over)


def test_over_the_cap_a_person_gets_nothing_more_wherever_it_comes_from(site: Site) -> None:
    site.resolver.link("telegram", "5", "alice")
    site.resolver.link("discord", "9", "alice")
    site.rules = capped(2)
    for to, lane in (("telegram:5", "cron"), ("discord:9", "broadcast")):
        site.put(to, lane=lane)
        assert len(site.send()) == 1
    over, reply, other = site.put(), site.put(lane="reply"), site.put("telegram:6")
    assert set(ids(site.send())) == {reply, other}
    row = site.row(over)
    assert (row.state, row.error_kind) == ("suppressed", "frequency_cap")
    assert row.error_text == "over the frequency cap of 2/1d"
    site.passes(DAY_MS)
    later = site.put()
    assert ids(site.send()) == [later]


def test_two_of_one_chunk_do_not_both_take_the_last_room(site: Site) -> None:
    site.rules = capped(1)
    first, second = site.put(), site.put()
    assert ids(site.claim()) == [first]
    assert site.row(second).state == "suppressed"


def test_what_another_worker_is_sending_counts(site: Site) -> None:
    site.rules = capped(1)
    first = site.put()
    assert ids(site.claim()) == [first]
    second = site.put()
    assert site.claim() == []
    assert site.row(second).state == "suppressed"


def test_answers_do_not_use_the_cap_up(site: Site) -> None:
    site.rules = capped(1)
    for _ in range(3):
        site.put(lane="reply")
    while site.send():
        pass
    first = site.put()
    assert ids(site.send()) == [first]


@pytest.mark.parametrize("lane", ["cron", "reminder"])
def test_what_waits_for_the_cap_leaves_as_one_digest(site: Site, lane: str) -> None:
    site.rules = capped(1, OverCap.DIGEST)
    site.put(lane=lane)
    assert len(site.send()) == 1
    waiting = [site.put(said=said, lane=lane) for said in ("one", "two", "three")]
    assert site.send() == []
    for id_ in waiting:
        row = site.row(id_)
        assert (row.state, row.error_kind) == ("held", "frequency_cap")
        assert row.error_text == "over the frequency cap of 1/1d"
    assert site.relay() == []
    site.passes(DAY_MS)
    assert len(site.relay()) == 3
    (digest,) = site.send()
    assert digest.claim.text == "one\n\ntwo\n\nthree"
    assert site.row(digest.claim.id).text == "one\n\ntwo\n\nthree"
    ended = [site.row(id_) for id_ in waiting]
    assert sorted(row.state for row in ended) == ["sent", "suppressed", "suppressed"]
    for row in ended:
        if row.state == "suppressed":
            assert row.error_text == f"in the digest of {digest.claim.id}"
    assert site.send() == []


def test_a_digest_has_nothing_of_another_chat_or_of_what_was_opted_out_of(site: Site) -> None:
    site.rules = capped(1, OverCap.DIGEST)
    site.resolver.link("telegram", "5", "alice")
    site.resolver.link("telegram", "6", "alice")
    site.put()
    site.send()
    kept = site.put(said="kept")
    elsewhere = site.put("telegram:6", said="elsewhere")
    news = site.put(said="news", topic="news")
    assert site.send() == []
    opt_out(site, "alice", "news")
    site.passes(DAY_MS)
    site.relay()
    (digest,) = site.send()
    assert (digest.claim.id, digest.claim.text) == (kept, "kept")
    assert site.row(elsewhere).state == "held"
    assert site.row(news).error_kind == "opted_out"


def test_a_message_that_was_begun_is_brought_to_its_end(site: Site) -> None:
    opt_out(site, "telegram:5")
    site.rules = replace(NO_RULES, quiet_hours=now_quiet())
    begun = site.put()
    site.run("UPDATE delivery SET receipt = '[\"1\"]' WHERE id = :id", id=begun)
    assert ids(site.claim()) == [begun]


def test_what_is_asked_of_a_chunk_goes_by_an_index(site: Site) -> None:
    numbers = (
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 60000) "
        "INSERT INTO {table} SELECT {columns} FROM n"
    )
    for table, columns in (
        ("opt_out (unified_user, topic, since_ms)", "'u' || i, 'news', 1"),
        ("person (unified_user, attributes, timezone)", "'u' || i, '{{}}', 'UTC'"),
        (
            "message (session_key, role, content, timestamp_ms, mirror, platform_message_ids, "
            "metadata)",
            "'u' || (i % 9), 'assistant', 'x', i, true, '[]', '{{}}'",
        ),
        (
            "delivery (id, body_hash, target, account, text, silent, source, lane, policy, "
            "state, due_ms, created_ms, attempt, attempts_used, maybe_duplicate, unified_user)",
            "'d' || i, 'h', 'telegram:1', '', 'x', false, '', 'cron', 'resend', 'sent', 1, 1, "
            "1, 1, false, 'u' || i",
        ),
    ):
        site.run(numbers.format(table=table, columns=columns.replace("{{}}", "{}")))
    with site.engine.connect() as connection:
        connection.exec_driver_sql("ANALYZE")
        connection.commit()
    seen: list[tuple[str, Any]] = []

    def note(_c: object, _u: object, statement: str, parameters: object, *_rest: object) -> None:
        if not statement.startswith("BEGIN"):
            seen.append((statement, parameters))

    event.listen(site.engine, "before_cursor_execute", note)
    names = [f"u{n}" for n in range(64)]
    with site.engine.begin() as connection:
        is_any_opted_out(connection)
        opt_outs(connection, names)
        time_zones(connection, names)
        sent_times(connection, names, since_ms=19_000, limit=3)
        spare.under_way(connection, names, but=["x"])
        spare.waiting(connection, names)
        spare.let(connection, [spare.Let("x", 1, "alice")])
        spare.stop(connection, [spare.Stopped("x", 1, State.HELD, "k", "why", None, 5)])
        spare.fold(connection, {"x": "y"})
    event.remove(site.engine, "before_cursor_execute", note)
    assert len(seen) == 9
    whole = []
    for statement, parameters in seen[1:]:
        explain = "EXPLAIN" if site.engine.dialect.name == "postgresql" else "EXPLAIN QUERY PLAN"
        with site.engine.begin() as connection:
            rows = connection.exec_driver_sql(f"{explain} {statement}", parameters).all()
        plan = [str(row[-1]) for row in rows]
        tables = r"(opt_out|person|message|delivery|m|d|p|o|t)\b"
        if any(re.search(rf"Seq Scan on {tables}|^SCAN {tables}", line) for line in plan):
            whole.append("\n".join(plan))
    assert whole == []


def test_a_webhook_never_sleeps(site: Site) -> None:
    site.rules = replace(capped(1), quiet_hours=now_quiet())
    hooks = [site.put("webhook:https://example.org/hook") for _ in range(2)]
    assert ids(site.claim()) == hooks


@pytest.mark.parametrize("database", DATABASES)
def test_real_workers_keep_to_what_people_wish(
    request: pytest.FixtureRequest, database: str
) -> None:
    rules = {
        "MIRRORPOST_FREQUENCY_CAP": "1/4s",
        "MIRRORPOST_FREQUENCY_CAP_ACTION": "digest",
    }
    with running_site(request, database, rules) as site, site.worker(), site.scheduler():
        with site.engine.begin() as connection:
            store.opt_out(connection, "telegram:801", "news")
        news = site.enqueue("telegram:801", "news", lane="cron", topic="news")
        site.reaches(news, "suppressed")
        first = site.enqueue("telegram:802", "first", lane="reminder")
        site.reaches(first, "sent")
        waiting = [site.enqueue("telegram:802", str(n), lane="reminder") for n in range(3)]
        reply = site.enqueue("telegram:802", "a reply")
        site.reaches(reply, "sent")
        for id_ in waiting:
            wait_until(lambda id_=id_: site.delivery(id_).state in {"sent", "suppressed"}, 40)  # type: ignore[misc]
        assert site.sandbox.texts("telegram", "801") == []
        assert site.sandbox.texts("telegram", "802") == ["first", "a reply", "0\n\n1\n\n2"]
