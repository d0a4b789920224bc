"""Amendments in the database: who is changed, once, in order, and in the history as well."""

import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import JSON, Engine, Row, event, text

import scheduler.amend
from resolvers import InMemoryIdentityResolver, SqlIdentityResolver
from scheduler import remirror
from scheduler.amend import Amendment, edit, retract
from scheduler.broadcasts import amend as broadcasts
from scheduler.forget import forget, person
from scheduler.mirror_repair import MirrorRepair
from worker import due, outbox
from worker.actions import Action
from worker.database import engine as open_engine
from worker.database import migrate
from worker.errors import Refused
from worker.intake import check
from worker.mirror_batch import mirror_sent
from worker.outbox import Claimed
from worker.sessions import SessionManager
from worker.states import State
from worker.verdict import Place, Settlement


@pytest.fixture
def engine(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    made = open_engine(database_url)
    migrate(made)
    monkeypatch.setattr(scheduler.amend, "publish", lambda *_: None)
    monkeypatch.setattr(broadcasts, "publish", lambda *_: None)
    yield made
    made.dispose()


def settle(
    engine: Engine,
    id_: str,
    *,
    mirror: str = "done",
    state: State = State.SENT,
    receipt: str = "77",
) -> None:
    """Let a worker claim a delivery, send it, and mirror it if that works."""
    with engine.begin() as connection:
        [claim] = outbox.claim(connection, owner="w", lease_ms=9_999, limit=1, ids=[id_]).claimed
        place = Place(claim.platform, "", claim.chat_id, None, "alice")
        ids = (receipt,) if state is State.SENT else None
        settled = Settlement(id_, claim.attempt, state, place, receipt=ids, mirror=mirror)
        outbox.settle(connection, [settled], owner="w")
        if mirror == "done" and state is State.SENT:
            mirror_sent(connection, [(claim, settled)], singly=True)


def sent(
    engine: Engine, words: str = "one", *, to: str = "telegram:5", mirror: str = "done"
) -> str:
    with engine.begin() as connection:
        id_ = outbox.insert(connection, [check(to=to, text=words, lane="broadcast")])[0].id
    settle(engine, id_, mirror=mirror)
    return id_


def row(engine: Engine, id_: str) -> Row[Any]:
    with engine.begin() as connection:
        return connection.execute(text("SELECT * FROM delivery WHERE id = :id"), {"id": id_}).one()


def history(engine: Engine) -> list[str]:
    return [message.content for message in SessionManager(engine).messages("alice")]


def repair(engine: Engine) -> int:
    return MirrorRepair(engine, InMemoryIdentityResolver()).run()


def test_the_same_text_again_is_the_same_edit_until_there_was_another_one(engine: Engine) -> None:
    first = sent(engine)
    a = edit(engine, first, "a")
    assert a.created
    assert edit(engine, first, "a") == Amendment(a.id, a.lane, created=False, state=State.QUEUED)
    b = edit(engine, first, "b")
    again = edit(engine, first, "a")
    assert again.created
    assert len({a.id, b.id, again.id}) == 3
    taken = retract(engine, first)
    assert retract(engine, first).id == taken.id
    with pytest.raises(Refused, match="taken back"):
        edit(engine, first, "c")


def test_what_was_cancelled_can_be_asked_for_again(engine: Engine) -> None:
    first = sent(engine)
    taken = retract(engine, first)
    with engine.begin() as connection:
        connection.execute(
            text("UPDATE delivery SET state = 'cancelled' WHERE id = :id"), {"id": taken.id}
        )
    assert retract(engine, first).created


def test_changes_of_one_message_are_in_order_and_of_a_strict_chat_in_the_chats(
    engine: Engine,
) -> None:
    first = sent(engine)
    one, two = edit(engine, first, "a").id, retract(engine, first).id
    with engine.begin() as connection:
        taken = outbox.claim(connection, owner="w", lease_ms=9_999, limit=9, ids=[two, one])
    assert [claim.id for claim in taken.claimed] == [one]
    assert row(engine, two).state == "held"
    with engine.begin() as connection:
        strict = outbox.insert(connection, [check(to="telegram:6", text="x")])[0].id
    settle(engine, strict)
    assert row(engine, edit(engine, strict, "y").id).order_key == row(engine, strict).order_key


def test_a_mirror_that_could_not_be_changed_is_repaired(engine: Engine) -> None:
    first = sent(engine)
    changed = edit(engine, first, "two").id
    sqlite = engine.dialect.name == "sqlite"
    with engine.begin() as connection:
        if sqlite:
            connection.exec_driver_sql(
                "CREATE TRIGGER refuse BEFORE UPDATE ON message "
                "BEGIN SELECT RAISE(ABORT, 'refused'); END"
            )
        else:
            connection.exec_driver_sql(
                "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
                "$$ BEGIN RAISE EXCEPTION 'refused'; END $$"
            )
            connection.exec_driver_sql(
                "CREATE TRIGGER refuse BEFORE UPDATE ON message FOR EACH ROW "
                "EXECUTE FUNCTION refuse()"
            )
    settle(engine, changed)
    assert (row(engine, changed).state, row(engine, changed).mirror) == ("sent", "failed")
    assert history(engine) == ["one"]
    with engine.begin() as connection:
        connection.exec_driver_sql(f"DROP TRIGGER refuse{'' if sqlite else ' ON message'}")
    assert repair(engine) == 1
    assert history(engine) == ["two"]
    assert row(engine, changed).mirror == "done"


def test_a_change_of_what_is_not_mirrored_yet_waits_for_it(engine: Engine) -> None:
    first = sent(engine, mirror="failed")
    changed = edit(engine, first, "two").id
    settle(engine, changed)
    assert row(engine, changed).mirror == "failed"
    assert history(engine) == []
    assert repair(engine) == 2
    assert history(engine) == ["two"]


def test_an_earlier_change_that_is_repaired_later_does_not_undo_the_last(engine: Engine) -> None:
    first = sent(engine)
    earlier = edit(engine, first, "two").id
    settle(engine, earlier, mirror="failed")
    settle(engine, retract(engine, first).id)
    assert history(engine) == ["[retracted]"]
    assert repair(engine) == 1
    assert history(engine) == ["[retracted]"]


def test_a_history_that_was_lost_comes_back_as_it_was_changed(engine: Engine) -> None:
    kept, gone = sent(engine), sent(engine, "secret")
    settle(engine, edit(engine, kept, "two").id)
    settle(engine, retract(engine, gone).id)
    since = datetime(2020, 1, 1, tzinfo=UTC)
    assert sum(remirror.mark(engine, since=since)) == 0
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM message"))
    assert sum(remirror.mark(engine, since=since)) == 4
    sum(remirror.write(engine, InMemoryIdentityResolver()))
    assert history(engine) == ["two", "[retracted]"]


def test_a_change_whose_worker_died_is_tried_again_and_fails_in_the_end_never_in_doubt(
    engine: Engine,
) -> None:
    first = sent(engine)
    taken = retract(engine, first).id
    for used, state in ((0, "queued"), (6, "failed")):
        with engine.begin() as connection:
            connection.execute(
                text(
                    "UPDATE delivery SET state = 'sending', lease_until_ms = 1, attempt = 1, "
                    "begun_ms = 1, attempts_used = :used WHERE id = :id"
                ),
                {"id": taken, "used": used},
            )
            due.rescue(connection, keyed=["discord"], asked=["slack"])
        found = row(engine, taken)
        assert (found.state, bool(found.maybe_duplicate), found.doubt_ms) == (state, False, None)


def broadcast(engine: Engine, targets: Sequence[str]) -> list[str]:
    ids = [sent(engine, to=target) for target in targets]
    with engine.begin() as connection:
        connection.execute(text("UPDATE delivery SET broadcast_id = 'b1'"))
    return ids


def refers(engine: Engine) -> list[str]:
    with engine.begin() as connection:
        query = text("SELECT refers_to FROM delivery WHERE action = 'retract' ORDER BY refers_to")
        return list(connection.execute(query).scalars())


def test_a_broadcast_that_crashed_half_way_is_taken_back_from_everybody_once(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = broadcast(engine, [f"telegram:{n}" for n in range(1, 8)])
    monkeypatch.setattr(broadcasts, "_CHUNK", 2)
    told: list[str] = []

    def crash(_: Engine, made: Sequence[Any]) -> None:
        told.extend(each.id for each in made)
        if len(told) > 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(broadcasts, "publish", crash)
    with pytest.raises(KeyboardInterrupt):
        broadcasts.amend_broadcast(engine, "b1", Action.RETRACT)
    assert len(refers(engine)) == 4
    monkeypatch.setattr(broadcasts, "publish", lambda *_: None)
    amended = broadcasts.amend_broadcast(engine, "b1", Action.RETRACT)
    assert (amended.made, amended.there, amended.refused) == (3, 4, {})
    assert refers(engine) == sorted(ids)


def test_who_cannot_be_changed_is_counted_with_the_reason(engine: Engine) -> None:
    ids = broadcast(engine, ["telegram:1", "telegram:2", "console:x", "telegram:3"])
    with engine.begin() as connection:
        connection.execute(
            text("UPDATE delivery SET receipt = NULL WHERE id = :id"), {"id": ids[3]}
        )
        waiting = outbox.insert(connection, [check(to="telegram:4", text="x")])[0].id
        connection.execute(
            text("UPDATE delivery SET broadcast_id = 'b1' WHERE id = :id"), {"id": waiting}
        )
    amended = broadcasts.amend_broadcast(engine, "b1", Action.EDIT, "better")
    assert amended.made == 2
    assert set(amended.refused.values()) == {1}
    assert any("console cannot edit" in reason for reason in amended.refused)
    assert any("no receipt" in reason for reason in amended.refused)
    with pytest.raises(Refused, match="text is empty"):
        broadcasts.amend_broadcast(engine, "b1", Action.EDIT, " ")


def test_the_texts_of_changes_are_forgotten_with_their_person(engine: Engine) -> None:
    resolver = SqlIdentityResolver(engine, cache_ttl_s=0)
    resolver.link("telegram", "5", "alice")
    first = sent(engine)
    done = edit(engine, first, "a secret").id
    settle(engine, done)
    open_ = edit(engine, first, "another secret").id
    with engine.begin() as connection:
        # It went to an account that nobody knows to be hers any more.
        connection.execute(
            text(
                "UPDATE delivery SET target = 'telegram:9', chat_id = '9', unified_user = NULL "
                "WHERE id = :id"
            ),
            {"id": done},
        )
    forget(engine, resolver, person(resolver, "alice"))
    assert {row(engine, id_).text for id_ in (first, done, open_)} == {"[forgotten]"}
    assert row(engine, open_).state == "cancelled"
    with pytest.raises(Refused, match="forgotten"):
        edit(engine, first, "more")


def test_no_statement_of_an_amendment_reads_every_delivery(engine: Engine) -> None:
    ids = broadcast(engine, ["telegram:1", "telegram:2"])
    with engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO delivery (id, body_hash, target, account, topic, action, text, "
                "silent, source, lane, policy, state, due_ms, created_ms, attempt, attempts_used, "
                "maybe_duplicate) SELECT 'x' || substr(id, 1, 8) || n, '', target, '', '', 'send', "
                "'x', false, '', lane, policy, 'sent', 1, 1, 1, 1, false FROM delivery, "
                "(WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 60000) "
                "SELECT n FROM c) AS many"
                " WHERE id = :id"
            ),
            {"id": ids[0]},
        )
    with engine.begin() as connection:
        connection.exec_driver_sql("ANALYZE")
    seen: list[tuple[str, Any]] = []

    def note(_c: object, _k: object, statement: str, parameters: Any, *_: object) -> None:
        if "delivery" in statement and not statement.startswith("EXPLAIN"):
            seen.append((statement, parameters))

    event.listen(engine, "before_cursor_execute", note)
    broadcasts.amend_broadcast(engine, "b1", Action.EDIT, "two")
    for id_ in ids:
        settle(engine, edit(engine, id_, "two").id)
    event.remove(engine, "before_cursor_execute", note)
    assert len(seen) > 8
    sqlite = engine.dialect.name == "sqlite"
    for statement, parameters in seen:
        with engine.begin() as connection:
            explain = "EXPLAIN QUERY PLAN " if sqlite else "EXPLAIN "
            found = connection.exec_driver_sql(explain + statement, parameters).all()
        whole = r"SCAN (delivery|[alo])( |$)(?!USING)" if sqlite else "Seq Scan on delivery"
        bad = [r[-1] for r in found if re.search(whole, r[-1])]
        assert not bad, (statement, found)


def test_an_edit_that_is_a_message_of_its_own_is_taken_back_as_well(engine: Engine) -> None:
    first = sent(engine, to="matrix:!room:hs")
    settle(engine, edit(engine, first, "two").id, receipt="$edit")
    assert row(engine, edit(engine, first, "three").id).receipt is None
    taken = retract(engine, first).id
    query = text("SELECT metadata FROM delivery WHERE id = :id").columns(metadata=JSON())
    with engine.begin() as connection:
        found = connection.execute(query, {"id": taken}).scalar_one()
    assert found == {"message_ids": ["77", "$edit"]}


def test_a_turn_that_was_under_way_does_not_bring_back_what_was_taken_back(engine: Engine) -> None:
    first = sent(engine, "a secret")
    resolver = InMemoryIdentityResolver()
    resolver.link("telegram", "5", "alice")
    sessions = SessionManager(engine, resolver=resolver, platform="telegram")
    turn = sessions.history("alice")
    settle(engine, retract(engine, first).id)
    turn += [{"role": "user", "content": "what?", "timestamp": datetime.now(UTC).isoformat()}]
    sessions._save_history("5", turn)
    assert history(engine) == ["[retracted]", "what?"]


def test_a_claim_says_what_it_changes(engine: Engine) -> None:
    first = sent(engine)
    changed = edit(engine, first, "two").id
    with engine.begin() as connection:
        [claim] = outbox.claim(connection, owner="w", lease_ms=9, limit=9, ids=[changed]).claimed
    assert isinstance(claim, Claimed)
    assert (claim.action, claim.refers_to, claim.text) == ("edit", first, "two")
    assert claim.metadata == {"message_ids": ["77"]}
