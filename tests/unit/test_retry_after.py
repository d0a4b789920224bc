import math
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.platforms.retry_after import LONGEST_S, header_s, seconds

NOW = datetime(2026, 11, 24, 12, 0, 0, tzinfo=UTC)


@pytest.fixture(params=["UTC", "Asia/Tokyo", "America/Los_Angeles"])
def zone(request: pytest.FixtureRequest) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("TZ", request.param)
        time.tzset()
        yield
    time.tzset()


def test_whole_seconds_are_read() -> None:
    assert header_s({"retry-after": "120"}) == 120.0


def test_fractions_of_seconds_are_read() -> None:
    assert header_s({"retry-after": "0.25"}) == 0.25


def test_an_http_date_counts_from_the_answers_own_date() -> None:
    headers = {
        "retry-after": "Tue, 24 Nov 2026 12:01:30 GMT",
        "date": format_datetime(NOW, usegmt=True),
    }
    assert header_s(headers) == 90.0


def test_an_http_date_without_a_date_header_counts_from_this_machines_clock() -> None:
    in_a_minute = datetime.now(UTC).timestamp() + 60
    value = format_datetime(datetime.fromtimestamp(in_a_minute, UTC), usegmt=True)
    wait_s = header_s({"retry-after": value})
    assert wait_s is not None
    assert 50 < wait_s <= 60


@pytest.mark.parametrize(
    "value",
    [
        "Tue, 24 Nov 2026 12:01:30 GMT",
        "Tuesday, 24-Nov-26 12:01:30 GMT",
        "Tue Nov 24 12:01:30 2026",
        "Tue, 24 Nov 2026 13:01:30 +0100",
        "Tue, 24 Nov 2026 12:01:30 -0000",
        "Tue, 24 Nov 2026 12:01:30",
        "24 Nov 2026 12:01:30 gmt",
    ],
)
@pytest.mark.usefixtures("zone")
def test_an_http_date_says_the_same_in_every_form_and_on_every_machine(value: str) -> None:
    headers = {"retry-after": value, "date": format_datetime(NOW, usegmt=True)}
    assert header_s(headers) == 90.0


def test_an_http_date_in_the_past_is_no_wait() -> None:
    headers = {
        "retry-after": "Tue, 24 Nov 2026 11:00:00 GMT",
        "date": format_datetime(NOW, usegmt=True),
    }
    assert header_s(headers) == 0.0


def test_no_header_is_no_word() -> None:
    assert header_s({}) is None


def test_nonsense_is_no_word() -> None:
    for value in ("", "soon", "-5", "nan", "inf", "1e9", "0x10", "1_000", "٣", "1 2"):
        assert header_s({"retry-after": value}) is None, value


def test_only_numbers_are_seconds() -> None:
    assert seconds(3) == 3.0
    assert seconds(0.65) == 0.65
    assert seconds("7") == 7.0
    for value in (True, None, [], {}, -1, -0.5, math.nan, math.inf, "x"):
        assert seconds(value) is None, value


def test_no_wait_is_longer_than_a_week() -> None:
    assert seconds(10**30) == LONGEST_S
    assert seconds("999999999") == LONGEST_S
    headers = {"retry-after": "Tue, 24 Nov 2099 12:00:00 GMT", "date": format_datetime(NOW)}
    assert header_s(headers) == LONGEST_S


@given(st.text(), st.one_of(st.none(), st.text()))
def test_any_header_gives_a_sane_wait_or_none(value: str, date: str | None) -> None:
    headers = {"retry-after": value} | ({} if date is None else {"date": date})
    wait_s = header_s(headers)
    assert wait_s is None or 0.0 <= wait_s <= LONGEST_S


@given(st.binary(max_size=80), st.binary(max_size=80))
def test_any_bytes_of_a_header_give_a_sane_wait_or_none(value: bytes, date: bytes) -> None:
    headers = {"retry-after": value.decode("latin-1"), "date": date.decode("utf-8", "replace")}
    wait_s = header_s(headers)
    assert wait_s is None or 0.0 <= wait_s <= LONGEST_S


@given(st.floats(0, LONGEST_S).map(lambda s: f"{s:.6f}"))
def test_a_number_is_read_as_it_was_written(value: str) -> None:
    assert seconds(value) == header_s({"retry-after": f" {value} "}) == float(value)


@given(st.one_of(st.integers(), st.floats(), st.text(), st.booleans(), st.none()))
def test_any_json_value_gives_a_sane_wait_or_none(value: object) -> None:
    wait_s = seconds(value)
    assert wait_s is None or 0.0 <= wait_s <= LONGEST_S


@given(st.integers(min_value=0, max_value=int(LONGEST_S)))
def test_a_date_says_the_same_as_the_seconds_until_it(wait_s: int) -> None:
    then = datetime.fromtimestamp(NOW.timestamp() + wait_s, UTC)
    headers = {
        "retry-after": format_datetime(then, usegmt=True),
        "date": format_datetime(NOW, usegmt=True),
    }
    assert header_s(headers) == header_s({"retry-after": str(wait_s)}) == float(wait_s)


@given(
    st.from_regex(
        r"\A(Mon|Tue), [0-9]{1,3} (Jan|Nov|Foo) [0-9]{1,7} [0-9]{1,3}:[0-9]{1,3}(:[0-9]{1,3})?"
        r" ([+-][0-9]{1,9}|GMT|-0000|)\Z"
    )
)
def test_any_date_like_text_gives_a_sane_wait_or_none(value: str) -> None:
    wait_s = header_s({"retry-after": value, "date": format_datetime(NOW, usegmt=True)})
    assert wait_s is None or 0.0 <= wait_s <= LONGEST_S
