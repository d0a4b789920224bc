"""The notes about dead chats and credentials on SQLite and on PostgreSQL."""

from collections.abc import Iterator, Sequence

import pytest
from sqlalchemy import Engine, event, text
from structlog.testing import capture_logs

from worker import dead
from worker.database import engine as make_engine
from worker.database import migrate, now_ms
from worker.dead import Dead, Place, Standing, Tried
from worker.taxonomy import ErrorKind, Failure

BLOCKED = Failure(ErrorKind.TARGET_GONE, "bot was blocked by the user")
TOPIC = Failure(ErrorKind.FORBIDDEN, "TOPIC_CLOSED", thread_only=True)
HOUR_MS = 3_600_000


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    made = make_engine(database_url)
    migrate(made)
    yield made
    made.dispose()


def tried(chat: str, failure: Failure = BLOCKED, account: str = "", thread: str = "") -> Tried:
    return Tried("d1", "telegram", account, chat, thread, failure)


def moved(old: str, new: str) -> Tried:
    return tried(old, Failure(ErrorKind.TARGET_MOVED, "was upgraded", moved_to=new))


def refused(fingerprint: str, account: str = "") -> Tried:
    failure = Failure(ErrorKind.AUTH, "Unauthorized")
    return Tried("d1", "telegram", account, "5", "", failure, fingerprint)


def note(engine: Engine, *tries: Tried) -> list[str]:
    """Note in one transaction; give the events that were logged."""
    with capture_logs() as logs, engine.begin() as connection:
        dead.note(connection, tries)
    return [entry["event"] for entry in logs]


def standing(
    engine: Engine, chat: str, account: str = "", thread: str = "", fingerprint: str = ""
) -> Standing:
    place = Place("telegram", account, chat, thread, fingerprint)
    with engine.begin() as connection:
        return dead.look_up(connection, [place]).get(place, Standing())


def pass_an_hour(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text(f"UPDATE dead_target SET probe_ms = probe_ms - {HOUR_MS}"))


def take(engine: Engine, *keys: Dead) -> set[Dead]:
    with engine.begin() as connection:
        return dead.take_probes(connection, keys)


def test_a_chat_that_is_gone_is_logged_once_and_noted_since_the_first_time(engine: Engine) -> None:
    with engine.begin() as connection:
        before = now_ms(connection)
    assert note(engine, tried("5"), tried("5"), tried("6")) == ["target_dead", "target_dead"]
    since_ms = standing(engine, "5").gone.since_ms
    assert before - 1 <= since_ms <= before + 60_000
    later = Failure(ErrorKind.FORBIDDEN, "not enough rights")
    assert note(engine, tried("5", later)) == []
    gone = standing(engine, "5").gone
    assert (gone.kind, gone.reason, gone.due) == (ErrorKind.FORBIDDEN, "not enough rights", False)
    assert gone.since_ms == since_ms


def test_a_chat_is_dead_to_the_bot_that_was_told_so_and_to_no_other(engine: Engine) -> None:
    note(engine, tried("5"))
    assert not standing(engine, "5").is_alive
    assert standing(engine, "5", account="second").is_alive
    assert standing(engine, "6").is_alive


def test_a_closed_topic_closes_nothing_but_itself(engine: Engine) -> None:
    note(engine, tried("-1005", TOPIC, thread="7"))
    assert not standing(engine, "-1005", thread="7").is_alive
    assert standing(engine, "-1005", thread="8").is_alive
    assert standing(engine, "-1005").is_alive
    note(engine, tried("-1005"))
    found = standing(engine, "-1005", thread="7")
    assert (found.dead, found.gone.reason) == (Dead("telegram", "", "-1005"), BLOCKED.text)


def test_a_closed_general_topic_closes_no_other(engine: Engine) -> None:
    assert note(engine, tried("-1005", TOPIC)) == []
    assert standing(engine, "-1005", thread="8").is_alive


def test_one_try_an_hour_is_granted_whoever_asks(engine: Engine) -> None:
    key = Dead("telegram", "", "5")
    note(engine, tried("5"))
    assert not standing(engine, "5").gone.due
    assert take(engine, key) == set()
    pass_an_hour(engine)
    assert standing(engine, "5").gone.due
    assert take(engine, key, Dead("telegram", "", "6")) == {key}
    assert take(engine, key) == set()
    assert not standing(engine, "5").gone.due


def test_two_workers_at_once_are_granted_one_try(postgres_url: str) -> None:
    engine = make_engine(postgres_url)
    migrate(engine)
    key = Dead("telegram", "", "5")
    note(engine, tried("5"))
    pass_an_hour(engine)
    with engine.begin() as first, engine.begin() as second:
        assert dead.take_probes(first, [key]) == {key}
        assert dead.take_probes(second, [key]) == set()
    engine.dispose()


def test_a_try_without_an_answer_is_granted_again_when_it_is_due(engine: Engine) -> None:
    key = Dead("telegram", "", "5")
    note(engine, tried("5"))
    pass_an_hour(engine)
    take(engine, key)
    with engine.begin() as connection:
        dead.delay_probes(connection, {key: 60_000})
    assert take(engine, key) == set()
    with engine.begin() as connection:
        dead.delay_probes(connection, {key: 0})
    assert take(engine, key) == {key}


def test_a_success_takes_the_note_back_and_the_next_death_is_news(engine: Engine) -> None:
    note(engine, tried("5"), tried("6"))
    with engine.begin() as connection:
        dead.forget(connection, [Dead("telegram", "", "5")])
    assert standing(engine, "5").is_alive
    assert not standing(engine, "6").is_alive
    assert note(engine, tried("5")) == ["target_dead"]


def test_an_inbound_message_revives_the_chat_for_one_bot_or_for_all(engine: Engine) -> None:
    note(engine, tried("5"), tried("5", account="second"), tried("5", TOPIC, thread="7"))
    with engine.begin() as connection:
        dead.revive(connection, "discord", None, "5")
        dead.revive(connection, "telegram", "second", "5")
    assert standing(engine, "5", account="second").is_alive
    assert not standing(engine, "5").is_alive
    with engine.begin() as connection:
        dead.revive(connection, "telegram", None, "5")
    assert standing(engine, "5", thread="7").is_alive


def test_a_move_is_followed_to_its_end_and_revives_nothing(engine: Engine) -> None:
    assert note(engine, moved("-5", "-1006")) == ["target_moved"]
    assert note(engine, moved("-5", "-1006")) == []
    assert standing(engine, "-5") == Standing(moved_to="-1006")
    note(engine, moved("-1006", "-1007"))
    assert standing(engine, "-5").moved_to == "-1007"
    assert standing(engine, "-1006").moved_to == "-1007"
    with engine.begin() as connection:
        dead.revive(connection, "telegram", None, "-5")
        dead.forget(connection, [Dead("telegram", "", "-5")])
    assert standing(engine, "-5").moved_to == "-1007"


def test_a_group_that_moves_back_is_no_circle(engine: Engine) -> None:
    note(engine, moved("-5", "-1006"))
    note(engine, moved("-1006", "-5"))
    assert standing(engine, "-5") == Standing()
    assert standing(engine, "-1006").moved_to == "-5"


def test_a_group_that_kicks_the_bot_after_its_move_is_dead_at_both_ids(engine: Engine) -> None:
    note(engine, moved("-5", "-1006"), tried("-1006"))
    for chat in ("-5", "-1006"):
        assert standing(engine, chat).dead == Dead("telegram", "", "-1006")
    note(engine, tried("-5"))
    assert standing(engine, "-5").moved_to == "-1006"


def test_a_credential_is_dead_until_its_bot_has_another_one(engine: Engine) -> None:
    assert note(engine, refused("a"), refused("a")) == ["credential_dead"]
    assert note(engine, refused("a")) == []
    assert standing(engine, "5", fingerprint="a").refused.reason == "Unauthorized"
    assert standing(engine, "5", fingerprint="b").is_alive
    assert standing(engine, "5", account="second", fingerprint="a").is_alive
    assert note(engine, refused("b")) == ["credential_dead"]
    assert standing(engine, "5", fingerprint="b").refused is not None


def test_what_says_nothing_about_the_chat_or_the_bot_is_not_noted(engine: Engine) -> None:
    quiet = [ErrorKind.TRANSIENT, ErrorKind.AMBIGUOUS, ErrorKind.INVALID, ErrorKind.RATE_LIMITED]
    missing = Tried("d1", "telegram", "", "5", "", Failure(ErrorKind.AUTH, "is not set"), "")
    assert note(engine, missing, *(tried("5", Failure(kind, "no")) for kind in quiet)) == []
    assert standing(engine, "5") == Standing()


def _plans(engine: Engine, statements: Sequence[tuple[str, object]]) -> list[str]:
    explain = "EXPLAIN QUERY PLAN" if engine.dialect.name == "sqlite" else "EXPLAIN"
    plans = []
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.exec_driver_sql("ANALYZE dead_target")
        for statement, parameters in statements:
            rows = connection.exec_driver_sql(f"{explain} {statement}", parameters)
            plans.append("\n".join(str(row) for row in rows))
    return plans


def test_no_statement_reads_every_note(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO dead_target (platform, account, chat_id, thread_id, kind, reason, "
                "since_ms, probe_ms) VALUES ('telegram', '', :chat, '', 'target_gone', '', 0, 0)"
            ),
            [{"chat": str(1_000_000 + n)} for n in range(20_000)],
        )
    seen: list[tuple[str, object]] = []

    def see(_c: object, _u: object, statement: str, parameters: object, *_: object) -> None:
        seen.append((statement, parameters))

    event.listen(engine, "before_cursor_execute", see)
    key = Dead("telegram", "", "5")
    note(engine, tried("5"))
    note(engine, tried("5"), moved("6", "7"))
    with engine.begin() as connection:
        dead.look_up(connection, [Place("telegram", "", str(n), "", "a") for n in range(256)])
        dead.take_probes(connection, [key])
        dead.delay_probes(connection, {key: 5})
        dead.forget(connection, [key])
        dead.revive(connection, "telegram", None, "5")
        dead.revive(connection, "telegram", "second", "5")
    event.remove(engine, "before_cursor_execute", see)
    # Whether there is any note at all ends at the first one.
    asked = [(s, p) for s, p in seen if "dead_target" in s and "SELECT EXISTS" not in s]
    assert len(asked) >= 10
    for (statement, _), plan in zip(asked, _plans(engine, asked), strict=True):
        for line in plan.splitlines():
            reads_all = "Seq Scan on dead_target" in line or (
                "SCAN dead_target" in line or "SCAN m" in line or "SCAN d" in line
            )
            assert not reads_all, f"{statement}\n{plan}"
