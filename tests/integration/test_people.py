"""What is known of people: kept, shown, imported and forgotten, on both databases."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from resolvers import SqlIdentityResolver
from scheduler import people
from scheduler.forget import forget, person
from scheduler.people_file import read_people
from tests.command_line import CommandLine
from worker.database import engine as open_engine
from worker.database import migrate, reading
from worker.errors import Refused
from worker.people.views import list_people


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    made = open_engine(database_url)
    migrate(made)
    yield made
    made.dispose()


@pytest.fixture
def resolver(engine: Engine) -> SqlIdentityResolver:
    return SqlIdentityResolver(engine, cache_ttl_s=0)


def names(engine: Engine, tag: str | None = None) -> list[str]:
    with reading(engine) as connection:
        return [each.unified_user for each in list_people(connection, tag=tag, limit=9)]


def test_attributes_are_added_to_what_is_known(
    engine: Engine, resolver: SqlIdentityResolver
) -> None:
    people.save(engine, resolver, "alice", attributes={"name": "Alice"}, zone="Europe/Paris")
    seen = people.save(engine, resolver, "alice", attributes={"plan": "pro"}, zone=None)
    assert seen.attributes == {"name": "Alice", "plan": "pro"}
    assert seen.timezone == "Europe/Paris"
    with pytest.raises(Refused, match="Europe/Berlin"):
        people.save(engine, resolver, "alice", attributes={}, zone="Berlin")
    with pytest.raises(Refused, match="letters, digits"):
        people.save(engine, resolver, "alice", attributes={"first name": "A"}, zone=None)


def test_an_account_stands_for_the_person_that_it_is_linked_to(
    engine: Engine, resolver: SqlIdentityResolver
) -> None:
    assert people.opt_out(engine, resolver, "telegram:5", "news") == "telegram:5"
    resolver.link("telegram", "5", "alice")
    assert people.opt_out(engine, resolver, "telegram:5", "") == "alice"
    assert people.tag(engine, resolver, "telegram:5", "beta") == "alice"
    assert list(people.show(engine, resolver, "alice").opted_out) == ["", "news"]
    assert people.opt_in(engine, resolver, "alice", "news")
    assert not people.opt_in(engine, resolver, "alice", "news")
    left = people.opt_outs(engine, resolver, "alice", limit=9)
    assert [(each.unified_user, each.topic) for each in left] == [("alice", "")]


def test_people_are_listed_by_tag(engine: Engine, resolver: SqlIdentityResolver) -> None:
    for user, tag in (("bob", "beta"), ("alice", "beta"), ("carol", "pro")):
        people.tag(engine, resolver, user, tag)
    assert names(engine) == ["alice", "bob", "carol"]
    assert names(engine, "beta") == ["alice", "bob"]
    assert people.untag(engine, resolver, "bob", "beta")
    assert not people.untag(engine, resolver, "bob", "beta")
    assert names(engine, "beta") == ["alice"]


def test_whoever_is_forgotten_leaves_nothing_behind(
    engine: Engine, resolver: SqlIdentityResolver
) -> None:
    people.opt_out(engine, resolver, "telegram:5", "news")
    resolver.link("telegram", "5", "alice")
    people.save(engine, resolver, "alice", attributes={"name": "Alice"}, zone=None)
    people.tag(engine, resolver, "alice", "beta")
    people.tag(engine, resolver, "bob", "beta")
    counts = forget(engine, resolver, person(resolver, "alice"), dry_run=True)
    assert (counts.attributes, counts.tags, counts.opt_outs) == (1, 1, 1)
    assert forget(engine, resolver, person(resolver, "alice")) == counts
    assert names(engine) == ["bob"]
    assert people.opt_outs(engine, resolver, None, limit=9) == []


@pytest.mark.parametrize("ending", [".csv", ".jsonl"])
def test_a_file_of_people_is_stored_line_by_line(
    engine: Engine, resolver: SqlIdentityResolver, tmp_path: Path, ending: str
) -> None:
    file = tmp_path / f"people{ending}"
    resolver.link("telegram", "5", "alice")
    if ending == ".csv":
        file.write_bytes(
            b"\xef\xbb\xbfuser,name,timezone,tags\r\ntelegram:5,Alice,Asia/Tokyo,beta;pro\r\n"
            b"bob,Bob,,\r\n\r\n"
        )
    else:
        lines = [
            {"user": "telegram:5", "name": "Alice", "timezone": "Asia/Tokyo"},
            {"user": "telegram:5", "tags": ["beta", "pro"]},
            {"user": "bob", "name": "Bob"},
        ]
        file.write_text("\n".join(json.dumps(line) for line in lines))
    checked = people.check_lines(read_people(file))
    assert checked.bad == 0
    assert sum(people.save_lines(engine, resolver, read_people(file))) == checked.good
    alice = people.show(engine, resolver, "alice")
    assert (alice.attributes, alice.timezone) == ({"name": "Alice"}, "Asia/Tokyo")
    assert alice.tags == ["beta", "pro"]
    assert names(engine) == ["alice", "bob"]


@pytest.mark.parametrize("point", ["save_many", "tag_many"])
def test_an_import_that_is_killed_is_finished_by_another_one(tmp_path: Path, point: str) -> None:
    mirrorpost = CommandLine(tmp_path)
    file = mirrorpost.folder / "people.csv"
    file.write_text("user,tags\n" + "".join(f"u{n},beta\n" for n in range(1_200)))
    mirrorpost("people", "list", code=0)
    # In the second of its three batches.
    killed = mirrorpost.killed_in(
        f"worker.people.store.{point}", "people", "import", str(file), after=1
    )
    assert killed == -signal.SIGKILL
    assert mirrorpost.rows("person") == mirrorpost.rows("person_tag") == 500
    mirrorpost("people", "import", str(file), code=0)
    assert mirrorpost.rows("person") == mirrorpost.rows("person_tag") == 1_200


def test_broken_lines_are_named_with_what_is_wrong(tmp_path: Path) -> None:
    file = tmp_path / "people.jsonl"
    file.write_bytes(
        b'{"user": "alice"}\nnonsense\n[1]\n{"name": "x"}\n{"user": "a", "timezone": "Mars"}\n'
        b'{"user": "a", "tags": 7}\n\xff\xff\n{"user": "a", "x": "\\u0000"}\n{"user": "bob"}\n'
    )
    checked = people.check_lines(read_people(file))
    assert (checked.good, checked.bad) == (2, 7)
    assert [line.number for line in checked.first] == [2, 3, 4, 5, 6, 7, 8]
    wrong = " ".join(line.wrong or "" for line in checked.first)
    for what in ("not JSON", "no object", "names no user", "Mars", "tags", "UTF-8", "NUL"):
        assert what in wrong


@pytest.mark.parametrize(
    ("name", "content", "right"),
    [
        ("people.txt", "user\nalice\n", "a .csv with a head or a .jsonl"),
        ("people.csv", "name,plan\nAlice,pro\n", "one of them user"),
        ("people.csv", "user,user\na,b\n", "each column once"),
        ("people.jsonl", '{"user": "a"}\n' + " " * 1_000_001, "line 2 is longer than"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused(
    tmp_path: Path, name: str, content: str, right: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(Refused, match=right):
        list(read_people(tmp_path / name))


def test_the_command_line_keeps_people_and_their_opt_outs(tmp_path: Path) -> None:
    mirrorpost = CommandLine(tmp_path)
    shown = mirrorpost("people", "set", "alice", "plan=pro", "--timezone", "Asia/Tokyo", "--json")
    assert shown.json()["attributes"] == {"plan": "pro"}
    file = mirrorpost.folder / "people.csv"
    file.write_text("user,name\nbob,Bob\nbroken\n")
    refused = mirrorpost("people", "import", str(file), code=1)
    assert "line 3: it has 1 cells, the head has 2" in refused.err
    assert "--skip-bad" in refused.err
    done = mirrorpost("people", "import", str(file), "--skip-bad", "--json", code=0)
    assert done.json() == {"stored": 1, "bad": 1}
    mirrorpost("optout", "add", "alice", "--topic", "news", code=0)
    (listed,) = mirrorpost("optout", "list", "--json", code=0).json()
    assert (listed["user"], listed["topic"]) == ("alice", "news")
    assert [each["user"] for each in mirrorpost("people", "list", "--json").json()] == [
        "alice",
        "bob",
    ]
    assert "has not opted out of everything" in mirrorpost("optout", "remove", "alice", code=1).err
