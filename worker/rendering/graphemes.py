"""Graphemes: what a person takes for one character, and which of them are seen. Pure."""

import regex

#: Code points in which graphemes are looked for at a time: in a row of flags each search
#: looks back over all of them.
_WINDOW = 256

_GRAPHEME = regex.compile(r"\X")
_SEEN = regex.compile(r"[^\s\p{Cc}\p{Cf}\p{Default_Ignorable_Code_Point}]")


def grapheme_ends(text: str, start: int, end: int) -> range | dict[int, None]:
    """Give the places up to `end`, in order, where graphemes end that follow `start`."""
    if end < len(text) and text[start : end + 1].isascii() and "\r" not in text[start : end + 1]:
        return range(start + 1, end + 1)
    ends: dict[int, None] = {}
    at, size = start, _WINDOW
    while at < end:
        # One more than asked for, which may belong to the last.
        window = text[at : min(at + size, end + 1)]
        found = [at + match.end() for match in _GRAPHEME.finditer(window)]
        if at + len(window) < len(text):
            # It may go on behind the window.
            found.pop()
        ends.update(dict.fromkeys(found))
        if at + len(window) > end or at + len(window) == len(text):
            break
        at, size = (found[-1], _WINDOW) if found else (at, size * 2)
    return ends


def first_seen(text: str, start: int = 0) -> int:
    """Give where the first character is that a person sees, the text's length without one."""
    found = _SEEN.search(text, start)
    return len(text) if found is None else int(found.start())
