"""What the limiter takes of a worker's CPU for a message, beside all that a message takes.

Example: python -m tests.bench.limiter
"""

import asyncio
import resource
import sys
from statistics import median

from redis.asyncio import Redis
from rich.console import Console
from rich.table import Table

from tests.bench.loopback import running_platform
from tests.bench.machine import describe, pin
from tests.bench.measure import Surroundings, chat
from tests.bench.mirrorpost import MIRRORPOST_POSTGRESQL, MIRRORPOST_SQLITE
from tests.isolation import forget_foreign_variables
from tests.servers import PostgresServer, RedisServer, flush_redis
from worker.lanes import Lane
from worker.limiter import Ask, Limiter

_MESSAGES = 5_000
_RUNS = 3
#: Messages that are asked for at once: those of a worker that has much to do, and of one that
#: goes at the pace of one bot.
_BATCHES = (100, 10, 1)


async def _ask_all(url: str, size: int) -> float:
    """Ask for every message; give microseconds of CPU a message."""
    async with Redis.from_url(url) as redis:
        limiter = Limiter(redis, share=None)
        asks = [Ask("telegram", "", str(chat(n)), Lane.BROADCAST) for n in range(_MESSAGES + size)]
        # The connection and the script are there before.
        await limiter.permit(asks[:size])
        before = _cpu_s()
        for first in range(size, size + _MESSAGES, size):
            await limiter.permit(asks[first : first + size])
        return (_cpu_s() - before) / _MESSAGES * 1e6


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Measure both in turn, and print medians."""
    forget_foreign_variables()
    pinned = pin()
    redis, postgres = RedisServer(), PostgresServer(durable=True)
    asked: dict[int, list[float]] = {size: [] for size in _BATCHES}
    worker: dict[str, list[float]] = {}
    try:
        redis.start()
        postgres.start()
        with running_platform() as platform:
            for _ in range(_RUNS):
                for size, found in asked.items():
                    flush_redis(redis.url)
                    found.append(asyncio.run(_ask_all(redis.url, size)))
                for contender in (MIRRORPOST_SQLITE, MIRRORPOST_POSTGRESQL):
                    one = contender.run(Surroundings(platform, redis, postgres), _MESSAGES)
                    worker.setdefault(contender.name, []).append(one.cpu_ms * 1000)
    finally:
        postgres.close()
        redis.close()
    console = Console(width=None if sys.stdout.isatty() else 110)
    machine = describe(pinned)
    console.print(f"{machine.cpu}, {machine.cores}, {machine.kernel}, Python {machine.python}")
    table = Table("asked for at once", "us a message", *(f"of {name}" for name in worker))
    for size, found in asked.items():
        us = median(found)
        table.add_row(
            str(size), f"{us:.1f}", *(f"{us / median(each):.1%}" for each in worker.values())
        )
    table.add_section()
    table.add_row("whole worker", "", *(f"{median(each):.0f} us" for each in worker.values()))
    console.print(table)


if __name__ == "__main__":
    main()
