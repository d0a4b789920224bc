from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.errors import Refused
from worker.sessions import entries
from worker.sessions.entries import new_entries, plain_json


def said(role, content, timestamp=None):
    entry = {"role": role, "content": content}
    return entry if timestamp is None else entry | {"timestamp": entries.iso(timestamp)}


def test_what_follows_the_last_known_entry_is_new():
    stored = [said("user", "a", 1), said("assistant", "b", 2)]
    assert new_entries(stored, [*stored, said("user", "c")]) == [said("user", "c")]


def test_a_history_saved_twice_has_nothing_new():
    stored = [said("user", "a", 1), said("assistant", "b", 2)]
    assert new_entries(stored, stored) == []


def test_the_same_words_said_again_are_new():
    stored = [said("user", "yes", 1), said("assistant", "ok", 2)]
    again = [said("user", "yes"), said("assistant", "ok")]
    assert new_entries(stored, [*stored, *again]) == again


def test_a_mirror_that_came_meanwhile_changes_nothing_about_what_is_new():
    loaded = [said("user", "a", 1)]
    stored = [*loaded, said("assistant", "reminder", 2)]
    turn = [said("user", "b"), said("assistant", "c")]
    assert new_entries(stored, [*loaded, *turn]) == turn


def test_a_summary_before_known_entries_is_left_out():
    stored = [said("user", "a", 1), said("assistant", "b", 2)]
    history = [said("system", "summary"), stored[1], said("user", "c")]
    assert new_entries(stored, history) == [said("user", "c")]


def test_a_cut_off_head_does_not_hide_words_said_again_without_times():
    stored = [said("user", "yes", 1), said("assistant", "a", 2), said("user", "b", 3)]
    history = [said("assistant", "a"), said("user", "b"), said("user", "yes")]
    assert new_entries(stored, history) == [said("user", "yes")]


def test_entries_stripped_of_their_times_are_known_by_their_order():
    stored = [said("user", "a", 1), said("assistant", "b", 2)]
    stripped = [said("user", "a"), said("assistant", "b"), said("user", "a")]
    assert new_entries(stored, stripped) == [said("user", "a")]


def test_everything_is_new_to_an_empty_history():
    history = [said("user", "a", 1), said("assistant", "b")]
    assert new_entries([], history) == history


@given(
    st.lists(st.sampled_from(["yes", "no", "ok"]), max_size=12),
    st.lists(st.sampled_from(["yes", "no", "ok"]), max_size=6),
    st.booleans(),
)
def test_a_turn_on_top_of_a_loaded_history_is_new_and_nothing_else(before, turn, strip):
    stored = [said("user", text, i) for i, text in enumerate(before)]
    loaded = [said("user", text) for text in before] if strip else stored
    added = [said("assistant", text) for text in turn]
    assert new_entries(stored, [*loaded, *added]) == added


@pytest.mark.parametrize(
    ("timestamp", "milliseconds"),
    [
        ("1970-01-01T00:00:01.500+00:00", 1500),
        ("1970-01-01T01:00:01+01:00", 1000),
        ("1970-01-01T00:00:01", 1000),
        ("1970-01-01T00:00:01.999999Z", 1999),
        (1.5, 1500),
        (2, 2000),
        ("yesterday", None),
        (float("nan"), None),
        (True, None),
        (None, None),
    ],
)
def test_times_are_read_as_managers_write_them(timestamp, milliseconds):
    assert entries.timestamp_ms({"timestamp": timestamp}) == milliseconds


@given(st.integers(min_value=-(10**12), max_value=10**14))
def test_times_survive_being_written_and_read(milliseconds):
    assert entries.timestamp_ms({"timestamp": entries.iso(milliseconds)}) == milliseconds


def test_a_time_without_a_zone_is_refused():
    naive = datetime(2026, 1, 1, tzinfo=UTC).replace(tzinfo=None)
    with pytest.raises(Refused, match="no time zone"):
        entries.epoch_ms(naive)


@pytest.mark.parametrize(
    "metadata",
    [
        {"a": object()},
        {"a": float("nan")},
        {1: "a"},
        ["a"],
        "a",
        {"a": {1, 2}},
        {"a": b"x"},
        {"a": "\ud800"},
        {"a": datetime(2026, 1, 1, tzinfo=UTC)},
    ],
)
def test_metadata_that_is_not_json_is_refused(metadata):
    with pytest.raises(Refused, match="metadata"):
        plain_json(metadata)


def test_metadata_is_a_copy_that_later_changes_do_not_reach():
    inner = {"b": [1]}
    copy = plain_json({"a": inner})
    inner["b"].append(2)
    assert copy == {"a": {"b": [1]}}


def test_metadata_that_contains_itself_is_refused():
    loop = {}
    loop["loop"] = loop
    with pytest.raises(Refused, match="metadata"):
        plain_json(loop)


@pytest.mark.parametrize(
    ("given_text", "kept"), [("a\x00b", "a�b"), ("a\ud800b", "a�b"), ("😀", "😀")]
)
def test_text_is_mended_where_databases_could_not_keep_it(given_text, kept):
    assert entries.mended(given_text) == kept
