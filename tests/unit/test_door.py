from datetime import UTC, datetime, timedelta

import pytest

from worker.errors import Refused
from worker.intake import check
from worker.lanes import Lane

NOW = datetime.now(UTC)


@pytest.mark.parametrize(
    ("changes", "hint"),
    [
        ({"text": ""}, "empty"),
        ({"text": " \n"}, "empty"),
        ({"text": 5}, "must be a string, not int"),
        ({"text": "a\0b"}, "NUL"),
        ({"text": "\ud800"}, "surrogate"),
        ({"text": "x" * 100_001}, "too long for telegram"),
        ({"to": 5}, "must be a string, not int"),
        ({"metadata": {"a": object()}}, "not JSON"),
        ({"metadata": [1]}, "JSON object"),
        ({"metadata": {"a": "\0"}}, "NUL"),
        ({"metadata": {"a": "x" * 70_000}}, "too large"),
        ({"at": NOW - timedelta(minutes=1)}, "lies in the past"),
        ({"at": "soon"}, "is not a time"),
        ({"at": NOW.replace(tzinfo=None)}, "no time zone"),
        ({"expires": NOW - timedelta(minutes=1)}, "must lie after"),
        (
            {"at": NOW + timedelta(hours=2), "expires": NOW + timedelta(hours=1)},
            "must lie after",
        ),
        ({"lane": "express"}, "reply, reminder, cron, broadcast"),
        ({"policy": "maybe"}, "resend, hold"),
        ({"key": ""}, "1 to 500"),
        ({"key": "a\n"}, "printable"),
        ({"silent": "yes"}, "true or false"),
        ({"to": "telegram:5#7", "thread": "8"}, "name one"),
        ({"to": "webhook:https://example.org", "thread": "8"}, "no threads"),
        ({"to": "webhook:http://127.0.0.1/hook"}, "not a public address"),
        ({"to": "webhook:http://localhost/hook"}, "webhook"),
    ],
)
def test_bad_input_is_refused_in_one_line(changes, hint):
    with pytest.raises(Refused, match=hint) as refused:
        check(**({"to": "telegram:5", "text": "hello"} | changes))
    assert "\n" not in str(refused.value)


def test_what_is_due_later_is_a_reminder_and_the_rest_a_reply():
    assert check(to="telegram:5", text="x").lane is Lane.REPLY
    assert check(to="telegram:5", text="x", at=NOW + timedelta(hours=1)).lane is Lane.REMINDER


def test_the_body_is_what_is_said_to_whom_and_not_when():
    body = check(to="telegram:5", text="x", metadata={"a": 1, "b": 2}).body_hash
    later = NOW + timedelta(hours=1)
    again = check(to="telegram:5", text="x", metadata={"b": 2, "a": 1}, at=later, lane="cron")
    assert again.body_hash == body
    assert check(to="telegram:5", text="y", metadata={"a": 1, "b": 2}).body_hash != body
    assert check(to="telegram:6", text="x", metadata={"a": 1, "b": 2}).body_hash != body


def test_lanes_sort_by_their_priority_in_sql():
    assert sorted(Lane, reverse=True) == list(Lane)
