"""Preflight: each person once, at their best route, and everybody else with a reason."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from resolvers import InMemoryIdentityResolver
from scheduler.broadcasts import drafts
from scheduler.broadcasts.audiences import Kind
from scheduler.broadcasts.preflight import preflight
from scheduler.broadcasts.start import start
from scheduler.broadcasts.states import BroadcastState
from scheduler.broadcasts.template import NotFillable, compile_template, fill
from tests.broadcasts import (
    audience,
    check,
    crowd,
    dead,
    describe,
    draft,
    drawn,
    execute,
    link,
    listed,
    opt_out,
    rows,
    tag,
    wrote,
)
from tests.command_line import CommandLine
from worker import settings
from worker.database import engine as open_engine
from worker.database import migrate
from worker.errors import NotFound, Refused


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have tokens for Telegram and Discord, and none for Slack."""
    monkeypatch.setenv("TELEGRAM_BOT_TOKEN", "1:x")
    monkeypatch.setenv("DISCORD_BOT_TOKEN", "y")
    settings._environment.cache_clear()
    yield
    settings._environment.cache_clear()


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    made = open_engine(database_url)
    migrate(made)
    yield made
    made.dispose()


def test_a_person_with_several_accounts_is_one_recipient_where_they_last_wrote(
    engine: Engine,
) -> None:
    for person in ("oldest", "wrote"):
        link(engine, "telegram", f"1{len(person)}", person, created_ms=1)
        link(engine, "discord", f"2{len(person)}", person, created_ms=2)
        link(engine, "slack", f"U{len(person)}", person, created_ms=0)
    wrote(engine, "wrote", "telegram", 5)
    wrote(engine, "wrote", "discord", 6)
    audience(engine)
    draft(engine)
    found = check(engine)
    assert drawn(engine) == {"oldest": ("telegram:16", None), "wrote": ("user:wrote", None)}
    assert rows(engine, "SELECT platform, chat_id FROM recipient WHERE person = 'wrote'") == [
        ("discord", None)
    ]
    assert found.state is BroadcastState.CHECKED
    assert found.recipients == 2
    assert found.report is not None
    assert found.report["duplicates_merged"] == 4
    assert found.report["platforms"] == [
        {"platform": "discord", "account": "", "recipients": 1, "seconds": 1},
        {"platform": "telegram", "account": "", "recipients": 1, "seconds": 1},
    ]


def test_who_opted_out_of_the_topic_or_of_everything_is_left_out(engine: Engine) -> None:
    crowd(engine, 5)
    link(engine, "discord", "50", "p5", created_ms=9)
    opt_out(engine, "p1", "offers")
    opt_out(engine, "p2")
    opt_out(engine, "p3", "news")
    opt_out(engine, "telegram:4", "offers")
    # Said before the account was linked; reached elsewhere it is the same person.
    opt_out(engine, "discord:50", "offers")
    audience(engine)
    draft(engine, topic="offers")
    found = check(engine)
    assert {p for p, (_, why) in drawn(engine).items() if why is None} == {"p3"}
    assert found.report is not None
    assert found.report["left_out"] == {"opted_out": 4}


def test_a_dead_chat_is_left_out_unless_the_person_has_a_living_one(engine: Engine) -> None:
    crowd(engine, 4)
    link(engine, "discord", "20", "p2", created_ms=9)
    dead(engine, "telegram", "1")
    dead(engine, "telegram", "2")
    # Where it lives on is not dead; where it moved twice, it is.
    dead(engine, "telegram", "3", moved_to="33")
    dead(engine, "telegram", "4", moved_to="44")
    dead(engine, "telegram", "44")
    audience(engine)
    draft(engine)
    check(engine)
    assert drawn(engine) == {
        "p1": ("telegram:1", "dead"),
        "p2": ("user:p2", None),
        "p3": ("telegram:3", None),
        "p4": ("telegram:4", "dead"),
    }


def test_who_has_no_route_or_an_unknown_platform_is_left_out(engine: Engine) -> None:
    link(engine, "telegram", "1", "reached")
    link(engine, "fax", "1", "faxed")
    link(engine, "matrix", "!room:x", "matrix")
    audience(engine)
    draft(engine)
    check(engine)
    assert {p: why for p, (_, why) in drawn(engine).items()} == {
        "reached": None,
        "faxed": "unknown_platform",
        "matrix": "no_route",
    }


def test_a_platform_without_a_credential_comes_last_and_is_warned_of(engine: Engine) -> None:
    link(engine, "slack", "U1", "slack")
    link(engine, "slack", "U2", "both", created_ms=1)
    link(engine, "telegram", "2", "both", created_ms=2)
    audience(engine)
    draft(engine)
    found = check(engine)
    assert drawn(engine) == {"slack": ("slack:U1", None), "both": ("telegram:2", None)}
    assert found.report is not None
    assert "slack has no usable credential here: 1 messages" in found.report["warnings"][0]


def test_a_platform_audience_is_written_to_there(engine: Engine) -> None:
    link(engine, "telegram", "1", "alice", created_ms=1)
    link(engine, "discord", "2", "alice", created_ms=2)
    link(engine, "telegram", "3", "bob")
    audience(engine, Kind.PLATFORM, "discord")
    draft(engine, to="platform")
    check(engine)
    assert drawn(engine) == {"alice": ("user:discord:2", None)}


def test_a_tag_names_people_and_accounts(engine: Engine) -> None:
    link(engine, "telegram", "1", "alice")
    for who in ("alice", "telegram:1", "telegram:9", "nobody"):
        tag(engine, who, "vip")
    audience(engine, Kind.TAG, "vip")
    draft(engine, to="tag")
    check(engine)
    assert drawn(engine) == {
        "alice": ("telegram:1", None),
        "telegram:9": ("telegram:9", None),
        "nobody": ("user:nobody", "no_route"),
    }


def test_lines_of_one_person_are_merged_and_plain_chats_stay_what_they_are(
    engine: Engine, tmp_path: Path
) -> None:
    link(engine, "telegram", "1", "alice", created_ms=1)
    link(engine, "discord", "2", "alice", created_ms=2)
    listed(
        engine,
        tmp_path,
        "discord:2",
        "telegram:1",
        "user:alice",
        "user:telegram:1",
        "telegram:9",
        "telegram:9",
        "telegram:-100#7",
        "telegram@second:8",
        "telegram:8",
        "matrix:!room:x",
    )
    draft(engine, to="list")
    found = check(engine)
    assert drawn(engine) == {
        "alice": ("telegram:1", None),
        "telegram:9": ("telegram:9", None),
        "telegram:-100#7": ("telegram:-100#7", None),
        "telegram:8": ("telegram@second:8", None),
        "matrix:!room:x": ("matrix:!room:x", None),
    }
    assert found.report is not None
    assert found.report["duplicates_merged"] == 5
    parts = rows(
        engine, "SELECT platform, account, chat_id, thread_id FROM recipient WHERE n IS NOT NULL"
    )
    assert set(parts) == {
        ("telegram", "", "1", None),
        ("telegram", "", "9", None),
        ("telegram", "", "-100", "7"),
        ("telegram", "second", "8", None),
        ("matrix", "", "!room:x", None),
    }


def test_a_generator_is_read_when_the_broadcast_is_checked(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "made_here", raising=False)
    (tmp_path / "made_here.py").write_text(
        "found = ['telegram:1']\n"
        "def some():\n    yield from found\n    yield 'telegram:2', {'name': 'Bob'}\n"
    )
    audience(engine, Kind.GENERATOR, "made_here:some")
    draft(engine, to="generator", body="Hi {{ name|default('you') }}", templated=True)
    assert check(engine).recipients == 2
    made = sys.modules["made_here"]
    made.found.append("telegram:3")  # type: ignore[attr-defined]
    found = check(engine)
    assert found.recipients == 3
    assert found.report is not None
    assert sorted(each["text"] for each in found.report["sample"]) == ["Hi Bob", "Hi you", "Hi you"]
    made.found.append("fax:1")  # type: ignore[attr-defined]
    with pytest.raises(Refused, match=r"1 of 4 .* unknown platform 'fax'"):
        check(engine)
    made.found.append(1 / 2)  # type: ignore[attr-defined]
    with pytest.raises(Refused, match="2 of 5"):
        check(engine)
    made.found = None  # type: ignore[attr-defined]
    with pytest.raises(Refused, match="made_here:some failed: TypeError"):
        check(engine)


def test_the_order_is_by_chance_and_the_same_in_each_preflight(engine: Engine) -> None:
    crowd(engine, 300)
    audience(engine)
    orders = []
    for name in ("one", "two"):
        draft(engine, name)
        for _ in range(2):
            id_ = check(engine, name).id
            orders.append(
                [
                    (n, int(person[1:]))
                    for n, person in rows(
                        engine,
                        "SELECT n, person FROM recipient WHERE broadcast_id = :id ORDER BY n",
                        id=id_,
                    )
                ]
            )
    assert orders[0] == orders[1]
    assert orders[2] == orders[3]
    assert orders[0] != orders[2]
    assert [n for n, _ in orders[0]] == list(range(1, 301))
    # A tenth of them is of the young and of the old alike.
    assert 5 < sum(person <= 150 for _, person in orders[0][:30]) < 25


def test_a_missing_attribute_is_found_before_anything_is_sent(engine: Engine) -> None:
    crowd(engine, 3)
    describe(engine, "p1", name="Ann")
    describe(engine, "p2", name=None)
    audience(engine)
    draft(engine, body="Hello {{ name }}", templated=True)
    with pytest.raises(Refused, match=r"no text for 2 recipients .*p2: 'name' is undefined"):
        check(engine)
    assert drafts.get(engine, "spring").state is BroadcastState.DRAFT
    assert not drawn(engine)
    with pytest.raises(Refused, match="is not checked yet"):
        start(engine, "spring")
    found = check(engine, skip_missing=True)
    assert found.recipients == 1
    assert found.report is not None
    assert found.report["left_out"] == {"missing_attribute": 2}
    assert {lack["person"] for lack in found.report["missing_attributes"]} == {"p2", "p3"}
    assert found.report["sample"] == [{"person": "p1", "target": "telegram:1", "text": "Hello Ann"}]


def test_what_is_known_of_the_person_comes_before_what_the_line_says(
    engine: Engine, tmp_path: Path
) -> None:
    link(engine, "telegram", "1", "alice")
    describe(engine, "alice", name="Alice")
    listed(engine, tmp_path, {"target": "telegram:1", "name": "A.", "city": "Ulm"})
    draft(
        engine, to="list", body="{{ name }}, {{ city }}, {{ user }}, {{ platform }}", templated=True
    )
    found = check(engine)
    assert found.report is not None
    assert found.report["sample"][0]["text"] == "Alice, Ulm, alice, telegram"


def test_the_report_counts_unknown_time_zones_and_the_time_it_takes(engine: Engine) -> None:
    crowd(engine, 60)
    describe(engine, "p1", timezone="Europe/Berlin")
    audience(engine)
    draft(engine)
    report = check(engine).report
    assert report is not None
    assert (report["recipients"], report["without_time_zone"], report["seconds"]) == (60, 59, 3)
    assert len(report["sample"]) == 3


def test_many_new_direct_chats_on_discord_are_warned_of(engine: Engine) -> None:
    for n in range(52):
        link(engine, "discord", str(n + 1), f"d{n}")
    wrote(engine, "d0", "discord", 1)
    audience(engine)
    draft(engine)
    report = check(engine).report
    assert report is not None
    assert "51 Discord recipients have no direct chat" in report["warnings"][0]
    for n in range(1, 10):
        wrote(engine, f"d{n}", "discord", 1)
    report = check(engine).report
    assert report is not None
    assert report["warnings"] == []


def test_a_second_preflight_draws_anew(engine: Engine) -> None:
    crowd(engine, 3)
    audience(engine)
    draft(engine)
    assert check(engine).recipients == 3
    opt_out(engine, "p1")
    link(engine, "telegram", "9", "p9")
    assert check(engine).recipients == 3
    assert {p for p, (_, why) in drawn(engine).items() if why is None} == {"p2", "p3", "p9"}


def test_a_preflight_that_dies_leaves_the_broadcast_as_it_was(
    engine: Engine, tmp_path: Path
) -> None:
    crowd(engine, 3)
    audience(engine)
    draft(engine)
    (tmp_path / "tokens").mkdir()
    (tmp_path / "tokens" / "1").touch()
    env = {
        **os.environ,
        "DATABASE_URL": engine.url.render_as_string(hide_password=False),
        "MIRRORPOST_HOME": str(tmp_path),
        "MIRRORPOST_FAILPOINT": "in_preflight:kill:1",
        "MIRRORPOST_FAILPOINT_TOKENS": str(tmp_path / "tokens"),
    }
    command = "from scheduler.cli import main; main()"
    died = subprocess.run(
        [sys.executable, "-c", command, "broadcast", "preflight", "spring"],
        env=env,
        cwd=tmp_path,
        check=False,
    )
    assert died.returncode == -9
    assert drafts.get(engine, "spring").state is BroadcastState.DRAFT
    assert not drawn(engine)
    assert check(engine).recipients == 3


def test_only_what_was_not_started_can_be_checked(engine: Engine) -> None:
    crowd(engine, 1)
    audience(engine)
    draft(engine)
    check(engine)
    start(engine, "spring")
    with pytest.raises(Refused, match="spring is running already"):
        check(engine)
    execute(engine, "UPDATE broadcast SET state = 'cancelled'")
    with pytest.raises(Refused, match="spring is cancelled already"):
        check(engine)
    with pytest.raises(NotFound, match="no broadcast 'autumn'"):
        check(engine, "autumn")


def test_nobody_left_is_refused_with_the_reasons(engine: Engine) -> None:
    crowd(engine, 2)
    opt_out(engine, "p1")
    dead(engine, "telegram", "2")
    audience(engine)
    draft(engine)
    with pytest.raises(Refused, match="nobody of everybody is left to write to: 1 dead, 1 opted"):
        check(engine)


def test_people_of_another_resolver_are_refused_with_the_reason(engine: Engine) -> None:
    audience(engine)
    draft(engine)
    with pytest.raises(Refused, match="kept by InMemoryIdentityResolver"):
        preflight(engine, InMemoryIdentityResolver(), "spring")


def test_a_list_knows_its_people_from_another_resolver_too(engine: Engine, tmp_path: Path) -> None:
    resolver = InMemoryIdentityResolver()
    resolver.link("telegram", "1", "alice")
    resolver.link("slack", "U2", "alice")
    resolver.link("telegram", "3", "bob")
    opt_out(engine, "telegram:3")
    listed(engine, tmp_path, "slack:U2", "telegram:1", "user:alice", "user:bob", "telegram:9")
    draft(engine, to="list")
    found = preflight(engine, resolver, "spring")
    assert drawn(engine) == {
        "alice": ("telegram:1", None),
        "bob": ("telegram:3", "opted_out"),
        "telegram:9": ("telegram:9", None),
    }
    assert found.report is not None
    assert found.report["duplicates_merged"] == 2


def test_a_tag_knows_its_people_from_another_resolver_too(engine: Engine) -> None:
    resolver = InMemoryIdentityResolver()
    resolver.link("telegram", "1", "alice")
    for who in ("alice", "telegram:1"):
        tag(engine, who, "vip")
    audience(engine, Kind.TAG, "vip")
    draft(engine, to="tag")
    preflight(engine, resolver, "spring")
    assert drawn(engine) == {"alice": ("telegram:1", None)}


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"body": " "}, "text is empty"),
        ({"body": "Hi {{ name"}, None),
        ({"body": "Hi\n{{ name", "templated": True}, "wrong in line 2"),
        ({"body": "{% for x in y %}", "templated": True}, "wrong in line 1"),
        ({"body": "{{ x|nothing }}", "templated": True}, "wrong in line 1"),
        ({"to": "nobody"}, "no audience 'nobody'"),
        ({"canary_percent": 0.0}, "canary of 0%"),
        ({"canary_percent": 100.0}, "canary of 100%"),
        ({"canary_percent": float("nan")}, "canary of nan%"),
        ({"canary_then": "stop"}, "none of wait, go"),
        ({"topic": "a\nb"}, "the topic must have"),
        ({"name": ""}, "the broadcast's name must have"),
    ],
)
def test_a_draft_that_could_not_be_sent_is_refused(
    engine: Engine, fields: dict[str, object], why: str | None
) -> None:
    audience(engine)
    if why is None:
        draft(engine, **fields)  # type: ignore[arg-type]
        return
    with pytest.raises(Refused, match=why):
        draft(engine, **fields)  # type: ignore[arg-type]
    assert not drafts.list_(engine)


def test_a_name_is_taken_once(engine: Engine) -> None:
    audience(engine)
    draft(engine)
    with pytest.raises(Refused, match="there is a broadcast 'spring' already"):
        draft(engine)


@pytest.mark.parametrize(
    "body",
    [
        "{{ 'x' * 10**9 }}",
        "{{ 9 ** 9 ** 9 ** 9 }}",
        "{% for i in range(10**9) %}{% endfor %}",
        "{% for i in range(999) %}{% for j in range(999) %}{% endfor %}{% endfor %}",
        "{% set n = namespace(s='xx') %}{% for i in range(60) %}{% set n.s = n.s ~ n.s %}"
        "{% endfor %}",
        "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}"
        "{{ m(60) }}",
        "{{ '{:1000000000}'.format(1) }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ 'x'.ljust(10**9) }}",
    ],
)
def test_a_template_takes_neither_long_nor_much(body: str) -> None:
    begun = time.monotonic()
    with pytest.raises(NotFillable):
        fill(compile_template(body), {"name": "Al"})
    assert time.monotonic() - begun < 1


def test_what_a_template_is_for_fits_into_its_bounds() -> None:
    body = (
        "Hi {{ name ~ '!' }} {% for i in items %}{{ loop.index }}/{{ loop.length }} {{ i }}"
        "{{ ', ' if not loop.last }}{% endfor %} {{ items|join('-') }} {{ 3 * 4 + 7 % 4 }} "
        "{{ name|replace('A', 'E') }}"
    )
    values = {"name": "Al", "items": ["a", "b"]}
    assert fill(compile_template(body), values) == "Hi Al! 1/2 a, 2/2 b a-b 15 El"


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("{% for i in [1] %}" * 30 + "x" + "{% endfor %}" * 30, "nested"),
        ("{{ " + "(" * 3_000 + "1" + ")" * 3_000 + " }}", "recursion"),
        ("{{ f(a=1, a=2) }}", "repeated"),
        ("hi\n{% include 'other' %}", "line 2: there are no other templates"),
    ],
)
def test_a_template_that_python_does_not_take_is_refused(body: str, why: str) -> None:
    with pytest.raises(Refused, match=why):
        compile_template(body)


def test_a_template_cannot_reach_beyond_its_attributes(engine: Engine) -> None:
    crowd(engine, 1)
    audience(engine)
    draft(engine, body="{{ user.__class__.__mro__ }}", templated=True)
    with pytest.raises(Refused, match="unsafe"):
        check(engine)


def test_a_person_checks_and_starts_a_broadcast_on_the_command_line(tmp_path: Path) -> None:
    mirrorpost = CommandLine(tmp_path, {"TELEGRAM_BOT_TOKEN": "1:x"})
    mirrorpost("identity", "link", "telegram", "5", "alice", code=0)
    mirrorpost("audience", "create", "all", "--everybody", code=0)
    (tmp_path / "text.txt").write_text("Hello {{ user }}\n")
    create = ("broadcast", "create", "spring", "--audience", "all")
    mirrorpost(*create, code=2)
    mirrorpost(*create, "--text", "x", "--canary-then", "go", code=2)
    assert "no share" in mirrorpost(*create, "--text", "x", "--canary", "few").refusal()
    made = mirrorpost(
        *create, "--text-file", "text.txt", "--template", "--canary", "1%", "--json"
    ).json()
    assert (made["state"], made["canary_percent"], made["canary_then"]) == ("draft", 1.0, "wait")
    assert "is not checked yet" in mirrorpost("broadcast", "start", "spring").refusal()
    shown = mirrorpost("broadcast", "preflight", "spring", code=0).out
    assert "Hello alice" in shown
    assert "telegram" in shown
    report = mirrorpost("broadcast", "preflight", "spring", "--json").json()
    assert (report["state"], report["recipients"]) == ("checked", 1)
    mirrorpost("broadcast", "start", "spring", code=0)
    assert "is running already" in mirrorpost("broadcast", "start", "spring").refusal()
    listed_ = mirrorpost("broadcast", "list", "--json").json()
    assert [(each["name"], each["state"]) for each in listed_] == [("spring", "running")]
    assert mirrorpost("broadcast", "show", "spring", "--json").json()["report"]["recipients"] == 1
    assert "Hello alice" in mirrorpost("broadcast", "show", "spring", code=0).out
