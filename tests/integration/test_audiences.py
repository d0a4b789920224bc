"""Audiences as a person makes them: from files that may be broken, and as saved queries."""

import json
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.command_line import CommandLine


@pytest.fixture
def mirrorpost(tmp_path: Path) -> CommandLine:
    return CommandLine(tmp_path)


def write(mirrorpost: CommandLine, name: str, content: str | bytes) -> str:
    data = content.encode() if isinstance(content, str) else content
    (mirrorpost.folder / name).write_bytes(data)
    return name


def create(mirrorpost: CommandLine, file: str, *more: str) -> dict[str, object]:
    answer = mirrorpost("audience", "create", "customers", "--file", file, *more, "--json")
    found: dict[str, object] = answer.json()
    return found


def test_a_csv_with_a_byte_order_mark_becomes_a_list_with_attributes(
    mirrorpost: CommandLine,
) -> None:
    rows = '\ufefftarget,name,city\r\ntelegram:5,Ålice,\r\n\r\ndiscord:77,"Bob, the 2nd",Ulm\r\n'
    assert create(mirrorpost, write(mirrorpost, "a.csv", rows))["members"] == 2
    shown = mirrorpost("audience", "show", "customers", "--json").json()
    assert shown["first"] == [
        {"target": "telegram:5", "attributes": {"name": "Ålice"}},
        {"target": "discord:77", "attributes": {"name": "Bob, the 2nd", "city": "Ulm"}},
    ]
    listed = mirrorpost("audience", "list", "--json").json()
    assert [(a["name"], a["kind"], a["members"]) for a in listed] == [("customers", "list", 2)]


def test_json_lines_name_targets_or_people(mirrorpost: CommandLine) -> None:
    lines = '{"user": "alice", "age": 7}\n\n{"target": "telegram:-100:77"}\n'
    create(mirrorpost, write(mirrorpost, "a.jsonl", lines))
    first = mirrorpost("audience", "show", "customers", "--json").json()["first"]
    assert [each["target"] for each in first] == ["user:alice", "telegram:-100#77"]
    assert first[0]["attributes"] == {"age": 7}


BROKEN = (
    b"target,name\n"
    b"telegram:5,Alice\n"
    b"telegramm:6,Bob\n"
    b"telegram:abc,Carl\n"
    b",Dora\n"
    b"telegram:7,Eve,too,many\n"
    b"telegram:8,\xff\n"
)


def test_broken_lines_are_counted_and_named_and_nothing_is_stored(mirrorpost: CommandLine) -> None:
    answer = mirrorpost("audience", "create", "c", "--file", write(mirrorpost, "a.csv", BROKEN))
    assert answer.code == 1
    last = answer.err.splitlines()[-1]
    assert "5 of 6 lines of a.csv cannot be used" in last
    assert "line 3" in last
    assert "--skip-bad" in last
    for line, why in (
        (3, "unknown platform"),
        (4, "is not a telegram target"),
        (5, "neither target nor user"),
        (6, "4 columns"),
        (7, "UTF-8"),
    ):
        assert any(f"line {line}: " in said and why in said for said in answer.err.splitlines())
    assert mirrorpost.rows("audience") == mirrorpost.rows("audience_member") == 0


def test_the_rest_of_a_broken_file_is_taken_with_skip_bad(mirrorpost: CommandLine) -> None:
    made = create(mirrorpost, write(mirrorpost, "a.csv", BROKEN), "--skip-bad")
    assert (made["members"], made["unusable"]) == (1, 5)
    assert mirrorpost.rows("audience_member") == 1


def test_lines_behind_a_quote_that_nobody_closed_are_counted_too(mirrorpost: CommandLine) -> None:
    rows = 'target,name\ntelegram:1,Al\ntelegram:2,"Bob\ntelegram:3,Cy\ntelegram:4,Di\n'
    file = write(mirrorpost, "a.csv", rows)
    answer = mirrorpost("audience", "create", "c", "--file", file)
    assert "3 of 4 lines of a.csv" in answer.refusal()
    assert "line 3: is no CSV" in answer.err
    assert "line 4: is behind a quote that line 3 opens" in answer.err
    made = create(mirrorpost, file, "--skip-bad")
    assert (made["members"], made["unusable"]) == (1, 3)


@pytest.mark.parametrize("code", ["import sys\nsys.exit(0)\n", "def some():\n    exit(0)\n"])
def test_a_generator_that_ends_the_process_is_refused(mirrorpost: CommandLine, code: str) -> None:
    (mirrorpost.folder / "quits.py").write_text(code)
    made = mirrorpost("audience", "create", "c", "--generator", "quits:some")
    if made.code == 0:
        mirrorpost("broadcast", "create", "b", "--audience", "c", "--text", "hi", code=0)
        made = mirrorpost("broadcast", "preflight", "b")
    assert "SystemExit" in made.refusal()


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("a.csv", "", "is empty"),
        ("a.csv", "target,name\n", "is empty"),
        ("a.csv", "\ufeff\n\n", "is empty"),
        ("a.jsonl", "", "is empty"),
        ("a.csv", "telegram:5\ntelegram:6\n", "no column target or user"),
        ("a.csv", "target,target\ntelegram:5,x\n", "one twice"),
        ("a.csv", 'target\n"telegram:5\n', "is no CSV"),
        ("a.jsonl", "[1]\n", "is not an object"),
        ("a.jsonl", '{"target": 5}\n', "must be a string"),
        ("a.jsonl", '{"target": "telegram:5"\n', "is not JSON"),
        ("a.jsonl", '{"target": "telegram:5", "x": "\\u0000"}\n', "NUL"),
        ("a.txt", "telegram:5\n", "name it .csv or .jsonl"),
        ("a.jsonl", '{"target": "telegram:5"}' + " " * 1_000_000 + "\n", "line 1 is longer than"),
        ("a.csv", "target\ntelegram:5\n" + "x" * 1_000_001, "line 3 is longer than"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(
    mirrorpost: CommandLine, name: str, content: str, why: str
) -> None:
    file = write(mirrorpost, name, content)
    # Nothing is left to take, so skipping does not help.
    answer = mirrorpost("audience", "create", "c", "--file", file, "--skip-bad")
    assert why in answer.refusal()
    assert mirrorpost.rows("audience") == mirrorpost.rows("audience_member") == 0


@pytest.mark.parametrize(("point", "stored"), [("_insert", 0), ("get", 3)])
def test_a_file_whose_reader_is_killed_is_kept_whole_or_not_at_all(
    mirrorpost: CommandLine, point: str, stored: int
) -> None:
    file = write(mirrorpost, "a.csv", "target\ntelegram:5\ntelegram:6\ntelegram:7\n")
    mirrorpost("audience", "list", code=0)
    killed = mirrorpost.killed_in(
        f"scheduler.broadcasts.audiences.{point}", "audience", "create", "customers", "--file", file
    )
    assert killed == -signal.SIGKILL
    assert mirrorpost.rows("audience_member") == stored
    again = mirrorpost("audience", "create", "customers", "--file", file)
    assert ("already" in again.err) == bool(stored)
    assert mirrorpost.rows("audience_member") == 3


def test_a_missing_file_is_refused(mirrorpost: CommandLine) -> None:
    answer = mirrorpost("audience", "create", "c", "--file", "nowhere.csv")
    assert "nowhere.csv cannot be read" in answer.refusal()


def test_queries_are_saved_and_a_name_is_taken_once(mirrorpost: CommandLine) -> None:
    (mirrorpost.folder / "ours.py").write_text("def some():\n    yield 'telegram:5'\n")
    for name, *options in (
        ("all", "--everybody"),
        ("vips", "--tag", "vip"),
        ("tg", "--platform", "telegram"),
        ("made", "--generator", "ours:some"),
    ):
        mirrorpost("audience", "create", name, *options, code=0)
    found = mirrorpost("audience", "list", "--json").json()
    assert {(a["name"], a["kind"], a["value"]) for a in found} == {
        ("all", "everybody", ""),
        ("vips", "tag", "vip"),
        ("tg", "platform", "telegram"),
        ("made", "generator", "ours:some"),
    }
    again = mirrorpost("audience", "create", "all", "--tag", "x").refusal()
    assert "there is an audience 'all' already" in again


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--platform", "fax"), "unknown platform"),
        (("--platform", "webhook"), "no way to write to a person"),
        (("--generator", "nowhere:f"), "cannot be imported"),
        (("--generator", "os.path"), "package.module:function"),
        (("--generator", "os:name"), "is no function"),
    ],
)
def test_a_query_that_could_not_be_asked_is_refused(
    mirrorpost: CommandLine, options: tuple[str, ...], why: str
) -> None:
    assert why in mirrorpost("audience", "create", "c", *options).refusal()


def test_everybody_needs_the_links_in_the_database(mirrorpost: CommandLine) -> None:
    mirrorpost.variables["MIRRORPOST_RESOLVER"] = "file"
    refusal = mirrorpost("audience", "create", "c", "--everybody").refusal()
    assert "FileIdentityResolver" in refusal
    assert "--file" in refusal


def test_one_of_the_kinds_must_be_named(mirrorpost: CommandLine) -> None:
    mirrorpost("audience", "create", "c", code=2)
    mirrorpost("audience", "create", "c", "--everybody", "--tag", "x", code=2)


def test_a_list_is_removed_with_its_members(mirrorpost: CommandLine) -> None:
    create(mirrorpost, write(mirrorpost, "a.csv", "target\ntelegram:5\n"))
    mirrorpost("audience", "remove", "customers", code=0)
    assert mirrorpost.rows("audience") == mirrorpost.rows("audience_member") == 0
    assert "no audience" in mirrorpost("audience", "remove", "customers").refusal()
    assert "no audience" in mirrorpost("audience", "show", "customers").refusal()


def test_a_large_file_is_read_without_being_held(mirrorpost: CommandLine) -> None:
    with (mirrorpost.folder / "big.jsonl").open("w") as file:
        for n in range(1, 50_001):
            file.write(json.dumps({"target": f"telegram:{n}", "name": f"N{n}"}) + "\n")
    assert create(mirrorpost, "big.jsonl")["members"] == 50_000
    with closing(sqlite3.connect(mirrorpost.database)) as connection:
        last = connection.execute(
            "SELECT target, attributes FROM audience_member ORDER BY n DESC LIMIT 1"
        ).fetchone()
    assert last == ("telegram:50000", '{"name":"N50000"}')
