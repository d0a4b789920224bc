"""What a person does about deliveries: again, no more, resolved; by id, by filter, by message."""

import json
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from scheduler import rejected, replay
from scheduler.deliveries import Filter
from tests.command_line import CommandLine
from tests.waiting import wait_until
from worker import outbox
from worker.by_hand import Resolution
from worker.database import engine as open_engine
from worker.database import migrate
from worker.errors import NotFound, Refused
from worker.intake import check


@pytest.fixture
def engine(database_url: str, monkeypatch: pytest.MonkeyPatch):
    made = open_engine(database_url)
    migrate(made)
    monkeypatch.setattr(replay, "publish", lambda _, rows: told.extend(r.id for r in rows))
    monkeypatch.setattr(rejected, "publish", lambda _, rows: told.extend(r.id for r in rows))
    told: list[str] = []
    made.told = told  # type: ignore[attr-defined]
    yield made
    made.dispose()


def told(engine: Engine) -> list[str]:
    found: list[str] = engine.told  # type: ignore[attr-defined]
    return found


def put(engine: Engine, state: str, to: str = "telegram:5", **columns: object) -> str:
    with engine.begin() as connection:
        id_ = outbox.insert(connection, [check(to=to, text="x")])[0].id
        values = {"state": state, "attempts_used": 7, "ended_ms": 1, **columns}
        changes = ", ".join(f"{name} = :{name}" for name in values)
        connection.execute(
            text(f"UPDATE delivery SET {changes} WHERE id = :id"), values | {"id": id_}
        )
    return id_


def row(engine: Engine, id_: str) -> dict[str, object]:
    with engine.begin() as connection:
        found = connection.execute(text("SELECT * FROM delivery WHERE id = :id"), {"id": id_})
        return dict(found.mappings().one())


@pytest.mark.parametrize("state", ["failed", "suppressed", "unknown", "held"])
def test_a_dead_letter_is_tried_again_with_all_its_attempts(engine: Engine, state: str) -> None:
    id_ = put(engine, state, error_kind="invalid")
    assert replay.retry(engine, [id_[:20]]) == [id_]
    again = row(engine, id_)
    assert (again["state"], again["attempts_used"], again["ended_ms"]) == ("queued", 0, None)
    assert told(engine) == [id_]


@pytest.mark.parametrize("state", ["sent", "queued", "sending", "cancelled", "expired"])
def test_what_cannot_be_tried_again_is_refused_and_nothing_changes(
    engine: Engine, state: str
) -> None:
    dead, other = put(engine, "failed"), put(engine, state)
    with pytest.raises(Refused, match=f"{other} is {state}: only those"):
        replay.retry(engine, [dead, other])
    assert row(engine, dead)["state"] == "failed"
    with pytest.raises(NotFound):
        replay.retry(engine, ["ffff"])


def test_what_waits_in_order_or_is_past_its_time_is_not_tried_again(engine: Engine) -> None:
    head = put(engine, "held", error_kind="auth")
    behind = put(engine, "held", error_kind="order")
    late = put(engine, "failed", expires_ms=1)
    with pytest.raises(Refused, match=f"{behind} waits for an earlier delivery of its chat"):
        replay.retry(engine, [head, behind])
    with pytest.raises(Refused, match=f"{late} must not go out any more"):
        replay.named(engine, [late])
    assert replay.matching(engine, Filter(status="held")) == [head]
    assert replay.matching(engine, Filter()) == []
    assert replay.requeue(engine, [head, behind, late]) == 1
    assert [row(engine, id_)["state"] for id_ in (head, behind, late)] == [
        "queued",
        "held",
        "failed",
    ]


def test_what_only_a_person_can_know_is_not_tried_again_but_resolved(engine: Engine) -> None:
    doubtful = {"doubt_ms": 1, "platform": "telegram", "policy": "hold"}
    id_ = put(engine, "unknown", **doubtful)
    with pytest.raises(Refused, match=rf"deliveries resolve {id_} sent\|resend\|drop"):
        replay.retry(engine, [id_])
    assert row(engine, id_)["state"] == "unknown"
    assert replay.resolve(engine, id_, Resolution.RESEND) == id_
    keyed = put(engine, "unknown", "matrix:!a:b", **{**doubtful, "platform": "matrix"})
    assert replay.retry(engine, [keyed]) == [keyed]


def test_a_filter_takes_only_dead_letters_that_it_names_at_the_rate(engine: Engine) -> None:
    slack = [put(engine, "failed", "slack:C1", error_kind="transient") for _ in range(5)]
    put(engine, "failed", "slack:C1", error_kind="invalid")
    put(engine, "failed", "telegram:5", error_kind="transient")
    put(engine, "suppressed", "slack:C1", error_kind="transient")
    which = Filter(platform="slack", error_kind="transient")
    found = replay.matching(engine, which)
    assert found == slack
    waits: list[float] = []
    batches = replay.paced(found, rate=2, sleep=waits.append)
    assert [replay.requeue(engine, batch) for batch in batches] == [2, 2, 1]
    assert waits == [1.0, 1.0]
    assert told(engine) == slack
    with pytest.raises(Refused, match="--status must be one of"):
        replay.matching(engine, Filter(status="sent"))
    with pytest.raises(Refused, match="error kind 'odd' is not known"):
        replay.matching(engine, Filter(error_kind="odd"))


def test_a_retry_lets_a_dead_chat_and_a_refused_bot_be_tried_at_once(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO dead_target (platform, account, chat_id, thread_id, kind, reason, "
                "since_ms, probe_ms) VALUES ('telegram', '', '5', '', 'target_gone', 'x', 1, 9)"
            )
        )
        connection.execute(
            text(
                "INSERT INTO dead_credential (platform, account, credential_print, reason, "
                "since_ms) VALUES ('telegram', '', 'p', 'x', 1)"
            )
        )
    replay.retry(engine, [put(engine, "suppressed")])
    with engine.begin() as connection:
        assert connection.execute(text("SELECT probe_ms FROM dead_target")).scalar() == 0
        assert connection.execute(text("SELECT count(*) FROM dead_credential")).scalar() == 0


def test_cancelling_the_head_of_a_chat_lets_the_next_go(engine: Engine) -> None:
    head = put(engine, "retrying")
    behind = put(engine, "held", error_kind="order")
    assert replay.cancel(engine, [head]) == [head]
    assert row(engine, head)["state"] == "cancelled"
    assert row(engine, behind)["state"] == "queued"
    with pytest.raises(Refused, match=f"delivery {head} is cancelled"):
        replay.cancel(engine, [behind, head])
    assert row(engine, behind)["state"] == "queued"


@pytest.mark.parametrize(
    ("resolution", "state", "mirror", "doubled"),
    [
        (Resolution.SENT, "sent", "failed", False),
        (Resolution.RESEND, "queued", None, True),
        (Resolution.DROP, "cancelled", None, False),
    ],
)
def test_a_person_ends_the_doubt(
    engine: Engine, resolution: Resolution, state: str, mirror: str | None, doubled: bool
) -> None:
    id_ = put(engine, "unknown", doubt_ms=1)
    assert replay.resolve(engine, id_, resolution) == id_
    found = row(engine, id_)
    assert (found["state"], found["mirror"], bool(found["maybe_duplicate"])) == (
        state,
        mirror,
        doubled,
    )
    assert found["doubt_ms"] is None
    if resolution is Resolution.SENT:
        # When it may have arrived, not when somebody said so: its place in the history.
        assert found["ended_ms"] == 1
    assert told(engine) == ([id_] if state == "queued" else [])
    with pytest.raises(Refused, match="only what is unknown can be resolved"):
        replay.resolve(engine, id_, resolution)


def refuse(engine: Engine, payload: dict[str, object]) -> int:
    with engine.begin() as connection:
        return int(
            connection.execute(
                text(
                    "INSERT INTO rejected (received_ms, task_id, reason, payload) "
                    "VALUES (1, 't-1', 'why', :payload) RETURNING id"
                ),
                {"payload": json.dumps(payload)},
            ).scalar_one()
        )


def test_a_refused_message_goes_through_the_door_again_once(engine: Engine) -> None:
    number = refuse(engine, {"to": "telegram:5", "text": "now it is right"})
    accepted = rejected.retry(engine, number)
    assert row(engine, accepted.id)["key"] == "task:t-1"
    assert rejected.find(engine, number).delivery_id == accepted.id
    assert rejected.retry(engine, number).created is False
    assert told(engine) == [accepted.id]


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        ({"to": "pigeon:5", "text": "x"}, "unknown platform 'pigeon'"),
        ({"to": "telegram:5"}, "text must be given"),
        ({"to": "telegram:5", "text": "x", "colour": "red"}, "unknown field colour"),
        ({"to": "telegram:5", "text": "x", "late_ms": 9**9}, "unknown field late_ms"),
        ({"arguments": ["x"], "to": "telegram:5", "text": "x"}, "arguments must be named"),
    ],
)
def test_what_is_still_wrong_is_refused_again(
    engine: Engine, payload: dict[str, object], why: str
) -> None:
    number = refuse(engine, payload)
    with pytest.raises(Refused, match=why):
        rejected.retry(engine, number)
    assert rejected.find(engine, number).delivery_id is None
    with pytest.raises(NotFound):
        rejected.find(engine, 999)


def test_the_commands_do_it_and_say_so(tmp_path: Path) -> None:
    cli = CommandLine(tmp_path)
    id_ = cli("send", "telegram:5", "hello", "--at", "2h").out.strip()
    assert cli("deliveries", "cancel", id_, "--json").json() == {"cancelled": [id_]}
    assert "is cancelled" in cli("deliveries", "cancel", id_).refusal()
    assert "only what is unknown" in cli("deliveries", "resolve", id_, "sent").refusal()
    assert cli("deliveries", "resolve", id_, "maybe").code == 2
    assert cli("deliveries", "retry").code == 2
    assert cli("deliveries", "retry", id_, "--platform", "slack").code == 2
    made = open_engine(f"sqlite:///{cli.database}")
    with made.begin() as connection:
        connection.execute(text("UPDATE delivery SET state = 'failed', platform = 'telegram'"))
    number = refuse(made, {"to": "telegram:6", "text": "hello"})
    made.dispose()
    dry = cli("deliveries", "retry", "--platform", "telegram", "--since", "1h", "--dry-run")
    assert (dry.out, dry.err) == (f"{id_}\n", "1 would be tried again\n")
    assert cli("deliveries", "retry", id_[:13], "--dry-run").out == f"{id_}\n"
    assert cli("deliveries", "show", id_, "--json").json()["status"] == "failed"
    listed = cli("deliveries", "list", "--status", "failed", "--since", "1d", "--json").json()
    assert [each["id"] for each in listed] == [id_]
    assert cli("deliveries", "retry", "--status", "failed", "--json").json()["queued"] == 1
    assert cli("rejected", "list", "--json").json()[0]["reason"] == "why"
    assert "hello" in cli("rejected", "show", str(number)).out
    assert "is queued: only those" in cli("deliveries", "retry", id_, "--dry-run").refusal()
    made_id = cli("rejected", "retry", str(number)).out.strip()
    assert cli("deliveries", "show", made_id, "--json").json()["target"] == "telegram:6"
    assert "past" in cli("deliveries", "list", "--since", "2100-01-01").refusal()


def test_an_interrupted_retry_ends_at_once_and_says_how_many_were_done(tmp_path: Path) -> None:
    cli = CommandLine(tmp_path)
    for _ in range(5):
        cli("send", "telegram:5", "hello", "--at", "2h", code=0)
    with sqlite3.connect(cli.database) as connection:
        connection.execute("UPDATE delivery SET state = 'failed', due_ms = 1")

    def queued() -> int:
        with closing(sqlite3.connect(cli.database)) as connection:
            count = "SELECT count(*) FROM delivery WHERE state = 'queued'"
            return int(connection.execute(count).fetchone()[0])

    with cli.begun("deliveries", "retry", "--status", "failed", "--rate", "0.2") as command:
        wait_until(queued, 30, "the first to be queued")
        command.send_signal(signal.SIGINT)
        _, said = command.communicate(timeout=30)
    assert command.returncode == 130
    assert "interrupted: 1 of 5 were queued" in said
    assert queued() == 1
