"""Lines of a file that somebody else made, none of which may fill the memory.

Called by what reads audiences and people.
"""

from collections.abc import Iterator
from typing import IO, AnyStr

from worker.errors import Refused

#: Characters, or bytes, of a line: far over any member with its attributes.
MOST = 1_000_000


def bounded_lines(file: IO[AnyStr]) -> Iterator[AnyStr]:
    """Give a file's lines with their ends.

    Raises:
        Refused: One is too long to be a line.
    """
    number = 0
    while line := file.readline(MOST + 1):
        number += 1
        if len(line) > MOST:
            raise Refused(
                f"line {number} is longer than {MOST:,} characters: write one member a line"
            )
        yield line
