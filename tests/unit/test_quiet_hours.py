"""Quiet hours and the frequency cap, as pure rules."""

from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.people.cap import Cap, parse_cap
from worker.people.quiet import QuietHours, parse_window

NIGHT = QuietHours(time(22), time(8))
ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu"]
#: Around the changes of 2027, where windows are an hour longer or shorter.
CHANGES = [
    datetime(2027, 3, 14, 7, tzinfo=UTC),
    datetime(2027, 3, 28, 1, tzinfo=UTC),
    datetime(2027, 10, 31, 1, tzinfo=UTC),
]


def berlin(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=ZoneInfo("Europe/Berlin")).astimezone(UTC)  # type: ignore[arg-type, misc]


@pytest.mark.parametrize(
    ("now", "end"),
    [
        (berlin(2027, 1, 10, 23), berlin(2027, 1, 11, 8)),
        (berlin(2027, 1, 11, 7, 59), berlin(2027, 1, 11, 8)),
        (berlin(2027, 1, 10, 22), berlin(2027, 1, 11, 8)),
        (berlin(2027, 1, 10, 21, 59), None),
        (berlin(2027, 1, 11, 8), None),
        # The night in which the clock is set forward is an hour shorter.
        (berlin(2027, 3, 27, 22), datetime(2027, 3, 28, 6, tzinfo=UTC)),
        (berlin(2027, 10, 30, 22), datetime(2027, 10, 31, 7, tzinfo=UTC)),
    ],
)
def test_a_window_ends_in_the_morning_of_its_person(now: datetime, end: datetime | None) -> None:
    assert NIGHT.until(now, ZoneInfo("Europe/Berlin")) == end


def test_an_end_that_the_clock_skips_is_at_the_change() -> None:
    window = QuietHours(time(1), time(2, 30))
    end = window.until(berlin(2027, 3, 28, 1, 30), ZoneInfo("Europe/Berlin"))
    assert end == datetime(2027, 3, 28, 1, tzinfo=UTC)


@given(
    change=st.sampled_from(CHANGES),
    minutes=st.integers(-1_500, 1_500),
    zone=st.sampled_from(ZONES).map(ZoneInfo),
    begin=st.times().map(lambda t: t.replace(second=0, microsecond=0)),
    end=st.times().map(lambda t: t.replace(second=0, microsecond=0)),
)
def test_a_window_ends_at_the_first_minute_that_the_clock_shows_outside_of_it(
    change: datetime, minutes: int, zone: ZoneInfo, begin: time, end: time
) -> None:
    if begin == end:
        return
    now = change + timedelta(minutes=minutes)
    instant = now

    def inside(at: datetime) -> bool:
        shown = at.astimezone(zone).time()
        after, before = shown >= begin, shown < end
        return (after and before) if begin < end else (after or before)

    while inside(instant):
        instant += timedelta(minutes=1)
    assert QuietHours(begin, end).until(now, zone) == (None if instant == now else instant)


@pytest.mark.parametrize(
    "text", ["22-08", "22:00", "25:00-08:00", "22:00-22:00", "22:00-08:60", "ten", "2:00-8:00"]
)
def test_a_window_that_cannot_be_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="such as 22:00-08:00"):
        parse_window(text)


@pytest.mark.parametrize(
    ("text", "cap"),
    [
        ("3/1d", Cap(3, 86_400_000)),
        ("1/h", Cap(1, 3_600_000)),
        ("20/7d", Cap(20, 604_800_000)),
        ("2/90s", Cap(2, 90_000)),
        ("", None),
    ],
)
def test_a_cap_is_a_number_and_a_time(text: str, cap: Cap | None) -> None:
    assert parse_cap(text) == cap


@pytest.mark.parametrize("text", ["0/1d", "3/0d", "3", "3/day", "-1/1d", "3/1d/2", "3/1y"])
def test_a_cap_that_lets_nothing_through_or_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="such as"):
        parse_cap(text)


def test_there_is_room_again_when_the_oldest_that_counts_is_out_of_the_window() -> None:
    cap = Cap(2, 1_000)
    assert cap.room_at([500]) == 0
    assert cap.room_at([900, 500]) == 1_500
    assert cap.room_at([100, 900, 500]) == 1_500
    assert (str(cap), str(Cap(3, 86_400_000)), str(Cap(1, 7_200_000))) == ("2/1s", "3/1d", "1/2h")
