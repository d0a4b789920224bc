"""Occurrences against cron's own meaning and against the nights on which clocks change."""

from datetime import UTC, date, datetime, time, timedelta
from itertools import islice, pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.occurrences import (
    At,
    Cron,
    Every,
    Spec,
    between,
    count_through,
    cron,
    every,
    first,
    next_after,
    parse_spec,
    spec_document,
    upcoming,
)
from worker.errors import Refused

START = datetime(2026, 1, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)

#: Zones whose clocks change, among them changes at midnight, by half an hour, in Ramadan.
ZONES = [
    "Africa/Cairo",
    "Africa/Casablanca",
    "Africa/El_Aaiun",
    "America/Asuncion",
    "America/Chicago",
    "America/Denver",
    "America/Halifax",
    "America/Havana",
    "America/Los_Angeles",
    "America/Miquelon",
    "America/New_York",
    "America/Nuuk",
    "America/Santiago",
    "America/Scoresbysund",
    "America/St_Johns",
    "Antarctica/Troll",
    "Asia/Beirut",
    "Asia/Gaza",
    "Asia/Jerusalem",
    "Asia/Nicosia",
    "Atlantic/Azores",
    "Atlantic/Bermuda",
    "Australia/Adelaide",
    "Australia/Lord_Howe",
    "Australia/Sydney",
    "Europe/Berlin",
    "Europe/Chisinau",
    "Europe/Dublin",
    "Europe/London",
    "Pacific/Auckland",
    "Pacific/Chatham",
    "Pacific/Easter",
    "Pacific/Norfolk",
]


def local_days(zone: str, year: int) -> list[date]:
    """Days of a year on which the zone's offset changes, with a day on either side."""
    tz = ZoneInfo(zone)
    midnight = datetime(year, 1, 1, tzinfo=UTC)
    hours = [midnight + timedelta(hours=n) for n in range(366 * 24)]
    offsets = [hour.astimezone(tz).utcoffset() for hour in hours]
    changed = [
        hours[i + 1].astimezone(tz).date()
        for i, (one, other) in enumerate(pairwise(offsets))
        if one != other
    ]
    return sorted({day + timedelta(days=n) for day in changed for n in (-1, 0, 1)})


def shown(spec: Spec, after: datetime, n: int, zone: str = "UTC") -> list[str]:
    return [
        at.astimezone(ZoneInfo(zone)).isoformat(timespec="minutes")
        for at in islice(upcoming(spec, after), n)
    ]


def local(zone: str, text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).astimezone(UTC)


# Cron's own meaning.


@pytest.mark.parametrize("sunday", ["0", "7", "SUN", "sun"])
def test_zero_and_seven_are_sunday(sunday: str) -> None:
    assert shown(cron(f"0 9 * * {sunday}"), START, 2) == [
        "2026-01-04T09:00+00:00",
        "2026-01-11T09:00+00:00",
    ]


def test_day_of_month_and_day_of_week_are_alternatives_when_both_are_restricted() -> None:
    # The 13th is a Tuesday; Fridays are the 2nd, 9th, 16th.
    assert [at.day for at in islice(upcoming(cron("0 0 13 * FRI"), START), 4)] == [2, 9, 13, 16]


def test_a_starred_day_field_does_not_restrict() -> None:
    assert [at.day for at in islice(upcoming(cron("0 0 * * FRI"), START), 2)] == [2, 9]
    assert [at.day for at in islice(upcoming(cron("0 0 13 * *"), START), 2)] == [13, 13]


@pytest.mark.parametrize(
    ("alias", "expected"),
    [
        ("@hourly", "2026-01-01T01:00+00:00"),
        ("@daily", "2026-01-02T00:00+00:00"),
        ("@midnight", "2026-01-02T00:00+00:00"),
        ("@weekly", "2026-01-04T00:00+00:00"),
        ("@monthly", "2026-02-01T00:00+00:00"),
        ("@yearly", "2027-01-01T00:00+00:00"),
        ("@annually", "2027-01-01T00:00+00:00"),
    ],
)
def test_aliases_mean_what_cron_means(alias: str, expected: str) -> None:
    assert shown(cron(alias), START, 1) == [expected]


def test_steps_lists_ranges_and_names_are_read() -> None:
    spec = cron("*/20 9-10,22 * jan MON-FRI")
    assert [at.strftime("%d %H:%M") for at in islice(upcoming(spec, START), 10)] == [
        *("01 09:00", "01 09:20", "01 09:40", "01 10:00", "01 10:20", "01 10:40"),
        *("01 22:00", "01 22:20", "01 22:40", "02 09:00"),
    ]


def test_six_fields_begin_with_seconds() -> None:
    times = list(islice(upcoming(cron("*/20 0 9 * * *"), START), 4))
    assert [at.strftime("%d %H:%M:%S") for at in times] == [
        "01 09:00:00",
        "01 09:00:20",
        "01 09:00:40",
        "02 09:00:00",
    ]


def test_a_leap_day_on_a_weekday_may_be_far_away() -> None:
    assert shown(cron("0 0 * 2 MON#5"), START, 1) == ["2044-02-29T00:00+00:00"]


@pytest.mark.parametrize(
    "expression",
    [
        "",
        "* * * *",
        "* * * * * * *",
        "60 * * * *",
        "* 24 * * *",
        "* * 0 * *",
        "* * * 13 *",
        "* * * * 8",
        "a b c d e",
        "@reboot",
        "0 0 30 2 *",
        "0 0 31 4,6,9,11 *",
        "0 0 */31 * MON#3",
    ],
)
def test_an_expression_that_is_wrong_or_never_fires_is_refused(expression: str) -> None:
    with pytest.raises(Refused, match=r"never fires|such as '0 9 \* \* 1-5'"):
        cron(expression)


# The nights on which clocks change.


def test_a_time_in_the_gap_fires_at_its_end() -> None:
    spec = cron("30 2 * * *", "Europe/Berlin")
    after = local("Europe/Berlin", "2027-03-27T12:00")
    assert shown(spec, after, 2, "Europe/Berlin") == [
        "2027-03-28T03:00+02:00",
        "2027-03-29T02:30+02:00",
    ]


@pytest.mark.parametrize("expression", ["*/15 2 * * *", "0,30 2 * * *", "30 2,3 * * *"])
def test_several_times_in_one_gap_fire_once(expression: str) -> None:
    spec = cron(expression, "Europe/Berlin")
    times = between(
        spec,
        local("Europe/Berlin", "2027-03-28T01:00"),
        local("Europe/Berlin", "2027-03-28T03:15"),
        limit=10,
    )
    assert times == [local("Europe/Berlin", "2027-03-28T03:00")]


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("30 2 * * *", ["02:30+02:00"]),
        ("*/30 2 * * *", ["02:00+02:00", "02:30+02:00"]),
        ("30 */2 * * *", ["00:30+02:00", "02:30+02:00"]),
    ],
)
def test_a_time_that_comes_twice_fires_the_first_time_only(
    expression: str, expected: list[str]
) -> None:
    spec = cron(expression, "Europe/Berlin")
    midnight = local("Europe/Berlin", "2027-10-31T00:00")
    times = between(spec, midnight, midnight + timedelta(hours=4, minutes=45), limit=10)
    assert [
        at.astimezone(ZoneInfo("Europe/Berlin")).isoformat(timespec="minutes")[11:] for at in times
    ] == expected


def test_inside_the_second_hour_of_a_fold_nothing_fires_again() -> None:
    spec = cron("45 2 * * *", "Europe/Berlin")
    second_half_past_two = datetime(2027, 10, 31, 1, 30, tzinfo=UTC)
    assert shown(spec, second_half_past_two, 1, "Europe/Berlin") == ["2027-11-01T02:45+01:00"]


@pytest.mark.parametrize(
    ("zone", "expected"),
    [
        ("Asia/Beirut", "2027-03-28T01:00+03:00"),
        ("Africa/Cairo", "2027-04-30T01:00+03:00"),
        ("America/Santiago", "2027-09-05T01:00-03:00"),
        ("America/Havana", "2027-03-14T01:00-04:00"),
    ],
)
@pytest.mark.parametrize("expression", ["0 0 * * *", "@daily", "0 */6 * * *"])
def test_a_midnight_that_is_skipped_does_not_skip_the_day(
    expression: str, zone: str, expected: str
) -> None:
    spec = cron(expression, zone)
    day_before = local(zone, expected[:10]) - timedelta(hours=5)
    assert shown(spec, day_before, 1, zone) == [expected]


def test_half_an_hour_is_a_gap_and_a_fold_too() -> None:
    zone = "Australia/Lord_Howe"
    spec = cron("10 2 * * *", zone)
    assert shown(spec, local(zone, "2026-10-03T12:00"), 2, zone) == [
        "2026-10-04T02:30+11:00",
        "2026-10-05T02:10+11:00",
    ]
    spec = cron("40 1 * * *", zone)
    assert shown(spec, local(zone, "2027-04-03T12:00"), 2, zone) == [
        "2027-04-04T01:40+11:00",
        "2027-04-05T01:40+10:30",
    ]
    spec = cron("0 */2 * * *", zone)
    assert shown(spec, local(zone, "2027-04-04T00:30"), 2, zone) == [
        "2027-04-04T02:00+10:30",
        "2027-04-04T04:00+10:30",
    ]


@pytest.mark.parametrize("zone", ZONES)
def test_every_night_of_thirty_zones_a_daily_time_fires_once_a_day(zone: str) -> None:
    tz = ZoneInfo(zone)
    for day in local_days(zone, 2027):
        for minute_of_day in range(0, 24 * 60, 15):
            hour, minute = divmod(minute_of_day, 60)
            spec = cron(f"{minute} {hour} * * *", zone)
            wanted = datetime.combine(day, time(hour, minute), tz)
            found = next_after(spec, wanted.astimezone(UTC) - timedelta(hours=6))
            assert found is not None
            seen = found.astimezone(tz)
            if wanted.astimezone(UTC).astimezone(tz).replace(tzinfo=None) == wanted.replace(
                tzinfo=None
            ):
                assert seen == wanted
                assert seen.fold == 0
            else:
                # Skipped: the minute before the one that fired is on the other side of the gap.
                before = (found - timedelta(seconds=1)).astimezone(tz)
                assert before.utcoffset() != seen.utcoffset()
                assert before.replace(tzinfo=None) < wanted.replace(tzinfo=None)
                assert seen.replace(tzinfo=None) > wanted.replace(tzinfo=None)
            following = next_after(spec, found)
            assert following is not None
            assert timedelta(hours=21) < following - found < timedelta(hours=27)


@pytest.mark.parametrize("zone", ZONES)
def test_every_night_of_thirty_zones_every_quarter_of_an_hour_is_fifteen_minutes(
    zone: str,
) -> None:
    spec = cron("*/15 * * * *", zone)
    for day in local_days(zone, 2027):
        noon = local(zone, f"{day}T12:00") - timedelta(days=1)
        times = list(islice(upcoming(spec, noon), 24 * 4))
        assert {b - a for a, b in pairwise([noon, *times])} == {timedelta(minutes=15)}


# Properties.

_FIELD = st.sampled_from
EXPRESSIONS = st.builds(
    "{} {} {} {} {}".format,
    _FIELD(["*", "0", "30", "*/15", "5,35", "10-12", "59"]),
    _FIELD(["*", "0", "2", "23", "*/2", "1-3", "0-23", "9,17"]),
    _FIELD(["*", "1", "15", "31", "L", "28-31", "*/7"]),
    _FIELD(["*", "3", "10", "2,11", "*/3"]),
    _FIELD(["*", "0", "7", "1-5", "SUN", "MON#1", "5L"]),
)
INSTANTS = st.integers(1_767_225_600_000, 1_893_456_000_000).map(
    lambda ms: datetime.fromtimestamp(ms / 1000, UTC)
)


def specs(expressions: st.SearchStrategy[str]) -> st.SearchStrategy[Cron]:
    def read(pair: tuple[str, str]) -> Cron | None:
        try:
            return cron(*pair)
        except Refused:
            return None

    return (
        st.tuples(expressions, st.sampled_from(ZONES))
        .map(read)
        .filter(lambda spec: spec is not None)
    )


@settings(max_examples=200, deadline=None)
@given(spec=specs(EXPRESSIONS), instant=INSTANTS)
def test_occurrences_strictly_increase_and_match_their_fields_unless_a_gap_moved_them(
    spec: Cron, instant: datetime
) -> None:
    previous = instant
    for found in islice(upcoming(spec, instant), 20):
        assert found > previous
        assert found.tzinfo is UTC
        previous = found
        seen = found.astimezone(spec.zone)
        matches = (
            seen.second == 0
            and seen.minute in spec.minutes
            and seen.hour in spec.hours
            and seen.month in spec.months
            and spec.matches_day(seen.date())
        )
        before = (found - timedelta(seconds=1)).astimezone(spec.zone)
        at_the_end_of_a_gap = (seen.utcoffset() or timedelta()) > (
            before.utcoffset() or timedelta()
        )
        assert matches or at_the_end_of_a_gap


@settings(max_examples=100, deadline=None)
@given(spec=specs(EXPRESSIONS), instant=INSTANTS, minutes=st.integers(0, 10_000))
def test_counting_gives_what_walking_gives(spec: Cron, instant: datetime, minutes: int) -> None:
    until = instant + minutes * MINUTE
    walked = between(spec, instant, until, limit=20_000)
    assert count_through(spec, instant, until) == (
        len(walked),
        walked[-1] if walked else instant,
    )


@given(
    every_ms=st.integers(1_000, 10_000_000),
    anchor_ms=st.integers(0, 2_000_000_000_000),
    instant=INSTANTS,
    n=st.integers(0, 50),
)
def test_an_interval_never_drifts_from_its_anchor(
    every_ms: int, anchor_ms: int, instant: datetime, n: int
) -> None:
    spec = Every(every_ms, anchor_ms)
    walked = list(islice(upcoming(spec, instant), n + 1))
    for found in walked:
        offset = (found - datetime.fromtimestamp(0, UTC)) // timedelta(milliseconds=1) - anchor_ms
        assert offset >= 0
        assert offset % every_ms == 0
    assert walked[0] > instant
    assert {b - a for a, b in pairwise(walked)} <= {timedelta(milliseconds=every_ms)}
    assert count_through(spec, instant, walked[-1]) == (n + 1, walked[-1])


def test_counting_a_minutely_schedule_over_ten_years_does_not_walk_it() -> None:
    count, last = count_through(cron("* * * * *"), START, START.replace(year=2036))
    assert count == 3652 * 24 * 60
    assert last == START.replace(year=2036)


# Intervals, one-offs and documents.


@pytest.mark.parametrize("interval", [timedelta(0), timedelta(seconds=-5), timedelta(seconds=0.5)])
def test_an_interval_below_a_second_is_refused(interval: timedelta) -> None:
    with pytest.raises(Refused, match="write 1s or longer"):
        every(interval)


def test_an_interval_whose_anchor_is_ahead_begins_there() -> None:
    spec = every(timedelta(hours=1), START)
    assert next_after(spec, START - timedelta(days=1)) == START
    assert next_after(spec, START) == START + timedelta(hours=1)


def test_a_one_off_happens_once() -> None:
    spec = At(1_767_225_600_000)
    assert next_after(spec, START - MINUTE) == START
    assert next_after(spec, START) is None
    assert count_through(spec, START - MINUTE, START) == (1, START)
    assert count_through(spec, START, START + MINUTE) == (0, START)


def test_a_late_one_off_still_has_its_occurrence() -> None:
    assert first(At(1_767_225_600_000), START + timedelta(days=1)) == START
    assert first(cron("@daily"), START) == START + timedelta(days=1)


@pytest.mark.parametrize(
    "document",
    [
        {"cron": "0 9 * * 1-5", "tz": "Europe/Berlin"},
        {"every_s": 60, "anchor_ms": 1_767_225_600_000},
        {"every_s": 1.5, "anchor_ms": 0},
        {"at_ms": 1_767_225_600_000},
    ],
)
def test_a_document_survives_a_round_trip(document: dict[str, object]) -> None:
    assert spec_document(parse_spec(document)) == document


def test_zone_and_anchor_may_be_left_out() -> None:
    assert parse_spec({"cron": "@daily"}) == cron("@daily", "UTC")
    assert parse_spec({"every_s": 60}) == Every(60_000, 0)


@pytest.mark.parametrize(
    "document",
    [
        None,
        [],
        "0 9 * * *",
        {},
        {"cron": 5},
        {"cron": "@daily", "tz": 5},
        {"cron": "@daily", "at_ms": 5},
        {"cron": "@daily", "zone": "UTC"},
        {"every_s": "60"},
        {"every_s": 0},
        {"every_s": -1},
        {"every_s": float("nan")},
        {"every_s": float("inf")},
        {"every_s": True, "tz": "UTC"},
        {"every_s": 60, "anchor_ms": "now"},
        {"at_ms": 1.5},
        {"at_ms": True},
        {"at_ms": -1},
        {"at_ms": 10**18},
        {"at_ms": None},
    ],
)
def test_a_document_that_says_nothing_certain_is_refused(document: object) -> None:
    with pytest.raises(Refused):
        parse_spec(document)
