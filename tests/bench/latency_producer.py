"""Enqueue single messages with pauses; prints one JSON line of [text, commit time] pairs.

Usage: latency_producer.py FIRST COUNT PAUSE_S

Times are seconds of the machine's monotonic clock, taken when the connection that committed
goes back to its pool: after the commit, before anybody is told of it.
"""

import sys
import time

import orjson
from sqlalchemy import event
from sqlalchemy.pool import Pool

from scheduler import enqueue


def main(first: int, count: int, pause_s: float) -> None:
    checked_in: list[float] = []

    @event.listens_for(Pool, "checkin")
    def note(_connection: object, _record: object) -> None:
        checked_in.append(time.monotonic())

    committed: list[tuple[str, float]] = []
    for n in range(first, first + count):
        text = f"{n:08}"
        checked_in.clear()
        enqueue(to=f"telegram:{10_000_000 + n}", text=text)
        committed.append((text, checked_in[0]))
        time.sleep(pause_s)
    sys.stdout.write(orjson.dumps(committed).decode() + "\n")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
