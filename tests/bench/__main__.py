"""Measure this machine: the limits, the usual way, Mirrorpost; then one message, then nothing.

Example: python -m tests.bench --runs 5 raw_httpx mirrorpost_sqlite
"""

import argparse
import json
import sys

from rich.console import Console

from tests.bench.latency import Idle, measure_idle
from tests.bench.loopback import running_platform
from tests.bench.machine import describe, pin
from tests.bench.measure import Contender, Measurement, Surroundings
from tests.bench.mirrorpost import MIRRORPOST_POSTGRESQL, MIRRORPOST_SQLITE
from tests.bench.raw import RAW_AIOHTTP, RAW_HTTPX
from tests.bench.report import as_object, figures, show
from tests.bench.usual import USUAL_POSTGRESQL, USUAL_SQLITE
from tests.isolation import forget_foreign_variables
from tests.servers import PostgresServer, RedisServer

_CONTENDERS = {
    contender.name: contender
    for contender in (
        RAW_HTTPX,
        RAW_AIOHTTP,
        USUAL_SQLITE,
        USUAL_POSTGRESQL,
        MIRRORPOST_SQLITE,
        MIRRORPOST_POSTGRESQL,
    )
}
#: Not a contender: the single message and the idle system.
_IDLE = "idle"
_WIDTH = 110


def main() -> int:
    """Run what was asked for, interleaved, and print it."""
    arguments = _arguments()
    forget_foreign_variables()
    pinned = pin()
    progress = Console(stderr=True)
    wanted = arguments.contenders or [*_CONTENDERS, _IDLE]
    contenders = [_CONTENDERS[name] for name in wanted if name != _IDLE]
    redis, postgres = RedisServer(), PostgresServer(durable=True)
    try:
        redis.start()
        postgres.start()
        with running_platform() as platform:
            surroundings = Surroundings(platform, redis, postgres)
            rounds = [
                _round(contenders, surroundings, arguments.messages, progress)
                for _ in range(arguments.runs if contenders else 0)
            ]
            idle = _idle(surroundings, arguments, progress) if _IDLE in wanted else []
    finally:
        postgres.close()
        redis.close()
    machine, found = describe(pinned), figures(rounds) if rounds else []
    if arguments.json:
        sys.stdout.write(json.dumps(as_object(machine, found, idle), indent=2) + "\n")
    else:
        # Into a file or a pipe rich would cut the tables to 80 columns.
        show(Console(width=None if sys.stdout.isatty() else _WIDTH), machine, found, idle)
    return 0


def _round(
    contenders: list[Contender], surroundings: Surroundings, messages: int, progress: Console
) -> dict[str, Measurement]:
    measured = {}
    for each in contenders:
        one = each.run(surroundings, max(1, round(messages * each.share)))
        progress.print(f"{each.name}: {one.rate:,.0f} msg/s, {one.cpu_ms:.2f} ms", style="dim")
        measured[each.name] = one
    return measured


def _idle(
    surroundings: Surroundings, arguments: argparse.Namespace, progress: Console
) -> list[Idle]:
    found = []
    for kind in ("sqlite", "postgresql"):
        one = measure_idle(
            kind, surroundings, messages=arguments.singles, idle_seconds=arguments.idle_seconds
        )
        progress.print(f"idle {kind}: p50 {one.p50_ms:.1f} ms", style="dim")
        found.append(one)
    return found


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("contenders", nargs="*", help=f"of: {', '.join([*_CONTENDERS, _IDLE])}")
    parser.add_argument("--runs", type=int, default=5, help="rounds of all contenders (5)")
    parser.add_argument(
        "--messages", type=int, default=5000, help="messages of a run; the usual way a tenth (5000)"
    )
    parser.add_argument(
        "--singles", type=int, default=300, help="single messages on an idle system (300)"
    )
    parser.add_argument(
        "--idle-seconds", type=float, default=30, help="seconds of doing nothing (30)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    unknown = set(arguments.contenders) - {*_CONTENDERS, _IDLE}
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(_CONTENDERS)}")
    if min(arguments.runs, arguments.messages, arguments.singles) < 1:
        parser.error("--runs, --messages and --singles must be 1 or more")
    return arguments


if __name__ == "__main__":
    sys.exit(main())
