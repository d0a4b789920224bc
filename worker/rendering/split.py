"""Split: a text that is longer than a platform takes, in parts that each say something.

Pure and deterministic: a delivery goes on with part 3 after a crash, so the same text has the
same parts always. A cut goes where a reader would make it, never into a grapheme, a link or
the lines of a code fence; a block that is cut is closed and opened again. The time it takes
grows with the text and no faster, whatever is in it: anybody may have written it.
"""

import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache

from worker.platforms.base import Capability
from worker.rendering.fences import Block, blocks, marks
from worker.rendering.graphemes import first_seen, grapheme_ends
from worker.rendering.whole import Span, Whole, code_spans, links

Measure = Callable[[str], int]

#: A worse place to cut is taken before a part gets shorter than this share of what would fit.
_SHORTEST = 0.5
#: A fence's info string is repeated only when it leaves most of a part to the code.
_LONGEST_OPENING = 0.25
#: More white space than this share of a part is not carried into the next.
_LONGEST_SPACE = 0.25

_SPACE = re.compile(r"\s+")
_BLANK_LINES = re.compile(r"(?:[^\S\n]*\n)+")
_PARAGRAPH = re.compile(r"\n(?:[^\S\n]*\n)+")
_LINE = re.compile(r"\n")
_SENTENCE = re.compile(r"[.!?…][\"')\]»”]*\s+|[。！？]")  # noqa: RUF001 - Chinese and Japanese
#: Where a reader would cut, the best first, and whether a code block must be whole for it;
#: the cut is at the end of the match.
_BREAKS = (
    (_PARAGRAPH, True),
    (_LINE, True),
    (_PARAGRAPH, False),
    (_LINE, False),
    (_SENTENCE, False),
    (_SPACE, False),
)


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
    return list(_parts_of_long(text, limit, measure))


def parts_of(text: str, capability: Capability) -> Sequence[str]:
    """Give the messages in which a platform gets a text; of one that does not split, one."""
    if not capability.splits:
        return (text,)
    return split(text, limit=capability.max_length, measure=capability.measure)


@lru_cache(maxsize=8)
def _parts_of_long(text: str, limit: int, measure: Measure) -> tuple[str, ...]:
    """Split a text that is too long; kept, because each of its parts is sent from the whole."""
    return tuple(part for part in _parts(_Text(text, limit, measure)) if part.strip())


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
        found = list(blocks(text))
        # Where the fences alone would fill a part, code is cut like any other text.
        self._blocks = [b for b in found if measure(f"{b.mark}\n{b.mark}") <= limit // 2]
        self._starts = [block.start for block in self._blocks]
        whole_links = [span for span in links(text) if self._can_be_whole(span)]
        other = [span for span in self._uncuttable(found) if self._can_be_whole(span)]
        self._whole, self._links = Whole(whole_links + other), Whole(whole_links)
        self._last_seen = len(text) - 1 - first_seen(text[::-1])

    def _can_be_whole(self, span: Span) -> bool:
        return self._measure(self.text[slice(*span)]) <= self._limit

    def _uncuttable(self, found: Iterable[Block]) -> Iterator[Span]:
        """Give what beside links is not cut where that can be avoided."""
        yield from code_spans(self.text)
        yield from marks(self.text)
        yield from ((b.start, b.end) for b in found if self._block(b.inside) is not b)
        for block in self._blocks:
            # From before an opening line into what it opens, and around a closing one.
            yield block.start, min(first_seen(self.text, block.inside) + 1, block.end)
            yield max(block.inside, block.closing - 1), block.end

    def part(self, start: int, end: int) -> str:
        """Give a part as it is sent, with the fences that it needs."""
        body = self.text[start:end]
        first, last = self._block(start), self._block(end)
        if first is not None:
            body = f"{self._opening(first)}\n{body}"
        if end < len(self.text):
            body = body.rstrip()
        return body if last is None else f"{body}\n{last.mark}"

    def _opening(self, block: Block) -> str:
        short = self._measure(block.opening) <= self._limit * _LONGEST_OPENING
        return block.opening if short else block.mark

    def _block(self, at: int) -> Block | None:
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
        latest = farthest
        if start < self._last_seen < farthest and self.text[farthest:].strip():
            # The rest has nothing that a person sees, and platforms refuse such a message.
            latest = self._last_seen
        earliest = first_seen(self.text, start) + 1
        middle = max(earliest, start + int((latest - start) * _SHORTEST))
        graphemes = grapheme_ends(self.text, start, latest)
        for pattern, whole_blocks in _BREAKS:
            found = [match.end() for match in pattern.finditer(self.text, middle - 1, latest)]
            allowed = (
                end
                for end in reversed(found)
                if end >= middle
                and end in graphemes
                and not self._whole.has_inside(end)
                and not (whole_blocks and self._block(end))
            )
            if end := self._first_that_fits(start, allowed):
                return end
        ends = [end for end in graphemes if end >= earliest]
        for whole in (self._whole, self._links, Whole(())):
            outside = (end for end in reversed(ends) if not whole.has_inside(end))
            if end := self._first_that_fits(start, outside):
                return end
        # One grapheme is over the limit: only code points are left to cut between.
        return max(start + 1, farthest)

    def _first_that_fits(self, start: int, ends: Iterable[int]) -> int | None:
        return next((end for end in ends if self._fits(start, end)), None)

    def _farthest(self, start: int) -> int:
        """Give the farthest end that the limit allows."""
        low, high = start, min(start + max(1, self._limit), len(self.text))
        while high < len(self.text) and self._fits(start, high):
            low, high = high, min(2 * high - start, len(self.text))
        if self._fits(start, high):
            return high
        while low + 1 < high:
            middle = (low + high) // 2
            low, high = (middle, high) if self._fits(start, middle) else (low, middle)
        return low

    def _fits(self, start: int, end: int) -> bool:
        return self._measure(self.part(start, end)) <= self._limit

    def after(self, cut: int) -> int:
        """Give where the next part begins: past the white space of the cut."""
        space = _past(_SPACE, self.text, cut)
        block = self._block(cut)
        if block is not None and space >= block.closing:
            # Nothing is left of what the part has closed.
            return self.after(block.end)
        if self._measure(self.text[cut:space]) > self._limit * _LONGEST_SPACE:
            return space
        # What a line begins with is more than white space: a list or code is read by it.
        return _past(_BLANK_LINES, self.text, cut)


def _past(pattern: re.Pattern[str], text: str, at: int) -> int:
    found = pattern.match(text, at)
    return at if found is None else found.end()
