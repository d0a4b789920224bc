"""The splitter: what a reader would expect, and what holds for every text."""

import re
import time
from collections.abc import Callable
from html import escape

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from worker.platforms.base import utf8_bytes, utf16_units
from worker.platforms.matrix import json_bytes
from worker.rendering.split import split

FAMILY = "👨‍👩‍👧‍👦"
MEASURES: dict[str, Callable[[str], int]] = {
    "code points": len,
    "utf-16": utf16_units,
    "bytes": utf8_bytes,
    "escaped": lambda text: len(escape(text, quote=False)),
    "json": json_bytes,
}


def words(parts: list[str]) -> str:
    return re.sub(r"\s+", "", "".join(parts))


@pytest.mark.parametrize(
    ("text", "limit", "parts"),
    [
        ("fits", 4, ["fits"]),
        ("  kept as it is \n", 20, ["  kept as it is \n"]),
        ("one two three", 8, ["one two", "three"]),
        ("First one.\n\nSecond one is longer.", 24, ["First one.", "Second one is longer."]),
        ("A line\nand another", 12, ["A line", "and another"]),
        ("Stop. Then go on and on", 15, ["Stop. Then go", "on and on"]),
        ("It ends here. And goes on.", 20, ["It ends here.", "And goes on."]),
        ("abcdefghij", 4, ["abcd", "efgh", "ij"]),
        ("one\r\ntwo\r\nthree", 9, ["one\r\ntwo", "three"]),
        ("see https://example.org/a now", 24, ["see", "https://example.org/a", "now"]),
        ("x [a label](https://e.org/)", 26, ["x", "[a label](https://e.org/)"]),
        ("say `a b c` to it", 9, ["say", "`a b c`", "to it"]),
        (
            "```py\nab = 1\ncd = 2\nef = 3\n```",
            24,
            ["```py\nab = 1\ncd = 2\n```", "```py\nef = 3\n```"],
        ),
        ("~~~\n```\nab\n~~~\nafter", 14, ["~~~\n```\nab\n~~~", "after"]),
        (" " * 30 + "x", 10, ["x"]),
        ("word\n```\n```\n\nmore", 9, ["word", "```\n```", "more"]),
    ],
)
def test_a_text_is_cut_where_a_reader_would(text: str, limit: int, parts: list[str]) -> None:
    assert split(text, limit=limit, measure=len) == parts


def test_a_grapheme_is_whole_in_every_unit() -> None:
    flags = "🇩🇪🇫🇷" * 40
    for text in (FAMILY * 50, flags, "e\u0301" * 200, "a\r\n" * 100):
        for measure in MEASURES.values():
            parts = split(text, limit=50, measure=measure)
            assert [g for part in parts for g in regex.findall(r"\X", part) if g.strip()] == [
                g for g in regex.findall(r"\X", text) if g.strip()
            ]


def test_a_grapheme_over_the_limit_is_cut_all_the_same() -> None:
    text = "e" + "\u0301" * 99
    parts = split(text, limit=10, measure=len)
    assert "".join(parts) == text
    assert all(len(part) <= 10 for part in parts)


def test_a_link_over_the_limit_is_cut_all_the_same() -> None:
    link = "https://example.org/" + "a" * 90
    assert "".join(split(link, limit=40, measure=len)) == link


@pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)
def test_a_hundred_thousand_characters_are_cut_in_no_time(measure: Callable[[str], int]) -> None:
    texts = (
        "The quick brown fox. " * 4_762,
        "`a` " * 25_000,
        "x" * 100_000,
        "```\n" + "y\n" * 49_998,
    )
    for text in texts:
        begun = time.perf_counter()
        parts = split(text, limit=2_000, measure=measure)
        assert time.perf_counter() - begun < 10
        assert len(parts) < 110


PIECES = st.sampled_from(
    [
        *("word", "longer-word-of-some-length", "Sentence.", "!", "<&>", "`code span`", "é", "🇩🇪"),
        *(
            FAMILY,
            "e\u0301",
            "\u0301",
            "\u200d",
            "https://example.org/path?q=1 ",
            "[label](https://e.org/x)",
        ),
        *(" ", "  ", "\n", "\n\n", "\r\n", "\t"),
    ]
)
FENCES = st.builds(
    lambda mark, info, lines: f"\n{mark}{info}\n" + "".join(f"{x}\n" for x in lines) + f"{mark}\n",
    st.sampled_from(["```", "~~~", "````"]),
    st.sampled_from(["", "python", "c++"]),
    st.lists(st.sampled_from(["x = 1", "  indented()", "", "- item"]), max_size=12),
)
TEXTS = st.lists(st.one_of(PIECES, PIECES, PIECES, FENCES), max_size=60).map("".join)
ANY = st.one_of(TEXTS, st.text(max_size=400))
LIMITS = st.integers(48, 200)
NAMES = st.sampled_from(sorted(MEASURES))


def fences(text: str) -> list[str]:
    return re.findall(r"^ {0,3}(?:```+|~~~+)[^`\n]*$", text, re.MULTILINE)


@given(ANY, LIMITS, NAMES)
def test_no_part_is_over_the_limit_or_says_nothing(text: str, limit: int, name: str) -> None:
    measure = MEASURES[name]
    parts = split(text, limit=limit, measure=measure)
    if measure(text) > limit:
        assert all(measure(part) <= limit and part.strip() for part in parts)
    else:
        assert parts == [text]


@given(st.text(st.characters(codec="utf-8", exclude_characters="`~"), max_size=400), LIMITS, NAMES)
def test_nothing_is_lost_but_white_space(text: str, limit: int, name: str) -> None:
    assert words(split(text, limit=limit, measure=MEASURES[name])) == words([text])


@given(TEXTS, LIMITS, NAMES)
def test_nothing_is_lost_beside_the_fences_that_were_added(
    text: str, limit: int, name: str
) -> None:
    parts = split(text, limit=limit, measure=MEASURES[name])

    def bare(text: str) -> str:
        return words([line for line in text.splitlines(keepends=True) if not fences(line)])

    assert "".join(bare(part) for part in parts) == bare(text)


@given(TEXTS, LIMITS, NAMES)
def test_every_fence_is_closed_in_its_part(text: str, limit: int, name: str) -> None:
    for part in split(text, limit=limit, measure=MEASURES[name]):
        opened = None
        for line in fences(part):
            mark = re.match(r" *([`~]+)", line)
            assert mark is not None
            if opened is None:
                opened = mark[1]
            elif (
                line.strip() == mark[1] and mark[1][0] == opened[0] and len(mark[1]) >= len(opened)
            ):
                opened = None
        assert opened is None


@given(TEXTS, LIMITS, NAMES)
def test_no_link_and_no_grapheme_is_cut(text: str, limit: int, name: str) -> None:
    parts = split(text, limit=limit, measure=MEASURES[name])
    for link in ("https://example.org/path?q=1", "[label](https://e.org/x)"):
        assert sum(part.count(link) for part in parts) == text.count(link)
    assert sum(part.count(FAMILY) for part in parts) == text.count(FAMILY)


@given(ANY, LIMITS, NAMES)
def test_the_same_text_has_the_same_parts(text: str, limit: int, name: str) -> None:
    measure = MEASURES[name]
    assert split(text, limit=limit, measure=measure) == split(text, limit=limit, measure=measure)
