"""Store and enqueue messages the usual way; prints the CPU seconds that it took.

Usage: usual_producer.py FIRST COUNT CHATS TEXT_LENGTH
"""

import sys
from resource import RUSAGE_SELF, getrusage

from sqlalchemy.orm import Session

from tests.bench.usual_app import Base, Message, engine, send


def main(first: int, count: int, chats: int, text_length: int) -> None:
    Base.metadata.create_all(engine())
    before = getrusage(RUSAGE_SELF)
    numbers = range(first, first + count)
    with Session(engine()) as session:
        session.add_all(
            Message(
                id=n + 1, chat_id=10_000_000 + n % chats, text=f"{n:0{text_length}}", state="queued"
            )
            for n in numbers
        )
        session.commit()
    for n in numbers:
        send.delay(n + 1)
    after = getrusage(RUSAGE_SELF)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    sys.stdout.write(f"{cpu_s}\n")


if __name__ == "__main__":
    first, count, chats, text_length = map(int, sys.argv[1:])
    main(first, count, chats, text_length)
