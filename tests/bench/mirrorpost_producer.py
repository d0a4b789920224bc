"""Enqueue a broadcast through Mirrorpost's own API; prints the CPU seconds that it took.

Usage: mirrorpost_producer.py FIRST COUNT CHATS TEXT_LENGTH

One text goes to many chats, so `CHATS` at a time are one broadcast.
"""

import sys
from resource import RUSAGE_SELF, getrusage

from scheduler import broadcast


def main(first: int, count: int, chats: int, text_length: int) -> None:
    before = getrusage(RUSAGE_SELF)
    for at in range(first, first + count, chats):
        numbers = range(at, min(at + chats, first + count))
        broadcast(
            to=[f"telegram:{10_000_000 + n % chats}" for n in numbers],
            text=f"{at:0{text_length}}",
            id=f"bench-{at}",
        )
    after = getrusage(RUSAGE_SELF)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    sys.stdout.write(f"{cpu_s}\n")


if __name__ == "__main__":
    first, count, chats, text_length = map(int, sys.argv[1:])
    main(first, count, chats, text_length)
