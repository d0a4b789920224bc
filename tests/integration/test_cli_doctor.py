"""The doctor: what it names, what it calls a problem, and what it never shows."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.command_line import CommandLine

_TOKEN = "4711:AAdoctor-must-not-show-this"


@pytest.fixture
def mirrorpost(tmp_path: Path) -> CommandLine:
    return CommandLine(tmp_path, {"TELEGRAM_BOT_TOKEN": _TOKEN, "SLACK_BOT_TOKEN_OPS": _TOKEN})


def test_doctor_names_addresses_platforms_and_the_variables_that_are_missing(
    mirrorpost: CommandLine,
) -> None:
    fresh = mirrorpost("doctor", "--json")
    found = fresh.json()
    assert found["database"] == f"sqlite:///{mirrorpost.database}"
    assert found["redis"] == f"unix://{mirrorpost.home}/redis.sock"
    assert found["broker"] == f"redis+socket://{mirrorpost.home}/redis.sock"
    assert not mirrorpost.database.exists()
    platforms = found["platforms"]
    assert platforms["telegram"]["state"] == "ready"
    assert platforms["slack@ops"]["state"] == "ready"
    assert platforms["discord"]["state"] == "missing"
    assert platforms["discord"]["missing"] == ["DISCORD_BOT_TOKEN"]
    assert any("mirrorpost up" in note for note in found["notes"])
    told = mirrorpost("doctor", code=0)
    assert "set DISCORD_BOT_TOKEN" in told.out
    for text in (fresh.out, fresh.err, told.out, told.err):
        assert _TOKEN not in text


def test_doctor_counts_what_is_stuck(mirrorpost: CommandLine) -> None:
    mirrorpost("send", "telegram:1", "x", code=0)
    found = mirrorpost("doctor", "--json").json()
    assert found["checks"]["database"].startswith("ok, revision ")
    assert set(found["counts"].values()) == {0}
    assert {"held", "failed", "unknown", "fenced", "waiting_in_order"} <= set(found["counts"])
    assert found["unknown_answers"] == []


def test_doctor_shows_answers_that_no_table_knows_so_that_it_can_grow(
    mirrorpost: CommandLine,
) -> None:
    id_ = mirrorpost("send", "telegram:1", "x", code=0).out.strip()
    with closing(sqlite3.connect(mirrorpost.database)) as connection, connection:
        connection.execute("UPDATE delivery SET state = 'retrying'")
        connection.executemany(
            "INSERT INTO attempt (delivery_id, attempt, owner, started_ms, took_ms, outcome, code, "
            "http_status, text, fenced) VALUES (?, ?, 'w', 1, 1, ?, ?, ?, ?, ?)",
            [
                (id_, 1, "unknown_error", "418", 400, "Bad Request: teapot", 0),
                (id_, 2, "unknown_error", "418", 400, "Bad Request: teapot", 0),
                (id_, 3, "sent", None, None, None, 1),
            ],
        )
    found = mirrorpost("doctor", "--json").json()
    assert (found["counts"]["unknown_error"], found["counts"]["fenced"]) == (2, 1)
    assert found["unknown_answers"] == [
        {
            "platform": "telegram",
            "code": "418",
            "http_status": 400,
            "example": "Bad Request: teapot",
            "count": 2,
        }
    ]
    assert "telegram: HTTP 400, 418, Bad Request: teapot, 2 times" in mirrorpost("doctor").out


def test_doctor_exits_1_when_what_was_configured_cannot_be_reached(tmp_path: Path) -> None:
    mirrorpost = CommandLine(
        tmp_path,
        {
            "DATABASE_URL": "postgresql://bot:s3cret@127.0.0.1:1/none",
            "REDIS_URL": "redis://:s3cret@127.0.0.1:1/0",
            "CELERY_BROKER_URL": "amqp://bot:s3cret@127.0.0.1:1//",
        },
    )
    told = mirrorpost("doctor", "--json", code=1)
    for name in ("database", "redis", "broker"):
        assert f'"{name}": "' in told.out
    assert told.out.count("cannot be reached") == 3
    assert "s3cret" not in told.out + told.err
