"""Fences: the code blocks of a text, as Markdown and the chat platforms read them. Pure."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from worker.rendering.whole import Span

#: Spaces by which a closing line may be farther in than its opening line.
_FARTHER_IN = 3

#: Indented as far as its list may be.
_FENCE = re.compile(r"^(?P<indent>[^\S\n]*)(?P<mark>`{3,}|~{3,})(?P<info>[^\n]*)$", re.MULTILINE)
#: What is or may become a fence, with as much as decides which: a backtick behind it makes it
#: none. Looks at a row of spaces once, which keeps the search linear.
_MARK = re.compile(r"(?<![^\S\n])[^\S\n]*(?:`{3,}(?:[^`\n]*`)?|~{3,})[^\S\n]*\S?")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced code block.

    Attributes:
        start: Where its opening line begins.
        inside: Where its first line begins.
        closing: Where its closing line begins; the text's end when it has none.
        end: Where its closing line ends.
        opening: The opening line.
        mark: A line that closes it, and without an info string opens it.
    """

    start: int
    inside: int
    closing: int
    end: int
    opening: str
    mark: str


def blocks(text: str) -> Iterator[Block]:
    """Find the fenced code blocks; one that is never closed goes on to the end."""
    opened: re.Match[str] | None = None
    for line in _FENCE.finditer(text):
        if opened is None:
            if not (line["mark"][0] == "`" and "`" in line["info"]):
                opened = line
        elif _closes(line, opened):
            yield _block(opened, line.start(), line.end())
            opened = None
    if opened is not None:
        yield _block(opened, len(text), len(text))


def marks(text: str) -> Iterator[Span]:
    """Give the spans in which a cut would make a fence of what is none, or the other way."""
    for match in _MARK.finditer(text):
        starts_line = match.start() == 0 or text[match.start() - 1] == "\n"
        # Behind other text it is no fence, and would be one at the beginning of a part.
        yield match.start() - (not starts_line), match.end()


def _closes(line: re.Match[str], opened: re.Match[str]) -> bool:
    return (
        line["mark"][0] == opened["mark"][0]
        and len(line["mark"]) >= len(opened["mark"])
        and len(line["indent"]) <= len(opened["indent"]) + _FARTHER_IN
        and not line["info"].strip()
    )


def _block(opened: re.Match[str], closing: int, end: int) -> Block:
    inside = min(opened.end() + 1, end)
    mark = opened["indent"] + opened["mark"]
    return Block(opened.start(), inside, closing, end, opened[0].rstrip(), mark)
