"""The outbox on SQLite and on PostgreSQL: one suite, so that both behave as one."""

import threading
from dataclasses import replace

import pytest
from sqlalchemy import text
from sqlmodel import Session

from scheduler import producer, relay, republish
from worker import due, outbox
from worker.database import check_schema, downgrade, engine, migrate, now_ms
from worker.errors import KeyConflict, SchemaMismatch, SchemaOutdated
from worker.intake import check
from worker.order import _release
from worker.outbox.claim import _claim_statement, _renew_statement
from worker.outbox.settle import _settle_statement
from worker.states import State
from worker.taxonomy import ErrorKind, Failure
from worker.verdict import Place, Settlement

PLACE = Place("telegram", "", "5", None, "alice")


@pytest.fixture
def database(database_url):
    made = engine(database_url)
    migrate(made)
    yield made
    made.dispose()


def put(database, *targets, **fields):
    with database.begin() as connection:
        new = [check(**({"to": to, "text": "hello"} | fields)) for to in targets]
        return [accepted.id for accepted in outbox.insert(connection, new)]


def claim(database, limit=10, ids=(), owner="w1"):
    with database.begin() as connection:
        return outbox.claim(connection, owner=owner, lease_ms=30_000, limit=limit, ids=ids).claimed


def row(database, id_):
    with database.begin() as connection:
        return connection.execute(text("SELECT * FROM delivery WHERE id = :id"), {"id": id_}).one()


def change(database, id_, changes):
    with database.begin() as connection:
        connection.execute(text(f"UPDATE delivery SET {changes} WHERE id = :id"), {"id": id_})


def sent(claimed, **changes):
    settlement = Settlement(
        claimed.id,
        claimed.attempt,
        State.SENT,
        PLACE,
        cost=1,
        receipt=("77",),
        mirror="done",
        outcome="sent",
        started_ms=5,
        took_ms=6,
    )
    return replace(settlement, **changes)


def attempts(database, id_):
    with database.begin() as connection:
        return connection.execute(
            text("SELECT * FROM attempt WHERE delivery_id = :id ORDER BY attempt"), {"id": id_}
        ).all()


def test_the_same_key_and_body_is_the_same_delivery(database):
    first = put(database, "telegram:5", key="k")
    assert put(database, "telegram:5", key="k") == first
    assert put(database, "telegram:5") != put(database, "telegram:5")


def test_the_same_key_with_another_body_is_a_conflict_and_stores_nothing(database):
    put(database, "telegram:5", key="k")
    with pytest.raises(KeyConflict, match="used before for another body"):
        put(database, "telegram:6", "telegram:7", key="k")
    with database.begin() as connection:
        assert connection.execute(text("SELECT count(*) FROM delivery")).scalar() == 1


def test_one_key_enqueued_from_many_threads_is_one_delivery(database):
    ids = []
    threads = [
        threading.Thread(target=lambda: ids.extend(put(database, "telegram:5", key="k")))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ids) == 8
    assert len(set(ids)) == 1


def test_no_two_claims_hold_one_row(database):
    ids = put(database, *[f"telegram:{n}" for n in range(1, 201)])
    held = []

    def work(owner):
        while found := claim(database, 7, owner=owner):
            held.extend(c.id for c in found)

    threads = [threading.Thread(target=work, args=(f"w{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # A row that another claim was looking at is skipped, and taken by the next.
    held += [c.id for c in claim(database, 200)]
    assert sorted(held) == sorted(ids)


def test_claims_go_by_lane_then_by_time(database):
    last = put(database, "telegram:1", lane="broadcast")
    middle = put(database, "telegram:2", "telegram:3", lane="cron")
    first = put(database, "telegram:4", lane="reply")
    assert [c.id for c in claim(database)] == first + middle + last


def test_a_claim_by_ids_takes_those_only(database):
    ids = put(database, "telegram:1", "telegram:2", "telegram:3")
    assert [c.id for c in claim(database, ids=[ids[1]])] == [ids[1]]
    assert claim(database, ids=[ids[1]]) == []


def test_a_claim_gives_back_what_was_stored(database):
    put(
        database,
        "telegram:-100#7",
        text="é\u2028",
        metadata={"a": [1, {"b": None}]},
        silent=True,
        reply_to="9",
        source="s",
    )
    found = claim(database)[0]
    assert (found.text, found.metadata, found.silent) == ("é\u2028", {"a": [1, {"b": None}]}, True)
    assert (found.chat_id, found.thread_id, found.reply_to) == ("-100", "7", "9")
    assert (found.attempt, found.attempts_used, found.source) == (1, 0, "s")


def test_a_settle_writes_the_row_and_the_attempt(database):
    put(database, "telegram:5")
    held = claim(database)[0]
    with database.begin() as connection:
        assert outbox.settle(connection, [sent(held)], owner="w1") == {held.id}
    stored = row(database, held.id)
    assert (stored.state, stored.attempts_used, stored.unified_user) == ("sent", 1, "alice")
    assert stored.lease_until_ms is None
    assert stored.ended_ms is not None
    [tried] = attempts(database, held.id)
    assert (tried.outcome, tried.owner, tried.started_ms, tried.took_ms) == ("sent", "w1", 5, 6)


def test_a_settle_of_a_lost_lease_changes_nothing_but_is_recorded(database):
    put(database, "telegram:5")
    late = claim(database)[0]
    change(database, late.id, "state = 'queued'")
    now = claim(database, owner="w2")[0]
    with database.begin() as connection:
        assert outbox.settle(connection, [sent(late)], owner="w1") == set()
    stored = row(database, late.id)
    assert (stored.state, stored.owner, stored.attempt) == ("sending", "w2", now.attempt)
    assert [a.attempt for a in attempts(database, late.id)] == [late.attempt]


def test_a_retry_is_due_after_its_delay_by_the_databases_clock(database):
    put(database, "telegram:5")
    held = claim(database)[0]
    failure = Failure(ErrorKind.TRANSIENT, "no connection", retry_after_s=2.5)
    again = sent(
        held, state=State.RETRYING, delay_ms=60_000, receipt=None, failure=failure, mirror=None
    )
    with database.begin() as connection:
        outbox.settle(connection, [again], owner="w1")
        left = row_in(connection, held.id).due_ms - now_ms(connection)
    assert 58_000 < left <= 60_000
    assert relay.relay(database) == row(database, held.id).due_ms
    assert row(database, held.id).error_kind == "transient"


def row_in(connection, id_):
    return connection.execute(text("SELECT * FROM delivery WHERE id = :id"), {"id": id_}).one()


def test_what_is_due_is_queued_and_what_is_past_its_time_expires(database, monkeypatch):
    told = []
    monkeypatch.setattr(relay, "publish", lambda _, rows: told.extend(rows) or len(rows))
    due_id, late_id = put(database, "telegram:5", "telegram:6", at="2100-01-01")
    change(database, due_id, "due_ms = 1")
    change(database, late_id, "due_ms = 1, expires_ms = 2")
    relay.relay(database)
    assert [t.id for t in told] == [due_id]
    assert (row(database, due_id).state, row(database, late_id).state) == ("queued", "expired")


@pytest.mark.parametrize(
    ("asked", "ends"),
    [
        (("telegram:5", "resend", 0), ("queued", True)),
        # Its worker would have noted that it had begun.
        (("telegram:5", "hold", 0), ("queued", False)),
        (("slack:C024BE91L", "resend", 0), ("queued", False)),
        (("discord:5", "resend", 0), ("queued", False)),
        (("discord:5", "hold", 0), ("queued", False)),
        (("telegram:5", "resend", 6), ("unknown", True)),
        (("discord:5", "resend", 6), ("unknown", False)),
    ],
)
def test_a_lease_that_ran_out_is_taken_up_by_what_the_platform_can(
    database, monkeypatch, asked, ends
):
    monkeypatch.setattr(relay, "publish", lambda _, rows: len(rows))
    target, policy, used = asked
    put(database, target, policy=policy)
    held = claim(database)[0]
    # It has been tried for longer than the least age of a dead letter.
    change(database, held.id, f"lease_until_ms = 1, begun_ms = 1, attempts_used = {used}")
    relay.relay(database)
    stored = row(database, held.id)
    assert (stored.state, bool(stored.maybe_duplicate)) == ends
    assert stored.attempts_used == used + 1
    assert [a.outcome for a in attempts(database, held.id)] == ["ambiguous"]


def test_an_outage_and_a_dead_worker_together_give_nothing_up_before_its_time(
    database, monkeypatch
):
    monkeypatch.setattr(relay, "publish", lambda _, rows: len(rows))
    put(database, "discord:5")
    held = claim(database)[0]
    change(database, held.id, "lease_until_ms = 1, attempts_used = 6")
    relay.relay(database)
    assert row(database, held.id).state == "retrying"


def test_what_the_broker_did_not_take_is_published_by_the_next_pass(database, monkeypatch):
    told = []
    monkeypatch.setattr(relay, "publish", lambda _, rows: told.extend(rows) or len(rows))
    ids = put(database, "telegram:5", "telegram:6")
    with database.begin() as connection:
        due.mark_unpublished(connection, ids)
    relay.relay(database)
    assert [t.id for t in told] == ids
    told.clear()
    relay.relay(database)
    assert told == []


def test_only_a_lane_whose_queue_is_empty_is_published_again(database, monkeypatch):
    told = []
    monkeypatch.setattr(republish, "publish", lambda _, rows: told.extend(rows) or len(rows))
    monkeypatch.setattr(republish, "waiting", lambda lane: 3 if lane == "cron" else 0)
    lost = put(database, "telegram:5", lane="reply")
    waits = put(database, "telegram:6", lane="cron")
    assert republish.republish(database) == 0
    for id_ in lost + waits:
        change(database, id_, "published_ms = 1")
    assert republish.republish(database) == 1
    assert [t.id for t in told] == lost


def test_what_waits_for_a_credential_is_queued_by_another_one_only(database):
    put(database, "telegram:5")
    held = claim(database)[0]
    waits = sent(
        held,
        state=State.HELD,
        receipt=None,
        mirror=None,
        failure=Failure(ErrorKind.AUTH, "refused"),
        credential_print="old",
    )
    with database.begin() as connection:
        outbox.settle(connection, [waits], owner="w1")
        assert outbox.held_accounts(connection) == [("telegram", "")]
        for print_, released in (("old", 0), ("new", 1)):
            assert (
                outbox.release_held(
                    connection, platform="telegram", account="", credential_print=print_
                )
                == released
            )
    assert row(database, held.id).state == "queued"


def fill(database, ended):
    """Many ended rows, as after months."""
    ids = put(database, *[f"telegram:{n}" for n in range(1, 501)])
    with database.begin() as connection:
        connection.execute(text("UPDATE delivery SET state = 'sent', mirror = 'done'"))
        columns = (
            "body_hash, target, platform, account, chat_id, text, silent, source, lane, "
            "policy, state, due_ms, created_ms, attempt, attempts_used, maybe_duplicate, mirror"
        )
        for n in range(ended // len(ids)):
            connection.execute(
                text(
                    f"INSERT INTO delivery (id, {columns}) "
                    f"SELECT '{n:06d}' || substr(id, 7), {columns} FROM delivery "
                    f"WHERE id IN (SELECT id FROM delivery ORDER BY id DESC LIMIT {len(ids)})"
                )
            )
    with database.connect() as connection:
        connection.exec_driver_sql("ANALYZE")
        connection.commit()


def plan(database, statement, parameters):
    prefix = "EXPLAIN QUERY PLAN" if database.dialect.name == "sqlite" else "EXPLAIN"
    with database.begin() as connection:
        rows = connection.execute(text(f"{prefix} {statement}"), parameters).all()
    return "\n".join(str(r[-1]) for r in rows)


def test_hot_statements_never_read_the_whole_outbox(database):
    fill(database, 20_000)
    dialect = database.dialect.name
    ids = [f"{n:032d}" for n in range(64)]
    by_ids = ids if dialect == "postgresql" else str(ids).replace("'", '"')
    lease = {"owner": "w", "lease_ms": 1, "limit": 64}
    held = '[{"id": "a", "attempt": 1}]'
    settled = '[{"id": "a", "attempt": 1, "state": "sent", "cost": 1}]'
    statements = [
        (_claim_statement(dialect, named=False).text, lease),
        (_claim_statement(dialect, named=True).text, {**lease, "ids": by_ids}),
        (_settle_statement(dialect).text, {"rows": settled}),
        (_renew_statement(dialect, in_doubt=True).text, {"rows": held, "lease_ms": 1}),
        (_release(dialect).text, {"keys": '["telegram@:1"]'}),
        (due._duty(dialect).text, {}),
    ]
    for statement, parameters in statements:
        how = plan(database, statement, parameters)
        assert "Seq Scan on delivery" not in how, how
        assert "SCAN delivery" not in how.replace("SCAN delivery USING", ""), how


def test_a_session_that_rolls_back_leaves_nothing_and_one_that_commits_publishes(
    database, monkeypatch
):
    told = []
    monkeypatch.setattr(producer, "publish", lambda _, rows: told.extend(r.id for r in rows))
    with Session(database) as session:
        producer.enqueue(to="telegram:5", text="x", session=session)
        session.rollback()
        assert told == []
        kept = producer.enqueue(to="telegram:6", text="x", session=session)
        also = producer.enqueue(to="telegram:7", text="x", session=session)
        assert told == []
        session.commit()
        assert told == [kept.id, also.id]
        later = producer.enqueue(to="telegram:8", text="x", session=session)
        session.commit()
    assert told == [kept.id, also.id, later.id]
    with database.begin() as connection:
        assert connection.execute(text("SELECT count(*) FROM delivery")).scalar() == 3


def test_a_savepoint_that_rolls_back_takes_its_delivery_with_it(database, monkeypatch):
    told = []
    monkeypatch.setattr(producer, "publish", lambda _, rows: told.extend(r.id for r in rows))
    with Session(database) as session:
        kept = producer.enqueue(to="telegram:5", text="x", session=session)
        nested = session.begin_nested()
        gone = producer.enqueue(to="telegram:6", text="x", session=session)
        nested.rollback()
        session.commit()
    # Publishing an id of no row is harmless; losing the one that is there is not.
    assert kept.id in told
    with database.begin() as connection:
        stored = connection.execute(text("SELECT id FROM delivery")).scalars().all()
    assert stored == [kept.id]
    assert gone.id not in stored


def test_migrations_go_up_and_down_and_say_what_is_to_be_done(database_url):
    made = engine(database_url)
    with pytest.raises(SchemaOutdated, match="run mirrorpost migrate"):
        check_schema(made)
    migrate(made)
    check_schema(made)
    downgrade(made, "base")
    migrate(made)
    migrate(made)
    put(made, "telegram:5")
    with made.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(SchemaMismatch, match="upgrade mirrorpost"):
        check_schema(made)
    made.dispose()
