"""The splitter: what a reader would expect, and what holds for every text."""

import re
import time
from collections.abc import Callable
from html import escape

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from worker.platforms import platforms
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
        # The whole code stays together where it can, and is not begun for nothing.
        ("Some prose.\n```\na\n\nb\n```\nmore", 22, ["Some prose.", "```\na\n\nb\n```\nmore"]),
        ("before it\n```py\nlong_line = 1\n```", 24, ["before it", "```py\nlong_line = 1\n```"]),
        # Code is read by how far in it stands, also behind an empty line.
        (
            "```\nif a:\n\n    b = 1\n    c = 2\n```",
            26,
            ["```\nif a:\n\n    b = 1\n```", "```\n    c = 2\n```"],
        ),
        # Code in a list.
        (
            "    ```py\n    a = 1\n    bb = 22\n    ccc = 333\n    ```",
            40,
            [
                "    ```py\n    a = 1\n    bb = 22\n    ```",
                "    ```py\n    ccc = 333\n    ```",
            ],
        ),
        # What looks like a fence in a block's lines is none.
        ("```\n    ```\nab\n```\nafter", 22, ["```\n    ```\nab\n```", "after"]),
        # What is no fence within its line must not become one.
        ("words and then ``` is a fence", 16, ["words and", "then ``` is a", "fence"]),
        ("see [a](https://e.org/ 'its title')", 33, ["see", "[a](https://e.org/ 'its title')"]),
        ("see [![i](a.png)](https://e.org/)", 30, ["see", "[![i](a.png)](https://e.org/)"]),
        ("see [w](https://e.org/a_(b))", 25, ["see", "[w](https://e.org/a_(b))"]),
        ("write to MAILTO:bob@example.org", 30, ["write to", "MAILTO:bob@example.org"]),
        # A message of what nobody sees is refused by some platforms.
        ("abcdefghij\n\n\u200b", 10, ["abcdefghi", "j\n\n\u200b"]),
        ("今日は。元気ですか。", 6, ["今日は。", "元気ですか。"]),
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


@pytest.mark.parametrize("name", [n for n, p in platforms().items() if p.capability.splits])
def test_every_platform_gets_parts_that_it_takes(name: str) -> None:
    limit, measure = platforms()[name].capability.max_length, platforms()[name].capability.measure
    text = f"{FAMILY} <b>Hüte & Schirme</b> \U0001d11e\x01 https://example.org/?a=1&b=2.\n" * (
        limit // 20
    )
    parts = split(text, limit=limit, measure=measure)
    assert len(parts) > 1
    assert all(limit / 2 < measure(part) <= limit for part in parts[:-1])
    assert words(parts) == words([text])


#: Each was slow once, or would be with a careless pattern.
LONG = {
    "prose": "The quick brown fox. " * 4_762,
    "code spans": "`a` " * 25_000,
    "one word": "x" * 100_000,
    "one block": "```\n" + "y\n" * 49_998,
    "blocks": "```\na\n```\n" * 9_000,
    "fences": "```a\n" * 20_000,
    "brackets": "[" * 100_000,
    "half links": "[a](" * 25_000,
    "backticks": "`a``b" * 20_000,
    "space": "x" + " " * 99_000 + "y" * 3_000,
    "line ends": "x" + "\r\n" * 49_000 + "y" * 3_000,
    "empty lines in a block": "```\nx" + "\n" * 99_000 + "y\n```",
    "flags": "🇩🇪" * 50_000,
    "one grapheme": "e" + "\u0301" * 100_000,
    "one link": "https://example.org/" + "a" * 100_000,
    "links": "[l](https://example.org/x)" * 4_000,
    "unseen": "\u200b" * 100_000,
}


@pytest.mark.parametrize("kind", LONG)
def test_a_hundred_thousand_characters_are_cut_in_no_time(kind: str) -> None:
    for measure in MEASURES.values():
        begun = time.process_time()
        parts = split(LONG[kind], limit=2_000, measure=measure)
        assert time.process_time() - begun < 3
        assert all(measure(part) <= 2_000 for part in parts)


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
