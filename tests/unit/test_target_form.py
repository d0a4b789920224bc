import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.errors import Refused
from worker.targets import Target, parse_target


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("telegram:12345", Target("telegram", "12345")),
        ("telegram:-100123#77", Target("telegram", "-100123", thread="77")),
        ("telegram:-100123:77", Target("telegram", "-100123", thread="77")),
        ("telegram@second:12345", Target("telegram", "12345", "second")),
        ("discord:678#9", Target("discord", "678", thread="9")),
        ("matrix:!room:example.org", Target("matrix", "!room:example.org")),
        ("webhook:https://a.org:8443/b?c=d:e", Target("webhook", "https://a.org:8443/b?c=d:e")),
        ("user:alice", Target("user", "alice")),
        ("user:telegram:5", Target("user", "telegram:5")),
    ],
)
def test_a_target_reads_as_users_write_it(text, target):
    assert parse_target(text) == target


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("telegram", "platform:chat"),
        ("", "platform:chat"),
        (":5", "platform:chat"),
        ("Telegram 5:5", "platform:chat"),
        ("telegram:", "names no chat"),
        ("telegram: 5", "names no chat"),
        ("telegram:5#", "empty thread"),
        ("telegram:alice", "telegram target"),
        ("carrier-pigeon:5", "unknown platform"),
        ("user@second:alice", "user:alice"),
        ("matrix:#alias:example.org", "matrix target"),
        ("webhook:ftp://example.org", "webhook target"),
        ("webhook:https://example.org/a#b", "no #fragment"),
        ("telegram:5#general", "telegram thread"),
    ],
)
def test_a_malformed_target_is_refused_in_one_line_that_says_what_would_be_right(text, hint):
    with pytest.raises(Refused, match=hint) as refused:
        parse_target(text)
    assert "\n" not in str(refused.value)


@given(
    chat=st.integers(min_value=-(10**13), max_value=10**13).filter(bool),
    thread=st.none() | st.integers(min_value=1, max_value=10**9),
    account=st.from_regex(r"[A-Za-z0-9_-]{0,12}", fullmatch=True),
)
def test_a_target_reads_back_from_what_it_prints(chat, thread, account):
    target = Target("telegram", str(chat), account, None if thread is None else str(thread))
    assert parse_target(str(target)) == target
