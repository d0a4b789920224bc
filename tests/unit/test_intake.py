"""The door: bad input is refused with what is wrong and what would be right."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.errors import Refused
from worker.intake import NewDelivery, Policy, check, new_id
from worker.lanes import Lane
from worker.settings import settings

LATER = datetime.now(UTC) + timedelta(days=1)


@pytest.fixture(autouse=True)
def fresh_settings(home: Path) -> Iterator[None]:
    settings.cache_clear()
    yield
    settings.cache_clear()


def checked(**fields: object) -> NewDelivery:
    return check(**{"to": "console:me", "text": "Hello", **fields})  # type: ignore[arg-type]


def refusal(**fields: object) -> str:
    with pytest.raises(Refused) as refused:
        checked(**fields)
    message = str(refused.value)
    assert len(message.splitlines()) == 1
    return message


@pytest.mark.parametrize(
    ("fields", "right"),
    [
        ({"text": 7}, "text must be a string, not int"),
        ({"text": None}, "text must be a string, not NoneType"),
        ({"text": b"bytes"}, "text must be a string, not bytes"),
        ({"text": ""}, "at least one visible character"),
        ({"text": " \n\t\u2003"}, "at least one visible character"),
        ({"text": "a\0b"}, "NUL character: leave it away"),
        ({"text": "a\ud83d"}, "send valid Unicode"),
        ({"to": "telegram:1", "text": "a\ud83d"}, "send valid Unicode"),
        ({"text": "x" * 100_001, "to": "user:alice"}, "at most 100000"),
        (
            {"text": "x" * 100_001, "to": "telegram:1"},
            "too long for telegram: 100001, at most 100000",
        ),
        (
            {"text": "😀" * 4_001, "to": "webhook:https://example.org/"},
            "too long for webhook: 16004, at most 16000",
        ),
        ({"order": "loose"}, "order 'loose' is not known: strict, none"),
        ({"order": "none", "order_key": "k"}, "order_key needs order='strict'"),
        ({"to": 7}, "to must be a string"),
        ({"to": "console"}, "platform:chat"),
        ({"to": "pigeon:7"}, "unknown platform"),
        ({"key": ""}, "key must have 1 to 500"),
        ({"key": "k" * 501}, "key must have 1 to 500"),
        ({"key": "a\nb"}, "printable"),
        ({"key": "a\0b"}, "printable"),
        ({"key": "\ud800"}, "printable"),
        ({"key": 7}, "key must be a string, not int"),
        ({"source": 7}, "source must be a string"),
        ({"source": "s" * 501}, "source must have 1 to 500"),
        ({"topic": 7}, "topic must be a string"),
        ({"topic": "t\nu"}, "printable"),
        ({"reply_to": ""}, "reply_to must have 1 to 500"),
        ({"reply_to": 7}, "reply_to must be a string"),
        ({"silent": "yes"}, "silent must be true or false"),
        ({"silent": 1}, "silent must be true or false"),
        ({"lane": "express"}, "reply, reminder, cron, broadcast"),
        ({"lane": 7}, "lane must be a string"),
        ({"policy": "maybe"}, "resend, hold"),
        ({"policy": None}, "policy must be a string"),
        ({"thread": "7"}, "have no threads: leave thread away"),
        ({"thread": "7", "to": "user:alice"}, "have no threads: leave thread away"),
        ({"thread": "", "to": "telegram:-5"}, "thread must have 1 to 500"),
        ({"thread": "x", "to": "telegram:-5"}, "positive whole number"),
        ({"thread": "7", "to": "telegram:-5#8"}, "name one"),
        ({"metadata": "text"}, "a JSON object with string keys"),
        ({"metadata": [1]}, "a JSON object with string keys"),
        ({"metadata": {1: "x"}}, "a JSON object with string keys"),
        ({"metadata": {"x": object()}}, "metadata is not JSON"),
        ({"metadata": {"x": {1: "nested"}}}, "metadata is not JSON"),
        ({"metadata": {"x": {1, 2}}}, "metadata is not JSON"),
        ({"metadata": {"x": b"bytes"}}, "metadata is not JSON"),
        ({"metadata": {"x": 2**70}}, "metadata is not JSON"),
        ({"metadata": {"x": float("nan")}}, "metadata is not JSON"),
        ({"metadata": {"x": [float("inf")]}}, "metadata is not JSON"),
        ({"metadata": {"x": "\ud800"}}, "metadata is not JSON"),
        ({"metadata": {"x": "a\0b"}}, "NUL character"),
        ({"metadata": {"a\0b": 1}}, "NUL character"),
        ({"metadata": {"x": "y" * 64_001}}, "at most 64000"),
        ({"at": "tomorrow"}, "write 2030-01-31T09:00:00+00:00"),
        ({"at": "2030-02-30T09:00:00"}, "write 2030-01-31T09:00:00+00:00"),
        ({"at": 7}, "at must be a time, not int"),
        ({"at": datetime(2100, 1, 1)}, "give an aware datetime"),  # noqa: DTZ001 - the bad input
        ({"at": "2020-01-01T00:00:00+00:00"}, "name a later time, or none to send now"),
        ({"at": datetime.now(UTC) - timedelta(seconds=5)}, "lies in the past"),
        ({"expires": "soon"}, "expires 'soon' is not a time"),
        ({"expires": "2020-01-01T00:00:00+00:00"}, "must lie after"),
        ({"at": LATER, "expires": LATER}, "must lie after"),
        ({"at": LATER, "expires": LATER - timedelta(hours=1)}, "must lie after"),
    ],
)
def test_bad_input_is_refused_with_what_would_be_right(
    fields: dict[str, object], right: str
) -> None:
    assert right in refusal(**fields)


def test_what_waited_on_its_way_is_due_at_once() -> None:
    hour_ago = datetime.now(UTC) - timedelta(hours=1)
    late = check(to="telegram:1", text="x", at=hour_ago, late_ms=2 * 3_600_000)
    assert late.at_ms == int(hour_ago.timestamp() * 1000)
    with pytest.raises(Refused, match="lies in the past"):
        check(to="telegram:1", text="x", at=hour_ago, late_ms=1_800_000)


def test_circular_metadata_is_refused() -> None:
    circle: dict[str, object] = {}
    circle["self"] = circle
    assert "metadata is not JSON" in refusal(metadata=circle)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "10.0.0.1", "[::1]", "2130706433"])
def test_a_webhook_into_a_private_network_is_refused(host: str) -> None:
    assert "MIRRORPOST_WEBHOOK_ALLOW_PRIVATE=1" in refusal(to=f"webhook:http://{host}/hook")


def test_a_webhook_into_a_private_network_is_taken_when_that_is_allowed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MIRRORPOST_WEBHOOK_ALLOW_PRIVATE", "1")
    settings.cache_clear()
    assert checked(to="webhook:http://127.0.0.1/hook").target.chat_id == "http://127.0.0.1/hook"


def test_a_plain_delivery_has_the_documented_defaults() -> None:
    new = checked()
    assert (new.key, new.metadata, new.reply_to, new.silent) == (None, None, None, False)
    assert (new.source, new.policy) == ("", Policy.RESEND)
    assert (new.at_ms, new.expires_ms) == (None, None)


def test_what_is_sent_at_once_is_a_reply_and_what_is_sent_later_a_reminder() -> None:
    assert checked().lane is Lane.REPLY
    assert checked(at=LATER).lane is Lane.REMINDER
    assert checked(at=LATER, lane="cron").lane is Lane.CRON


@pytest.mark.parametrize(
    "moment",
    [
        "2100-01-31T09:00:00",
        "2100-01-31T09:00:00Z",
        "2100-01-31T10:00:00+01:00",
        datetime(2100, 1, 31, 9, tzinfo=UTC),
        datetime(2100, 1, 31, 1, tzinfo=timezone(timedelta(hours=-8))),
    ],
)
def test_a_time_is_utc_unless_it_names_an_offset(moment: object) -> None:
    assert checked(at=moment).at_ms == 4_105_069_200_000


def test_a_time_that_passed_on_the_way_to_the_door_is_taken() -> None:
    assert checked(at=datetime.now(UTC) - timedelta(milliseconds=300)).at_ms is not None


def test_a_thread_given_apart_is_the_target_s() -> None:
    assert str(checked(to="telegram:-5", thread="7").target) == "telegram:-5#7"
    assert checked(to="telegram:-5#7").body_hash == checked(to="telegram:-5", thread="7").body_hash


def test_metadata_comes_through_unchanged() -> None:
    metadata = {"deep": {"list": [1, 2.5, None, True, "ä\N{GRINNING FACE}"]}, "path": r"C:\u0000"}
    assert checked(metadata=metadata).metadata == metadata


def test_the_body_is_what_arrives_and_not_when_or_for_whom_it_was_asked() -> None:
    first = checked(metadata={"a": 1, "b": 2})
    again = checked(
        metadata={"b": 2, "a": 1}, key="k", source="s", lane="cron", policy="hold", at=LATER
    )
    assert first.body_hash == again.body_hash


@pytest.mark.parametrize(
    "change",
    [
        {"text": "Hallo"},
        {"to": "console:you"},
        {"metadata": {"a": 1}},
        {"reply_to": "7"},
        {"silent": True},
    ],
)
def test_what_arrives_otherwise_is_another_body(change: dict[str, object]) -> None:
    assert checked().body_hash != checked(**change).body_hash


def test_ids_are_unique_and_sort_by_time() -> None:
    ids = [new_id() for _ in range(5_000)]
    assert ids == sorted(set(ids))
    assert all(len(id_) == 32 for id_ in ids)


@given(st.text())
def test_any_text_is_taken_as_it_is_or_refused(text: str) -> None:
    try:
        new = checked(text=text)
    except Refused:
        sayable = text.strip() and "\0" not in text and text.isascii()
        assert not sayable
    else:
        assert new.text == text


@given(
    st.dictionaries(
        st.text(max_size=5),
        st.recursive(
            st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=5),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
            max_leaves=8,
        ),
        max_size=4,
    )
)
def test_any_json_is_metadata_unless_it_has_a_nul(metadata: dict[str, object]) -> None:
    if "\0" in repr(metadata).replace("\\x00", "\0"):
        return
    assert checked(metadata=metadata).metadata == metadata
