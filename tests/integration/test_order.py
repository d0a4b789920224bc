"""The order of a chat: one after the other, also past failures, and nobody else waits."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
from sqlalchemy import Engine, text

from scheduler.deliveries import find
from scheduler.explain import explain_stored
from scheduler.order_sweep import sweep_order
from scheduler.relay import relay
from tests.waiting import wait_until
from tests.workers import DATABASES, Site, running_site
from worker import by_hand, due, outbox
from worker.database import engine as open_engine
from worker.database import migrate
from worker.intake import check
from worker.states import State
from worker.verdict import Place, Settlement

PLACE = Place("telegram", "", "5", None, "alice")


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    made = open_engine(database_url)
    migrate(made)
    yield made
    made.dispose()


def put(engine: Engine, *targets: str, **fields: object) -> list[str]:
    new = [check(to=target, text="x", **fields) for target in targets]  # type: ignore[arg-type]
    with engine.begin() as connection:
        return [accepted.id for accepted in outbox.insert(connection, new)]


def claim(engine: Engine) -> list[outbox.Claimed]:
    with engine.begin() as connection:
        return outbox.claim(connection, owner="w", lease_ms=60_000, limit=64).claimed


def settle(engine: Engine, claimed: outbox.Claimed, state: State) -> None:
    delay_ms = 3_600_000 if state is State.RETRYING else None
    settlement = Settlement(claimed.id, claimed.attempt, state, PLACE, delay_ms=delay_ms)
    with engine.begin() as connection:
        outbox.settle(connection, [settlement], owner="w")


def release(engine: Engine, key: str | None) -> list[str]:
    from worker import order

    assert key is not None
    with engine.begin() as connection:
        return order.release(connection, {key})


def states(engine: Engine, ids: Sequence[str]) -> list[str]:
    with engine.begin() as connection:
        rows = connection.execute(text("SELECT id, state FROM delivery")).all()
    found = {row.id: row.state for row in rows}
    return [found[id_] for id_ in ids]


def test_only_the_head_of_a_chat_is_claimed_and_the_next_when_it_has_ended(
    engine: Engine,
) -> None:
    ids = put(engine, "telegram:5", "telegram:5", "telegram:6", "telegram:5")
    heads = claim(engine)
    assert [c.id for c in heads] == [ids[0], ids[2]]
    assert states(engine, ids) == ["sending", "held", "sending", "held"]
    for end, following in ((State.SENT, ids[1]), (State.FAILED, ids[3])):
        [head] = [c for c in heads if c.order_key == "telegram@:5"]
        settle(engine, head, end)
        assert release(engine, head.order_key) == [following]
        heads = claim(engine)
        assert [c.id for c in heads] == [following]


def test_a_retrying_head_holds_those_behind_it(engine: Engine) -> None:
    first, second = put(engine, "telegram:5", "telegram:5")
    [head] = claim(engine)
    settle(engine, head, State.RETRYING)
    assert claim(engine) == []
    sweep_order(engine)
    assert claim(engine) == []
    assert states(engine, [first, second]) == ["retrying", "held"]


def test_who_waits_in_order_is_told_for_whom(engine: Engine) -> None:
    ids = put(engine, "telegram:5", "telegram:5", "telegram:5")
    claim(engine)
    for waiting in ids[1:]:
        told = explain_stored(engine, find(engine, waiting))
        assert f"It waits for an earlier delivery of the same chat, {ids[0]}, to end." in told


def test_what_is_due_later_holds_nobody(engine: Engine) -> None:
    later, now = put(engine, "telegram:5", at="2100-01-01") + put(engine, "telegram:5")
    assert [c.id for c in claim(engine)] == [now]
    assert states(engine, [later]) == ["scheduled"]


def make_due(engine: Engine, ids: list[str]) -> list[str]:
    with engine.begin() as connection:
        for id_ in ids:
            connection.execute(text("UPDATE delivery SET due_ms = 1 WHERE id = :id"), {"id": id_})
        return [row.id for row in due.queue_due(connection)]


def test_what_becomes_due_comes_after_what_is_under_way(engine: Engine) -> None:
    """Also when it was stored first, and also when the one under way has to be tried again."""
    soon, sooner = put(engine, "telegram:5", "telegram:5", at="2100-01-01")
    [now] = put(engine, "telegram:5")
    [head] = claim(engine)
    assert make_due(engine, [soon, sooner]) == [soon, sooner]
    assert claim(engine) == []
    settle(engine, head, State.RETRYING)
    assert make_due(engine, [now]) == [now]
    [later] = put(engine, "telegram:5")
    for expected in (now, soon, sooner, later):
        [head] = claim(engine)
        assert head.id == expected
        settle(engine, head, State.SENT)
        release(engine, head.order_key)


def test_what_a_person_has_tried_again_comes_after_what_is_under_way(engine: Engine) -> None:
    failed, other = put(engine, "telegram:5", "telegram:5")
    [head] = claim(engine)
    settle(engine, head, State.FAILED)
    release(engine, head.order_key)
    [head] = claim(engine)
    with engine.begin() as connection:
        assert [r.id for r in by_hand.retry(connection, [failed])] == [failed]
    assert claim(engine) == []
    assert states(engine, [failed, other]) == ["held", "sending"]
    settle(engine, head, State.SENT)
    assert release(engine, head.order_key) == [failed]


def test_without_order_all_go_at_once(engine: Engine) -> None:
    put(engine, "telegram:5", "telegram:5", order="none")
    put(engine, "telegram:5", "telegram:5", lane="broadcast")
    assert len(claim(engine)) == 4


def test_a_key_of_ones_own_parts_threads_and_joins_chats(engine: Engine) -> None:
    one, other = put(engine, "telegram:-5#1", order_key="topic-1") + put(
        engine, "telegram:-5#2", order_key="topic-2"
    )
    joined = put(engine, "telegram:7", order_key="topic-1")
    assert {c.id for c in claim(engine)} == {one, other}
    assert states(engine, joined) == ["held"]


def test_rows_are_ordered_as_stored_also_over_several_statements(engine: Engine) -> None:
    ids = [id_ for _ in range(3) for id_ in put(engine, "telegram:5", "telegram:5")]
    with engine.begin() as connection:
        stored = connection.execute(text("SELECT id FROM delivery ORDER BY seq")).scalars().all()
        # A clock that is set back changes nothing.
        connection.execute(text("UPDATE delivery SET created_ms = 1, due_ms = 1"))
    assert stored == ids
    assert [c.id for c in claim(engine)] == ids[:1]


@pytest.mark.parametrize("end", ["expire", "rescue"])
def test_whatever_ends_the_head_frees_the_next(engine: Engine, end: str) -> None:
    first, second = put(engine, "telegram:5", "telegram:5")
    assert [c.id for c in claim(engine)] == [first]
    assert claim(engine) == []
    change = {
        "expire": "state = 'retrying', expires_ms = 1",
        "rescue": "lease_until_ms = 1, attempts_used = 6",
    }[end]
    with engine.begin() as connection:
        connection.execute(text(f"UPDATE delivery SET {change} WHERE id = :id"), {"id": first})
        if end == "expire":
            due.expire(connection)
        else:
            due.rescue(connection, keyed=["matrix"], asked=["slack"])
    assert states(engine, [second]) == ["queued"]


def test_the_sweep_finds_what_nobody_freed_and_the_relay_publishes_it(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    from scheduler import relay as relay_module

    told: list[str] = []
    monkeypatch.setattr(
        relay_module, "publish", lambda _, rows: told.extend(r.id for r in rows) or len(rows)
    )
    _, second = put(engine, "telegram:5", "telegram:5")
    [head] = claim(engine)
    claim(engine)
    settle(engine, head, State.SENT)
    assert sweep_order(engine) == 1
    relay(engine)
    assert told == [second]


def test_a_lease_is_renewed_only_for_whoever_holds_it(engine: Engine) -> None:
    put(engine, "telegram:5", "telegram:6")
    one, other = claim(engine)
    with engine.begin() as connection:
        connection.execute(text("UPDATE delivery SET lease_until_ms = 1"))
        held = {one.id: one.attempt, other.id: other.attempt - 1}
        assert outbox.renew(connection, held, lease_ms=60_000) == {one.id}
        until = dict(connection.execute(text("SELECT id, lease_until_ms FROM delivery")).all())  # type: ignore[arg-type]
    assert until[one.id] > 1
    assert until[other.id] == 1


def test_who_lost_the_lease_changes_nothing_and_what_he_learnt_is_kept(engine: Engine) -> None:
    [id_] = put(engine, "telegram:5")
    [late] = claim(engine)
    with engine.begin() as connection:
        connection.execute(text("UPDATE delivery SET lease_until_ms = 1"))
        due.rescue(connection, keyed=["matrix"], asked=["slack"])
    [again] = claim(engine)
    answer = Settlement(id_, late.attempt, State.SENT, PLACE, receipt=("1",), outcome="sent")
    with engine.begin() as connection:
        assert outbox.settle(connection, [answer], owner="late") == set()
        told = replace(answer, attempt=again.attempt, receipt=("2",))
        assert outbox.settle(connection, [told], owner="w") == {id_}
        tried = connection.execute(
            text("SELECT attempt, outcome, fenced FROM attempt ORDER BY attempt")
        ).all()
        receipt = connection.execute(text("SELECT CAST(receipt AS TEXT) FROM delivery")).scalar()
    assert [(t.attempt, t.outcome, bool(t.fenced)) for t in tried] == [
        (1, "sent", True),
        (2, "sent", False),
    ]
    assert receipt == '["2"]'


@pytest.fixture(scope="module", params=DATABASES)
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    with running_site(request, request.param) as made, made.worker(), made.scheduler():
        yield made


def test_a_chat_hears_its_messages_in_order_past_a_failure_and_others_do_not_wait(
    site: Site,
) -> None:
    site.sandbox.fault("telegram", "41", "500", times=1)
    ids = [site.enqueue("telegram:41", f"{n}") for n in range(12)]
    site.reaches(ids[0], "retrying")
    site.reaches(site.enqueue("telegram:42", "elsewhere"), "sent", within_s=5)
    assert site.sandbox.texts("telegram", "41") == []
    assert site.reaches(ids[1], "held").error_kind == "order"
    site.make_due(ids[0])
    site.reaches(ids[-1], "sent")
    assert site.sandbox.texts("telegram", "41") == [f"{n}" for n in range(12)]


def test_a_long_message_goes_out_in_parts_and_goes_on_where_it_broke(site: Site) -> None:
    text_ = " ".join(f"word{n}" for n in range(2_200))
    site.sandbox.fault("telegram", "43", "500", times=1, skip=2)
    id_ = site.enqueue("telegram:43", text_)
    row = site.reaches(id_, "retrying")
    assert len(row.receipt or ()) == 2
    site.make_due(id_)
    row = site.reaches(id_, "sent")
    parts = site.sandbox.texts("telegram", "43")
    assert len(parts) == len(row.receipt or ()) == 5
    assert " ".join(" ".join(parts).split()) == text_
    assert [(a.part, a.outcome) for a in site.attempts(id_)] == [
        (0, "sent"),
        (1, "sent"),
        (2, "transient"),
        (2, "sent"),
        (3, "sent"),
        (4, "sent"),
    ]
    [said] = [m for m in site.messages("telegram:43") if m.delivery_id == id_]
    assert said.content == text_
    assert list(said.platform_message_ids) == row.receipt


def test_hold_is_noted_before_the_request_leaves(site: Site) -> None:
    site.sandbox.fault("telegram", "44", "slow", times=1, seconds=2)
    id_ = site.enqueue("telegram:44", "at most once", policy="hold")
    site.reaches(id_, "sending")
    wait_until(lambda: site.delivery(id_).doubt_ms is not None, 1.5, "the note")
    assert site.delivery(id_).state == "sending"
    assert site.reaches(id_, "sent").doubt_ms is None
