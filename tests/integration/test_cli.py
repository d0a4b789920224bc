"""What commands print: JSON alone on standard output, everything else on standard error."""

import signal
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import Engine

from tests.command_line import CommandLine
from tests.waiting import wait_until
from worker import outbox
from worker.database import engine as engine_of
from worker.outbox import Claimed
from worker.platforms.base import Dedup
from worker.sessions import SessionManager
from worker.sessions.append import Mirror, insert_mirrors
from worker.taxonomy import ErrorKind, Failure, Outcome, Receipt
from worker.verdict import Place, judge


@pytest.fixture
def mirrorpost(tmp_path: Path) -> CommandLine:
    return CommandLine(tmp_path)


@pytest.fixture
def engine(mirrorpost: CommandLine) -> Iterator[Engine]:
    mirrorpost("identity", "list", code=0)
    made = engine_of(f"sqlite:///{mirrorpost.database}")
    yield made
    made.dispose()


def claim(engine: Engine) -> list[Claimed]:
    with engine.begin() as connection:
        return outbox.claim(connection, owner="test", lease_ms=30_000, limit=1).claimed


def settle(engine: Engine, claimed: Claimed, outcome: Outcome) -> None:
    settlement = judge(
        claimed,
        outcome,
        Place(claimed.platform, "", claimed.chat_id, None, "alice"),
        dedup=Dedup.NONE,
        credential_print="",
        started_ms=claimed.created_ms,
        took_ms=12,
    )
    with engine.begin() as connection:
        assert outbox.settle(connection, [replace(settlement, mirror=None)], owner="test") == {
            claimed.id
        }


def test_send_prints_the_id_last_and_says_beside_it_that_no_broker_is_there(
    mirrorpost: CommandLine,
) -> None:
    sent = mirrorpost("send", "console:me", "hello", code=0)
    id_ = sent.out.splitlines()[-1]
    assert "mirrorpost up" in sent.err
    (listed,) = mirrorpost("deliveries", "list", "--json").json()
    assert (listed["id"], listed["status"], listed["target"]) == (id_, "queued", "console:me")
    shown = mirrorpost("deliveries", "show", id_[:30], "--json").json()
    assert (shown["id"], shown["text"], shown["attempts"]) == (id_, "hello", [])
    explained = mirrorpost("deliveries", "explain", id_, "--json").json()
    assert any("broker" in line for line in explained["explanation"])


def test_send_keeps_every_field_that_it_is_given(mirrorpost: CommandLine) -> None:
    sent = mirrorpost(
        "send", "telegram:-1001", "hello", "--key", "k", "--source", "build", "--lane", "cron",
        "--at", "2035-01-31T09:00", "--expires", "2035-01-31T11:00+01:00", "--thread", "7",
        "--reply-to", "9", "--silent", "--metadata", '{"ticket": 812}', "--topic", "news", "--json",
    ).json()  # fmt: skip
    assert sent["status"] == "scheduled"
    assert sent["target"] == "telegram:-1001#7"
    assert (sent["key"], sent["source"], sent["lane"]) == ("k", "build", "cron")
    assert sent["topic"] == "news"
    assert sent["due_at"] == "2035-01-31T09:00:00.000+00:00"
    assert sent["expires_at"] == "2035-01-31T10:00:00.000+00:00"
    assert (sent["thread_id"], sent["reply_to"], sent["silent"]) == ("7", "9", True)
    assert sent["metadata"] == {"ticket": 812}


def test_send_that_waits_gives_the_receipt(mirrorpost: CommandLine, engine: Engine) -> None:
    with mirrorpost.begun("send", "console:me", "hello", "--wait", "--json") as waiting:
        (claimed,) = wait_until(lambda: claim(engine), 20, "the row")
        settle(engine, claimed, Receipt(("m1",)))
        out, err = waiting.communicate(timeout=20)
    assert waiting.returncode == 0, err
    assert '"receipt": [\n    "m1"\n  ]' in out
    assert '"status": "sent"' in out


def test_send_that_waits_says_why_it_is_held_and_exits_1(
    mirrorpost: CommandLine, engine: Engine
) -> None:
    with mirrorpost.begun("send", "console:me", "hello", "--wait", "--timeout", "3") as waiting:
        (claimed,) = wait_until(lambda: claim(engine), 20, "the row")
        settle(engine, claimed, Failure(ErrorKind.AUTH, "SOME_TOKEN is not set"))
        out, err = waiting.communicate(timeout=20)
    assert waiting.returncode == 1
    assert out.splitlines()[-1] == claimed.id
    assert "held: SOME_TOKEN is not set" in err.splitlines()
    assert err.splitlines()[-1].endswith("is not sent after 3 s, it is held: SOME_TOKEN is not set")


def test_send_that_waits_ends_at_once_with_a_failure(
    mirrorpost: CommandLine, engine: Engine
) -> None:
    with mirrorpost.begun("send", "console:me", "hello", "--wait", "--json") as waiting:
        (claimed,) = wait_until(lambda: claim(engine), 20, "the row")
        settle(engine, claimed, Failure(ErrorKind.TARGET_GONE, "chat not found"))
        out, err = waiting.communicate(timeout=20)
    assert waiting.returncode == 1
    assert '"status": "failed"' in out
    assert err.splitlines()[-1].endswith("ended failed: chat not found")


def test_ctrl_c_ends_a_wait_with_130_and_one_line(mirrorpost: CommandLine) -> None:
    with mirrorpost.begun("send", "console:me", "hello", "--wait") as waiting:
        assert waiting.stderr is not None
        assert "mirrorpost up" in waiting.stderr.readline()
        waiting.send_signal(signal.SIGINT)
        _, err = waiting.communicate(timeout=20)
    assert waiting.returncode == 130
    assert err == "mirrorpost: interrupted\n"


def test_send_that_waits_without_a_worker_says_what_to_start(mirrorpost: CommandLine) -> None:
    waited = mirrorpost("send", "console:me", "hello", "--wait", "--timeout", "0.1", code=1)
    assert mirrorpost("deliveries", "show", waited.out.strip(), "--json").json()
    assert "is queued: no worker took it" in waited.err.splitlines()[-1]


def test_deliveries_are_listed_newest_first_by_status_and_target(
    mirrorpost: CommandLine,
) -> None:
    ids = [mirrorpost("send", f"console:{name}", "x").out.strip() for name in ("a", "b")]
    mirrorpost("send", "console:a", "later", "--at", "1h", code=0)
    listed = mirrorpost("deliveries", "list", "--status", "queued", "--json").json()
    assert [each["id"] for each in listed] == ids[::-1]
    listed = mirrorpost("deliveries", "list", "--target", "console:a", "--json").json()
    assert [each["status"] for each in listed] == ["scheduled", "queued"]
    limited = mirrorpost("deliveries", "list", "--limit", "1", "--json")
    assert [each["text"] for each in limited.json()] == ["later"]
    assert "There are more" in limited.err


def test_both_databases_are_migrated_and_answer_alike(tmp_path: Path, database_url: str) -> None:
    mirrorpost = CommandLine(tmp_path, {"DATABASE_URL": database_url})
    assert mirrorpost("migrate", "--json").json()["changed"] is True
    id_ = mirrorpost("send", "console:me", "x", "--metadata", '{"a": 1}').out.strip()
    (listed,) = mirrorpost("deliveries", "list", "--json").json()
    assert (listed["id"], listed["metadata"], listed["silent"]) == (id_, {"a": 1}, False)
    assert id_ in mirrorpost("deliveries", "explain", id_[:31], code=0).out
    added = ("schedule", "add", "s", "--every", "1h", "--to", "console:me", "--text", "x")
    assert mirrorpost(*added, "--json").json()["state"] == "active"
    assert mirrorpost("doctor", "--json").json()["counts"]["held"] == 0


def test_a_prefix_that_two_deliveries_share_is_refused(mirrorpost: CommandLine) -> None:
    for name in ("a", "b"):
        id_ = mirrorpost("send", f"console:{name}", "x").out.strip()
    assert "several deliveries" in mirrorpost("deliveries", "show", id_[:4]).refusal()


def test_identity_links_are_made_listed_resolved_and_forgotten(mirrorpost: CommandLine) -> None:
    assert mirrorpost("identity", "list", "--json").json() == []
    mirrorpost("identity", "link", "telegram", "4711", "alice", code=0)
    mirrorpost("identity", "link", "slack", "U1", "alice", code=0)
    links = mirrorpost("identity", "list", "alice", "--json").json()
    assert [(each["platform"], each["platform_user_id"]) for each in links] == [
        ("slack", "U1"),
        ("telegram", "4711"),
    ]
    assert mirrorpost("identity", "resolve", "telegram", "4711").out == "alice\n"
    mirrorpost("identity", "unlink", "telegram", "4711", code=0)
    resolved = mirrorpost("identity", "resolve", "telegram", "4711", "--json").json()
    assert resolved["unified_user_id"] == "telegram:4711"


def test_history_is_one_conversation_over_platforms_the_oldest_first(
    mirrorpost: CommandLine, engine: Engine
) -> None:
    sessions = SessionManager(engine)
    key = sessions.record("telegram", "1", "user", "when?", at=datetime(2030, 1, 1, tzinfo=UTC))
    with engine.begin() as connection:
        row = Mirror(key, "now [bold]!", 1_900_000_000_000, "slack", "U1", "cron", None, ("9",))
        insert_mirrors(connection, [replace(row, metadata={"ticket": 812})])
    messages = mirrorpost("history", key, "--json").json()
    assert [each["content"] for each in messages] == ["when?", "now [bold]!"]
    assert [each["mirror"] for each in messages] == [False, True]
    assert (
        messages[1] | {"mirror_source": "cron", "platform": "slack", "ticket": 812} == messages[1]
    )
    (newest,) = mirrorpost("history", key, "--limit", "1", "--json").json()
    assert newest["content"] == "now [bold]!"
    assert "now [bold]!" in mirrorpost("history", key).out


def test_a_schedule_is_added_previewed_paused_resumed_run_and_removed(
    mirrorpost: CommandLine,
) -> None:
    mirrorpost(
        "schedule", "add", "stand-up", "--cron", "0 9 * * 1-5", "--tz", "Europe/Berlin",
        "--to", "console:me", "--text", "now", "--metadata", '{"a": 1}', code=0,
    )  # fmt: skip
    (listed,) = mirrorpost("schedule", "list", "--json").json()
    assert (listed["name"], listed["state"]) == ("stand-up", "active")
    preview = mirrorpost("schedule", "preview", "stand-up", "-n", "10", "--json").json()
    assert len(preview) == 10
    for each in preview:
        local = datetime.fromisoformat(each["local"])
        assert datetime.fromisoformat(each["utc"]) == local
        assert (local.hour, local.minute) == (9, 0)
        assert local.isoweekday() <= 5
    paused = mirrorpost("schedule", "pause", "stand-up", "--note", "holidays", "--json").json()
    assert (paused["state"], paused["note"]) == ("paused", "holidays")
    assert mirrorpost("schedule", "resume", "stand-up", "--json").json()["state"] == "active"
    ran = mirrorpost("schedule", "run", "stand-up", "--json").json()
    explained = mirrorpost("deliveries", "explain", ran["id"]).out
    assert "Somebody ran schedule:stand-up by hand" in explained
    shown = mirrorpost("schedule", "show", "stand-up", "--json").json()
    assert [fire["delivery_ids"] for fire in shown["fires"]] == [[ran["id"]]]
    mirrorpost("schedule", "remove", "stand-up", code=0)
    assert mirrorpost("schedule", "list", "--json").json() == []


def test_control_characters_of_other_people_do_not_reach_the_terminal(
    mirrorpost: CommandLine,
) -> None:
    mirrorpost("send", "console:me", "red \x1b[31malert\x07", code=0)
    assert "\x1b" not in mirrorpost("deliveries", "list").out
    assert mirrorpost("deliveries", "list", "--json").json()[0]["text"] == "red \x1b[31malert\x07"


@pytest.mark.parametrize("command", ["", "send", "schedule add", "deliveries explain", "doctor"])
def test_help_tells_every_command_with_an_example(mirrorpost: CommandLine, command: str) -> None:
    shown = mirrorpost(*command.split(), "--help", code=0).out
    if command:
        assert f"Example: mirrorpost {command}" in " ".join(shown.split())
    else:
        for name in ("up", "demo", "sandbox", "doctor", "migrate", "send", "schedule", "history"):
            assert f" {name} " in shown
