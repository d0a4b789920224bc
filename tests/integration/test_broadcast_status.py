"""What a person sees of a broadcast: how far it is, live, and what became of each recipient."""

import csv
import io
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, event, text
from sqlmodel import Session

from scheduler.broadcasts import feed as feeding
from scheduler.broadcasts import outcomes, steer
from scheduler.broadcasts.feed import feed
from scheduler.broadcasts.progress import Counts, progress_of
from scheduler.broadcasts.results import results
from scheduler.broadcasts.tables import RecipientRow
from scheduler.deliveries import Filter, find, newest
from scheduler.explain import explain_stored
from scheduler.replay import retry
from tests.command_line import CommandLine
from tests.running_broadcasts import end, make, states, stored, telegram
from tests.waiting import wait_until
from worker.database import engine as open_engine
from worker.database import migrate
from worker.errors import NotFound, Refused


@pytest.fixture
def engine(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    made = open_engine(database_url)
    migrate(made)
    monkeypatch.setattr(feeding, "publish", lambda *_: None)
    yield made
    made.dispose()


def leave_out(engine: Engine, id_: str, person: str, why: str) -> None:
    with Session(engine) as session:
        session.add(RecipientRow(broadcast_id=id_, person=person, target=person, excluded=why))
        session.commit()


def test_the_counts_are_of_all_recipients_and_of_each_platform(engine: Engine) -> None:
    make(engine, telegram(50), name="other")
    id_ = make(engine, [*telegram(130), "discord:1", "user:ann", "telegram:900"], fanned_out=132)
    with engine.begin() as connection:
        connection.execute(text("UPDATE broadcast SET state = 'paused' WHERE name = 'other'"))
    feed(engine)
    end(engine, id_, "sent", 6)
    end(engine, id_, "failed", 2)
    end(engine, id_, "unknown", 1)
    end(engine, id_, "suppressed", 1)
    found = progress_of(engine, "news")
    assert found.counts == Counts(
        waiting=12, under_way=111, sent=6, failed=2, unknown=1, suppressed=1
    )
    assert (found.recipients, found.ended, found.is_over) == (133, 10, False)
    assert found.platforms["telegram"] == Counts(11, 109, sent=6, failed=2, unknown=1, suppressed=1)
    assert found.platforms["discord"] == found.platforms["not chosen yet"] == Counts(under_way=1)
    assert found.rate == pytest.approx(0.6, abs=0.1)
    assert found.eta_s == round(123 / found.rate)
    list(steer.cancel(engine, "news"))
    found = progress_of(engine, "news")
    assert (found.counts.cancelled, found.counts.waiting, found.eta_s) == (123, 0, None)
    assert found.is_over


def test_what_is_held_for_another_reason_than_its_turn_is_told(engine: Engine) -> None:
    id_ = make(engine, telegram(3))
    feed(engine)
    end(engine, id_, "held", 2, kind="auth")
    found = progress_of(engine, "news")
    assert (found.held, found.counts.waiting, found.counts.under_way) == (2, 2, 1)


def test_counting_reads_the_index_alone(engine: Engine) -> None:
    make(engine, telegram(3_000))
    id_ = make(engine, telegram(3_000), name="other")
    if engine.dialect.name == "postgresql":
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("VACUUM ANALYZE")
    seen: list[tuple[str, object]] = []

    def note(
        _connection: object, _cursor: object, statement: str, parameters: object, *_rest: object
    ) -> None:
        if "delivery" in statement:
            seen.append((statement, parameters))

    event.listen(engine, "before_cursor_execute", note)
    progress_of(engine, "other")
    with engine.begin() as connection:
        outcomes.outcomes(connection, id_)
        outcomes.lately(connection, id_)
    event.remove(engine, "before_cursor_execute", note)
    sqlite = engine.dialect.name == "sqlite"
    explain = "EXPLAIN QUERY PLAN" if sqlite else "EXPLAIN"
    plans = []
    for statement, parameters in seen:
        with engine.begin() as connection:
            if not sqlite:
                # Few rows are read faster whole: what counts is that there is an index.
                connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
            rows = connection.exec_driver_sql(f"{explain} {statement}", parameters).all()  # type: ignore[call-overload]
        plans.append("\n".join(str(row[-1]) for row in rows))
    assert len(plans) == 6
    assert "COVERING INDEX ix_delivery_broadcast" in plans[0] or (
        "Index Only Scan using ix_delivery_broadcast" in plans[0]
    ), plans[0]
    for plan in plans:
        assert "Seq Scan on delivery" not in plan, plan
        assert "SCAN delivery\n" not in plan + "\n", plan
        assert "SCAN a\n" not in plan + "\n", plan
    assert "ix_delivery_ended" in plans[2]


def test_the_results_name_every_recipient_also_those_who_were_left_out(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scheduler.broadcasts.results._CHUNK", 2)
    id_ = make(engine, telegram(5), fanned_out=4)
    leave_out(engine, id_, "zoe", "opted_out")
    feed(engine)
    with engine.begin() as connection:
        for number, changes in (
            (1, "state = 'sent', ended_ms = 5000, receipt = '[\"7\", \"8\"]'"),
            (2, "state = 'failed', ended_ms = 5000, error_text = 'chat not found'"),
            (3, "state = 'held', error_kind = 'broadcast'"),
        ):
            connection.execute(
                text(f"UPDATE delivery SET {changes} WHERE target = 'telegram:{number}'")
            )
    found = list(results(engine, stored(engine, id_)))
    assert [(r.person, r.platform, r.status, r.reason, r.receipt, r.sent_ms) for r in found] == [
        ("telegram:1", "telegram", "sent", None, "7 8", 5000),
        ("telegram:2", "telegram", "failed", "chat not found", None, None),
        ("telegram:3", "telegram", "waiting", None, None, None),
        ("telegram:4", "telegram", "queued", None, None, None),
        ("telegram:5", "telegram", "waiting", None, None, None),
        ("zoe", None, "left_out", "opted out", None, None),
    ]


def test_who_waits_for_a_broadcast_is_told_why(engine: Engine) -> None:
    id_ = make(engine, telegram(130))
    feed(engine)
    last = newest(engine, Filter(status="held", broadcast=id_), limit=1)[0].id

    def told() -> list[str]:
        return explain_stored(engine, find(engine, last))

    assert any(line.startswith("It is a part of broadcast 'news', made") for line in told())
    assert any("waits for its turn: broadcast 'news' is running" in line for line in told())
    steer.pause(engine, "news")
    assert (
        "It waits for broadcast 'news', which is paused (paused by hand): "
        "mirrorpost broadcast resume news"
    ) in told()
    with pytest.raises(Refused, match="waits for its broadcast, see mirrorpost deliveries explain"):
        retry(engine, [last])


def test_what_is_not_there_is_refused(engine: Engine) -> None:
    with pytest.raises(NotFound, match="no broadcast 'x': see mirrorpost broadcast list"):
        progress_of(engine, "x")


@pytest.fixture
def cli(tmp_path: Path) -> CommandLine:
    made = CommandLine(tmp_path)
    made("migrate", code=0)
    return made


@pytest.fixture
def own(cli: CommandLine) -> Iterator[Engine]:
    made = open_engine(f"sqlite:///{cli.database}")
    yield made
    made.dispose()


def test_a_broadcast_is_steered_from_the_command_line(cli: CommandLine, own: Engine) -> None:
    id_ = make(own, telegram(4))
    assert "mirrorpost broadcast resume news" in cli("broadcast", "pause", "news", code=0).out
    assert "is paused already" in cli("broadcast", "pause", "news").refusal()
    found = cli("broadcast", "status", "news", "--json").json()
    assert (found["state"], found["reason"], found["waiting"]) == ("paused", "paused by hand", 4)
    assert found["platforms"]["telegram"]["waiting"] == 4
    shown = cli("broadcast", "status", "news", code=0).out
    assert "news is paused: paused by hand." in shown
    assert "0 of 4 have ended, 4 are left." in shown
    assert cli("broadcast", "resume", "news", "--json").json()["state"] == "running"
    listed = cli("deliveries", "list", "--broadcast", "news", "--json").json()
    assert len(listed) == 4
    assert cli("broadcast", "cancel", "news", "--json").json()["cancelled"] == 4
    assert states(own, id_) == {"cancelled": 4}
    assert "for good" in cli("broadcast", "resume", "news").refusal()
    assert "no broadcast 'x'" in cli("broadcast", "watch", "x").refusal()


def test_the_results_are_csv_or_json_on_standard_output_or_in_a_file(
    cli: CommandLine, own: Engine
) -> None:
    id_ = make(own, [*telegram(2), "telegram:-5"])
    leave_out(own, id_, 'ann, "the" first', "no_route")
    rows = list(csv.DictReader(io.StringIO(cli("broadcast", "results", "news", code=0).out)))
    assert [(row["person"], row["status"], row["reason"]) for row in rows] == [
        ('ann, "the" first', "left_out", "no route"),
        ("telegram:-5", "waiting", ""),
        ("telegram:1", "waiting", ""),
        ("telegram:2", "waiting", ""),
    ]
    found = cli("broadcast", "results", "news", "--json").json()
    assert [each["person"] for each in found] == [row["person"] for row in rows]
    assert cli("broadcast", "results", "news", "--csv-file", "out.csv", code=0).out == ""
    with (cli.folder / "out.csv").open(newline="") as file:
        assert list(csv.DictReader(file)) == rows
    refused = cli("broadcast", "results", "news", "--csv-file", "none/out.csv").refusal()
    assert "none/out.csv cannot be written" in refused
    cli("broadcast", "results", "news", "--json", "--csv-file", "out.csv", code=2)


def test_watch_says_what_changes_and_ends_with_the_broadcast(cli: CommandLine, own: Engine) -> None:
    id_ = make(own, telegram(4))
    with cli.begun("broadcast", "watch", "news") as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("news running: 0/4, 0 a second")
        with own.begin() as connection:
            connection.execute(text("UPDATE delivery SET state = 'sent', ended_ms = 1"))
            connection.execute(text("UPDATE broadcast SET state = 'done', ended_ms = 1"))
        out, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    assert out.endswith("news is done.\n4 of 4 have ended, 0 are left.\n")
    with own.begin() as connection:
        connection.execute(
            text("UPDATE broadcast SET state = 'halted', reason = 'too bad' WHERE id = :id"),
            {"id": id_},
        )
    assert "news is halted: too bad." in cli("broadcast", "watch", "news", code=1).out


def test_watch_is_left_with_ctrl_c_and_the_broadcast_goes_on(cli: CommandLine, own: Engine) -> None:
    id_ = make(own, telegram(4))
    with cli.begun("broadcast", "watch", "news") as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert errors == "mirrorpost: interrupted\n"
    assert wait_until(lambda: stored(own, id_).state) == "running"
