from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from scheduler.when import parse_duration, parse_when
from worker.errors import Refused
from worker.zones import first_valid, parse_zone

BERLIN = ZoneInfo("Europe/Berlin")
#: Tuesday, 02:00 in Berlin.
NOW = datetime(2026, 11, 24, 1, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("typed", "local"),
    [
        ("2027-01-31T09:00", "2027-01-31 09:00"),
        ("2027-01-31 09:00", "2027-01-31 09:00"),
        ("2027-01-31", "2027-01-31 00:00"),
        ("2027-01-31T09:00Z", "2027-01-31 10:00"),
        ("2027-01-31T09:00-05:00", "2027-01-31 15:00"),
        ("10m", "2026-11-24 02:10"),
        ("+10m", "2026-11-24 02:10"),
        ("1h30m", "2026-11-24 03:30"),
        ("in 10 minutes", "2026-11-24 02:10"),
        ("in an hour", "2026-11-24 03:00"),
        ("in 3 days", "2026-11-27 02:00"),
        ("in 2 weeks at 9am", "2026-12-08 09:00"),
        ("in 2 months", "2027-01-24 02:00"),
        ("tomorrow 9am", "2026-11-25 09:00"),
        ("Tomorrow at 9:30 PM", "2026-11-25 21:30"),
        ("5pm tomorrow", "2026-11-25 17:00"),
        ("tomorrow noon", "2026-11-25 12:00"),
        ("9am", "2026-11-24 09:00"),
        ("01:30", "2026-11-25 01:30"),
        ("next friday at 17:00", "2026-11-27 17:00"),
        ("monday 9am", "2026-11-30 09:00"),
        ("31 jan 2027 09:00", "2027-01-31 09:00"),
        ("January 31, 2027 9am", "2027-01-31 09:00"),
        ("dec 24 18:00", "2026-12-24 18:00"),
    ],
)
def test_what_people_type_becomes_the_instant_they_mean(typed: str, local: str) -> None:
    meant = datetime.fromisoformat(local).replace(tzinfo=BERLIN)
    parsed = parse_when(typed, now=NOW, tz=BERLIN)
    assert parsed == meant
    assert parsed.tzinfo is UTC


@pytest.mark.parametrize(
    "typed",
    [
        "",
        "soon",
        "5",
        "1e9",
        "may",
        "25:00",
        "12:99",
        "13pm",
        "2026-13-01",
        "31 feb",
        "01/02/2027",
        "tomorrow at 9",
        "tomorrow 25:00",
        "tomorrow 9am EST",
        "tomorrow 9am please",
        "99999999999999h",
        "in 99999 years",
    ],
)
def test_what_is_not_certainly_a_time_is_refused_with_an_example(typed: str) -> None:
    with pytest.raises(Refused, match=r"is not a time: write 2027-01-31T09:00"):
        parse_when(typed, now=NOW, tz=BERLIN)


@pytest.mark.parametrize(
    "typed", ["2020-01-01T09:00", "2026-11-24T01:00Z", "today 1am", "0m", "nov 24 2026 1am"]
)
def test_a_time_that_is_not_in_the_future_is_refused(typed: str) -> None:
    with pytest.raises(Refused, match="which is past: give a later time"):
        parse_when(typed, now=NOW, tz=BERLIN)


def test_a_local_time_that_is_skipped_becomes_the_first_valid_one() -> None:
    parsed = parse_when("2027-03-28T02:30", now=NOW, tz=BERLIN)
    assert parsed.astimezone(BERLIN).isoformat() == "2027-03-28T03:00:00+02:00"


def test_a_local_time_that_comes_twice_is_the_first_one() -> None:
    parsed = parse_when("2027-10-31T02:30", now=NOW, tz=BERLIN)
    assert parsed.astimezone(BERLIN).isoformat() == "2027-10-31T02:30:00+02:00"


def test_minutes_are_counted_through_a_change_of_the_clock() -> None:
    before = datetime(2027, 3, 28, 0, 50, tzinfo=UTC)
    assert parse_when("in 20 minutes", now=before, tz=BERLIN) == before + timedelta(minutes=20)


def test_a_gap_of_half_an_hour_ends_where_the_clock_goes_on() -> None:
    lord_howe = ZoneInfo("Australia/Lord_Howe")
    instant = first_valid(datetime(2026, 10, 4, 2, 10), lord_howe)  # noqa: DTZ001 - local by design
    assert instant.astimezone(lord_howe).isoformat() == "2026-10-04T02:30:00+11:00"


@pytest.mark.parametrize(
    ("typed", "seconds"),
    [
        ("90s", 90),
        ("5m", 300),
        ("1h30m", 5400),
        ("1h 30m", 5400),
        ("1.5h", 5400),
        ("2d", 172_800),
        ("2 weeks", 1_209_600),
    ],
)
def test_a_duration_is_read_with_its_units(typed: str, seconds: int) -> None:
    assert parse_duration(typed) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "typed", ["", "0", "0s", "90", "-5m", "1:30", "abc", "5m5m", "1e5s", "9" * 30 + "h"]
)
def test_what_is_no_duration_is_refused_with_an_example(typed: str) -> None:
    with pytest.raises(Refused, match="such as 90s, 5m, 1h30m"):
        parse_duration(typed)


@pytest.mark.parametrize(
    ("typed", "hint"),
    [
        ("Europe/Berln", "Europe/Berlin"),
        ("Berlin", "Europe/Berlin"),
        ("europe/berlin", "Europe/Berlin"),
        ("new york", "America/New_York"),
        ("", "UTC"),
        ("../../etc/passwd", "UTC"),
        ("Europe", "Europe/"),
    ],
)
def test_an_unknown_zone_is_refused_with_the_nearest_names(typed: str, hint: str) -> None:
    with pytest.raises(Refused, match=f"is not a time zone: .*{hint}"):
        parse_zone(typed)


def test_a_known_zone_is_given() -> None:
    assert parse_zone("Asia/Kathmandu") == ZoneInfo("Asia/Kathmandu")
