"""Whole: what in a text means something else when it is cut. Pure."""

import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator

Span = tuple[int, int]

#: What is no link any more when it is cut: Markdown's with its label, and bare ones. Brackets
#: are followed one level deep, which is enough for real links and keeps the search linear.
_LINK = re.compile(
    r"!?\[(?:[^\[\]\n]|\[[^\[\]\n]*\](?:\([^()\s]*\))?)*+\]"
    r"\((?:[^()\s]|\([^()\s]*\))*+(?:[^\S\n]+(?:\"[^\"\n]*\"|'[^'\n]*'))?\)"
    r"|<?(?i:https?://|mailto:)[^\s<>]+>?"
)
_CODE_SPAN = re.compile(r"(?<!`)(`{1,3})(?!`)[^`\n]+\1(?!`)")


def links(text: str) -> Iterator[Span]:
    """Give where links stand."""
    return (match.span() for match in _LINK.finditer(text))


def code_spans(text: str) -> Iterator[Span]:
    """Give where code stands within a line."""
    return (match.span() for match in _CODE_SPAN.finditer(text))


class Whole:
    """Spans that stay whole: those that overlap, such as a link in code, as one."""

    def __init__(self, spans: Iterable[Span]) -> None:
        self._spans: list[Span] = []
        for start, end in sorted(spans):
            if self._spans and start < self._spans[-1][1]:
                self._spans[-1] = (self._spans[-1][0], max(end, self._spans[-1][1]))
            else:
                self._spans.append((start, end))
        self._starts = [start for start, _ in self._spans]

    def has_inside(self, at: int) -> bool:
        """Tell whether a cut would part what belongs together."""
        index = bisect_left(self._starts, at) - 1
        return index >= 0 and self._spans[index][1] > at
