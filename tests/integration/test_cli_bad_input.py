"""What cannot be is refused at the door: exit 1, one line that says what would be right."""

from pathlib import Path

import pytest

from tests.command_line import CommandLine

_ADD = ("schedule", "add", "s", "--to", "console:me", "--text", "x")


@pytest.fixture
def mirrorpost(tmp_path: Path) -> CommandLine:
    return CommandLine(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "wrong", "right"),
    [
        (("send", "pigeon:1", "x"), "unknown platform 'pigeon'", "telegram"),
        (("send", "telegram", "x"), "'telegram' is not a target", "platform:chat"),
        (("send", "telegram:", "x"), "names no chat", "platform:chat"),
        (("send", "telegram:alice smith", "x"), "is not a telegram target", "number"),
        (("send", "console:me", "  "), "text is empty", "visible character"),
        (("send", "console:me", "x", "--at", "soonish"), "'soonish' is not a time", "10m"),
        (("send", "console:me", "x", "--at", "2001-01-01T09:00"), "which is past", "later time"),
        (("send", "console:me", "x", "--expires", "2001-01-01"), "which is past", "later time"),
        (
            ("send", "console:me", "x", "--at", "2h", "--expires", "1h"),
            "expires",
            "after the time at which it is due",
        ),
        (("send", "console:me", "x", "--metadata", "{a"), "metadata is not JSON", '{"ticket"'),
        (("send", "console:me", "x", "--metadata", "[1]"), "not a JSON object", '{"ticket"'),
        (("send", "console:me", "x", "--lane", "fast"), "lane 'fast'", "reminder"),
        ((*_ADD, "--cron", "61 * * * *"), "'61 * * * *' is not a cron", "0 9 * * 1-5"),
        ((*_ADD, "--cron", "0 9 * * *", "--tz", "Berlin"), "not a time zone", "Europe/Berlin"),
        ((*_ADD, "--every", "0s"), "'0s' is no time at all", "5m"),
        ((*_ADD, "--every", "often"), "'often' is not a duration", "5m"),
        ((*_ADD, "--at", "2001-01-01T09:00"), "which is past", "later time"),
        ((*_ADD, "--every", "5m", "--misfire", "some"), "misfire 'some'", "latest"),
        ((*_ADD,), "exactly one of", "cron, every and at"),
        (
            ("schedule", "add", "s", "--to", "pigeon:1", "--text", "x", "--every", "5m"),
            "unknown platform 'pigeon'",
            "telegram",
        ),
        (("identity", "link", "pigeon", "1", "alice"), "unknown platform 'pigeon'", "telegram"),
        (("identity", "link", "telegram", " ", "alice"), "is empty", "give the id"),
    ],
)
def test_bad_input_is_refused_and_nothing_is_stored(
    mirrorpost: CommandLine, arguments: tuple[str, ...], wrong: str, right: str
) -> None:
    line = mirrorpost(*arguments).refusal()
    assert wrong in line
    assert right in line
    for table in ("delivery", "schedule", "identity_link"):
        assert mirrorpost.rows(table) == 0


def test_a_key_with_another_body_is_refused_and_with_the_same_body_is_the_same_delivery(
    mirrorpost: CommandLine,
) -> None:
    first = mirrorpost("send", "console:me", "one", "--key", "k", "--json").json()
    line = mirrorpost("send", "console:me", "two", "--key", "k").refusal()
    assert "'k' was used before" in line
    assert "a key of its own" in line
    again = mirrorpost("send", "console:me", "one", "--key", "k", "--json").json()
    assert (first["created"], again["created"]) == (True, False)
    assert again["id"] == first["id"]
    assert mirrorpost.rows("delivery") == 1


def test_an_id_that_nobody_has_and_a_status_that_is_none_are_refused(
    mirrorpost: CommandLine,
) -> None:
    for command in ("show", "explain"):
        assert "no delivery has the id 'ff'" in mirrorpost("deliveries", command, "ff").refusal()
    assert "held" in mirrorpost("deliveries", "list", "--status", "lost").refusal()
    assert "no schedule 's'" in mirrorpost("schedule", "preview", "s").refusal()


def test_wrong_usage_exits_2(mirrorpost: CommandLine) -> None:
    assert mirrorpost("send", "console:me").code == 2
    assert mirrorpost("deliveries", "list", "--limit", "0").code == 2


def test_a_database_that_cannot_be_reached_is_one_line_without_its_password(
    tmp_path: Path,
) -> None:
    url = "postgresql://bot:s3cret@127.0.0.1:1/none"
    line = CommandLine(tmp_path, {"DATABASE_URL": url})("send", "console:me", "x").refusal()
    assert "cannot be reached" in line
    assert "s3cret" not in line


def test_a_database_that_somebody_configured_is_not_migrated_on_the_way(tmp_path: Path) -> None:
    mirrorpost = CommandLine(tmp_path, {"DATABASE_URL": f"sqlite:///{tmp_path / 'own.db'}"})
    assert "run mirrorpost migrate" in mirrorpost("send", "console:me", "x").refusal()
    assert mirrorpost("migrate", "--json").json()["changed"] is True
    assert mirrorpost("migrate", "--json").json()["changed"] is False
    mirrorpost("send", "console:me", "x", code=0)


def test_a_home_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    mirrorpost = CommandLine(tmp_path, {"MIRRORPOST_HOME": str(tmp_path / "file" / "home")})
    assert "MIRRORPOST_HOME" in mirrorpost("send", "console:me", "x").refusal()


def test_a_setting_that_cannot_be_is_one_line(tmp_path: Path) -> None:
    mirrorpost = CommandLine(tmp_path, {"DATABASE_URL": "mysql://nobody/none"})
    assert "DATABASE_URL must read" in mirrorpost("deliveries", "list").refusal()
    mirrorpost = CommandLine(tmp_path, {"MIRRORPOST_RESOLVER": "nothing"})
    assert "no resolver 'nothing'" in mirrorpost("identity", "list").refusal()
