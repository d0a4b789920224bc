"""Split: a text that is longer than a platform takes, in parts that each say something.

Pure and deterministic: a delivery goes on with part 3 after a crash, so the same text has the
same parts always. A cut goes where a reader would make it, never into a grapheme, a link or
the lines of a code fence; a block that is cut is closed and opened again.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import regex

Measure = Callable[[str], int]

#: A worse place to cut is taken before a part gets shorter than this share of what would fit.
_SHORTEST = 0.5
#: A fence's info string is repeated only when it leaves most of a part to the code.
_LONGEST_OPENING = 0.25

_GRAPHEME = regex.compile(r"\X")
_FENCE = re.compile(r"^ {0,3}(?P<mark>`{3,}|~{3,})(?P<info>[^\n]*)$", re.MULTILINE)
#: What is no link any more when it is cut: Markdown's with its label, and bare ones.
#: Bounded, so that a text of nothing but brackets costs no more than another.
_LINK = re.compile(
    r"!?\[[^\[\]\n]{0,300}\]\([^()\s]{0,2000}\)|<?(?:https?://|mailto:)[^\s<>]{1,4000}>?"
)
_CODE_SPAN = re.compile(r"(?<!`)(`{1,2})(?!`)[^`\n]{1,1000}\1(?!`)")
#: Where a reader would cut, the best first; the cut is at the end of the match.
_BREAKS = tuple(
    re.compile(pattern)
    for pattern in (r"\n[^\S\n]*\n\s*", r"\r?\n", r"[.!?…][\"')\]»”]*\s+", r"\s+")
)


@dataclass(frozen=True, slots=True)
class _Block:
    """A fenced code block: its opening line, its lines, its closing line."""

    start: int
    inside: int
    closing: int
    end: int
    opening: str
    mark: str


def split(text: str, *, limit: int, measure: Measure) -> list[str]:
    """Give the parts of a text, in order; a text that fits is one part, unchanged.

    Joined, the parts are the text but for white space at the cuts and the fences that were
    closed and opened again. Only what is over the limit by itself is cut inside.

    Args:
        limit: The most that `measure` may give for a part.
        measure: Gives a length in the platform's own unit; never less for a longer text.
    """
    if measure(text) <= limit:
        return [text]
    return [part for part in _parts(_Text(text, limit, measure)) if part.strip()]


def _parts(text: "_Text") -> Iterator[str]:
    at = 0
    while at < len(text.text):
        cut = text.cut(at)
        yield text.part(at, cut)
        at = text.after(cut)


class _Text:
    """A text with what must not be cut in it."""

    def __init__(self, text: str, limit: int, measure: Measure) -> None:
        self.text = text
        self._limit = limit
        self._measure = measure
        self._blocks = list(_blocks(text))
        self._starts = [block.start for block in self._blocks]
        whole = (span for span in self._uncuttable() if measure(text[slice(*span)]) <= limit)
        self._whole = _merged(whole)
        self._whole_starts = [start for start, _ in self._whole]

    def _uncuttable(self) -> Iterator[tuple[int, int]]:
        for pattern in (_LINK, _CODE_SPAN):
            yield from (match.span() for match in pattern.finditer(self.text))
        for block in self._blocks:
            if block.inside >= block.closing:
                # A block without lines.
                yield block.start, block.end
                continue
            # From before an opening line into its first line, and around a closing one.
            yield block.start, block.inside
            yield block.closing - 1, block.end

    def part(self, start: int, end: int) -> str:
        """Give a part as it is sent, with the fences that it needs."""
        body = self.text[start:end]
        first, last = self._block(start), self._block(end)
        if first is not None:
            body = f"{self._opening(first)}\n{body}"
        if end < len(self.text):
            body = body.rstrip()
        return body if last is None else f"{body}\n{last.mark}"

    def _opening(self, block: _Block) -> str:
        short = self._measure(block.opening) <= self._limit * _LONGEST_OPENING
        return block.opening if short else block.mark

    def _block(self, at: int) -> _Block | None:
        """Give the block whose lines a cut at `at` would part."""
        index = bisect_right(self._starts, at) - 1
        if index < 0:
            return None
        block = self._blocks[index]
        return block if block.inside <= at < block.closing else None

    def cut(self, start: int) -> int:
        """Give where the part that begins at `start` ends."""
        farthest = self._farthest(start)
        if farthest == len(self.text):
            return farthest
        ends = [match.end() for match in _GRAPHEME.finditer(self.text, start, farthest + 1)]
        # The last one may go on behind what was looked at.
        ends = [end for end in ends if end <= farthest]
        allowed = {end for end in ends if not self._is_inside(end)}
        earliest = start + int((farthest - start) * _SHORTEST)
        for pattern in _BREAKS:
            found = [
                match.end()
                for match in pattern.finditer(self.text, start, farthest)
                if match.end() >= earliest and match.end() in allowed
            ]
            if end := self._last_that_fits(start, found):
                return end
        for candidates in (sorted(allowed), ends):
            if end := self._last_that_fits(start, candidates):
                return end
        # One grapheme is over the limit: only code points are left to cut between.
        return max(start + 1, farthest)

    def _last_that_fits(self, start: int, ends: list[int]) -> int | None:
        fits = (e for e in reversed(ends) if self._measure(self.part(start, e)) <= self._limit)
        return next((end for end in fits if self.text[start:end].strip()), None)

    def _farthest(self, start: int) -> int:
        """Give the farthest end that the limit allows."""
        step = max(1, self._limit)
        low, high = start, min(start + step, len(self.text))
        while high < len(self.text) and self._fits(start, high):
            low, high = high, min(high + step, len(self.text))
        if self._fits(start, high):
            return high
        while low + 1 < high:
            middle = (low + high) // 2
            low, high = (middle, high) if self._fits(start, middle) else (low, middle)
        return low

    def _fits(self, start: int, end: int) -> bool:
        return self._measure(self.part(start, end)) <= self._limit

    def _is_inside(self, at: int) -> bool:
        """Tell whether a cut would part what belongs together."""
        index = bisect_left(self._whole_starts, at) - 1
        return index >= 0 and self._whole[index][1] > at

    def after(self, cut: int) -> int:
        """Give where the next part begins: past the white space of the cut."""
        if self._block(cut) is not None:
            return cut
        rest = re.compile(r"(?:[^\S\n]*\n)+").match(self.text, cut)
        return cut if rest is None else rest.end()


def _merged(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Join the spans that overlap, such as a link in a code span."""
    merged: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if merged and start < merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def _blocks(text: str) -> Iterator[_Block]:
    """Find the fenced code blocks; one that is never closed goes on to the end."""
    opened: re.Match[str] | None = None
    for line in _FENCE.finditer(text):
        mark, info = line["mark"], line["info"].strip()
        if opened is None:
            if not (mark[0] == "`" and "`" in info):
                opened = line
        elif mark[0] == opened["mark"][0] and len(mark) >= len(opened["mark"]) and not info:
            yield _block(opened, line.start(), line.end())
            opened = None
    if opened is not None:
        yield _block(opened, len(text), len(text))


def _block(opened: re.Match[str], closing: int, end: int) -> _Block:
    return _Block(opened.start(), opened.end() + 1, closing, end, opened[0].strip(), opened["mark"])
