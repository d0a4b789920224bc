"""Targets are read as the vocabulary says, or refused in one line with what would be right."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.errors import Refused
from worker.targets import Target, check_thread, parse_target

ROOM = "!opaque:example.org"


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("telegram:123", Target("telegram", "123")),
        ("telegram:-100123", Target("telegram", "-100123")),
        ("telegram:@channel", Target("telegram", "@channel")),
        ("telegram:-100123#77", Target("telegram", "-100123", thread="77")),
        ("telegram:-100123:77", Target("telegram", "-100123", thread="77")),
        ("telegram@second:123", Target("telegram", "123", "second")),
        ("telegram@second:-100123#77", Target("telegram", "-100123", "second", "77")),
        ("telegram@second:-100123:77", Target("telegram", "-100123", "second", "77")),
        ("discord:987654321", Target("discord", "987654321")),
        (
            "slack:C024BE91L#1503435956.000247",
            Target("slack", "C024BE91L", "", "1503435956.000247"),
        ),
        (f"matrix:{ROOM}", Target("matrix", ROOM)),
        (f"matrix:{ROOM}#$event", Target("matrix", ROOM, thread="$event")),
        (f"matrix:{ROOM}:8448", Target("matrix", f"{ROOM}:8448")),
        (
            "webhook:https://example.org:8443/a@b:c?d=e:f",
            Target("webhook", "https://example.org:8443/a@b:c?d=e:f"),
        ),
        ("console:desk", Target("console", "desk")),
        ("console:a#b:c", Target("console", "a#b:c")),
        ("user:alice", Target("user", "alice")),
        ("user:telegram:123", Target("user", "telegram:123")),
        ("user:a#b", Target("user", "a#b")),
    ],
)
def test_a_target_is_read_as_the_vocabulary_says(text: str, target: Target) -> None:
    assert parse_target(text) == target


def test_only_a_person_has_to_be_routed() -> None:
    assert parse_target("user:alice").is_person
    assert not parse_target("console:alice").is_person


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("", "platform:chat"),
        ("telegram", "platform:chat"),
        ("123", "platform:chat"),
        (":123", "platform:chat"),
        ("@second:123", "platform:chat"),
        ("telegram@:123", "platform:chat"),
        ("Telegram:123", "platform:chat"),
        ("telegram\n:123", "platform:chat"),
        (" telegram:123", "platform:chat"),
        ("telegram@second\n:123", "platform:chat"),
        ("telegram@a@b:123", "platform:chat"),
        ("telegram:", "names no chat"),
        ("telegram: 123", "names no chat"),
        ("telegram:123\n", "names no chat"),
        ("console:a\0b", "names no chat"),
        ("console:\ud800", "names no chat"),
        ("user:", "names no chat"),
        ("user@second:alice", "write user:alice"),
        ("pigeon:7", "telegram"),
        ("telegram:bob", "whole number"),
        ("telegram:0", "whole number"),
        ("telegram:-100123#", "empty thread"),
        ("telegram:-100123:", "empty thread"),
        ("telegram:-100123#general", "positive whole number"),
        ("telegram:-100123:77:78", "positive whole number"),
        ("discord:general", "Copy ID"),
        ("slack:#general", "not its name"),
        ("slack:C024BE91L#today", "first message's ts"),
        ("matrix:#alias:example.org", "room id"),
        ("matrix:@alice:example.org", "room id"),
        (f"matrix:{ROOM}#event", "first event's id"),
        ("webhook:example.org/hook", "https://host/path"),
        ("webhook:ftp://example.org/hook", "https://host/path"),
        ("webhook:https://", "https://host/path"),
        ("webhook:https://bob:secret@example.org/", "no user or password"),
        ("webhook:https://example.org/hook#part", "no #fragment"),
    ],
)
def test_what_is_no_target_is_refused_with_what_would_be_right(text: str, right: str) -> None:
    with pytest.raises(Refused) as refused:
        parse_target(text)
    assert right in str(refused.value)
    assert "\n" not in str(refused.value)


def test_an_unknown_platform_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(Refused, match="console, discord, matrix, slack, telegram, webhook"):
        parse_target("pigeon:7")


def test_a_thread_given_apart_is_checked_like_one_in_the_target() -> None:
    check_thread("telegram", "77")
    with pytest.raises(Refused, match="positive whole number"):
        check_thread("telegram", "general")


accounts = st.just("") | st.from_regex(r"[A-Za-z0-9_-]{1,12}", fullmatch=True)
visible = st.characters(min_codepoint=0x21, max_codepoint=0x7E)
labels = st.text(visible, min_size=1, max_size=60)
telegram_chats = st.integers(1, 10**15).flatmap(lambda n: st.sampled_from([str(n), str(-n)]))
snowflakes = st.integers(10**16, 2**63 - 1).map(str)
targets = st.one_of(
    st.builds(Target, st.just("user"), labels),
    st.builds(Target, st.just("console"), labels, accounts),
    st.builds(
        Target,
        st.just("telegram"),
        telegram_chats | st.from_regex(r"@[a-z][a-z0-9_]{3,20}", fullmatch=True),
        accounts,
        st.none() | st.integers(1, 10**9).map(str),
    ),
    st.builds(
        Target,
        st.just("matrix"),
        st.text(visible.filter(lambda c: c != "#"), min_size=1, max_size=60).map("!{}".format),
        accounts,
        st.none() | labels.map("${}".format),
    ),
    st.builds(
        Target,
        st.just("discord"),
        snowflakes,
        accounts,
        st.none() | snowflakes,
    ),
    st.builds(
        Target,
        st.just("slack"),
        st.from_regex(r"[CDGUW][A-Z0-9]{8,10}", fullmatch=True),
        accounts,
        st.none() | st.from_regex(r"[0-9]{10}\.[0-9]{6}", fullmatch=True),
    ),
    st.builds(
        Target,
        st.just("webhook"),
        st.from_regex(
            r"https?://[a-z]{1,9}\.example(:[1-9][0-9]{0,3})?(/[a-z:@]{0,9}){0,3}(\?[a-z=:&]{0,9})?",
            fullmatch=True,
        ),
        accounts,
    ),
)
ODD = st.sampled_from([*"#:@ \n/$!", "\u2028", "\u0661", "\x00"])
PLATFORMS = ("telegram", "telegram@a", "discord", "slack", "matrix", "webhook", "console", "user")


@given(targets)
def test_every_target_survives_being_written_and_read(target: Target) -> None:
    assert parse_target(str(target)) == target


@given(
    st.text(max_size=60)
    | st.builds(
        "{}:{}".format, st.text(max_size=10) | st.sampled_from(PLATFORMS), st.text(max_size=40)
    )
    # Over the letters of which targets are made, so that many are nearly right.
    | st.builds(
        "{}:{}".format, st.sampled_from(PLATFORMS), st.text("1-@#:!$.aC/ht ps\n", max_size=24)
    )
    # As it was written by hand: right but for one character.
    | st.builds(lambda t, at, c: f"{str(t)[:at]}{c}{str(t)[at:]}", targets, st.integers(0, 40), ODD)
)
def test_any_text_is_a_target_or_refused_in_one_line(text: str) -> None:
    said = ""
    try:
        target = parse_target(text)
    except Refused as refused:
        said = str(refused)
    else:
        assert parse_target(str(target)) == target
    assert len(said.splitlines()) <= 1
