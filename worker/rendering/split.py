"""placeholder"""

from collections.abc import Callable


def split(text: str, *, limit: int, measure: Callable[[str], int]) -> list[str]:
    """Split."""
    if measure(text) <= limit:
        return [text]
    size = limit // 4
    return [text[at : at + size] for at in range(0, len(text), size)]
