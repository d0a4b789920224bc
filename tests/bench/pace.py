"""How near to the platforms' limits broadcasts go, against a sandbox that counts violations.

Two worker processes and a scheduler as the Procfile runs them, on PostgreSQL. A figure is what
the sandbox recorded: accepted messages a second from the first to the last, answers of 429,
chats that got theirs twice or not at all.

Example: python -m tests.bench.pace telegram discord
"""

import argparse
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from statistics import quantiles

import psutil
from rich.console import Console
from rich.table import Table

from scheduler.broadcasts import audiences, drafts
from scheduler.broadcasts.preflight import preflight
from scheduler.broadcasts.start import start
from tests.bench.machine import describe
from tests.processes import remove_folder, short_folder
from tests.servers import PostgresServer, RedisServer, empty_database
from tests.waiting import wait_until
from tests.workers import Running, Site

#: Far more than the slowest run takes.
_LIMIT_S = 1_800.0
#: Seconds between looks at how many are sent: counting them takes from what is measured.
_LOOK_S = 2.0
_ACCOUNTS = {
    "TELEGRAM_BOT_TOKEN_SECOND": "7700002:tg2-Lk5rTq88XvBn3Hs0",
    "DISCORD_BOT_TOKEN_SECOND": "dc2-Wm4JcX91tReK7uGb8",
}
#: What the chats of each bot begin with: the sandbox's record names no bot.
_FIRST = {
    "telegram": "1",
    "telegram@second": "2",
    "discord": "8",
    "discord@second": "9",
    "slack": "C",
}


@dataclass(frozen=True, slots=True)
class Kept:
    """What the sandbox recorded of one bot.

    Attributes:
        limit: Messages a second that its platform takes.
        rate: Messages a second, from the first to the last.
        refused: Answers of 429 of its platform.
        doubled: Messages that arrived once more than they should.
    """

    bot: str
    messages: int
    limit: float
    rate: float
    refused: int
    doubled: int
    missed: int
    cpu_ms: float


@dataclass(frozen=True, slots=True)
class Audience:
    """The chats of one bot, and what it may send a second."""

    bot: str
    chats: int
    broadcasts: int
    limit: float

    @property
    def targets(self) -> list[str]:
        """Give the targets, each with a chat of its own."""
        first = _FIRST[self.bot]
        return [f"{self.bot}:{first}{n:06}" for n in range(self.chats)]


@contextmanager
def _site() -> Iterator[tuple[Site, list[Running]]]:
    folder = short_folder("pace-")
    redis, postgres = RedisServer(), PostgresServer()
    redis.start()
    postgres.start()
    with ExitStack() as stack:
        stack.callback(redis.close)
        stack.callback(postgres.close)
        stack.callback(remove_folder, folder)
        url = stack.enter_context(empty_database(postgres.url))
        site = Site(folder, database_url=url, redis_url=redis.url, variables=_ACCOUNTS, limits=True)
        stack.callback(site.close)
        running = [stack.enter_context(site.worker(processes=1)) for _ in range(2)]
        stack.enter_context(site.scheduler())
        yield site, running


def _prepare(site: Site, audience: Audience) -> list[str]:
    """Make checked broadcasts; give their names."""
    name = audience.bot.replace("@", "-")
    file = site.folder / f"{name}.csv"
    file.write_text("target\n" + "\n".join(audience.targets) + "\n")
    audiences.create_list(site.engine, name, file, skip_bad=False, advance=lambda _: None)
    names = [f"{name}-{n}" for n in range(audience.broadcasts)]
    for n, each in enumerate(names):
        drafts.create(site.engine, each, audience=name, body=f"to all {n}")
        preflight(site.engine, site.resolver, each)
    return names


def _sent(site: Site) -> int:
    return int(site.scalar("SELECT count(*) FROM delivery WHERE state = 'sent'"))


def _run(
    asking: list[Audience],
    say: Callable[[str], None],
    *,
    halfway: Callable[[list[Running], Site], None] | None = None,
) -> list[Kept]:
    with _site() as (site, running):
        asked = sum(a.chats * a.broadcasts for a in asking)
        prepared = [name for audience in asking for name in _prepare(site, audience)]
        for name in prepared:
            start(site.engine, name)
        before = _cpu(running)
        if halfway is not None:
            wait_until(lambda: _sent(site) >= asked // 2, _LIMIT_S)
            halfway(running, site)
        deadline = time.monotonic() + _LIMIT_S
        while (sent := _sent(site)) < asked and time.monotonic() < deadline:
            say(f"{sent:,} of {asked:,} sent")
            time.sleep(_LOOK_S)
        cpu_ms = (_cpu(running) - before) * 1000 / asked
        return [_kept(site, audience, cpu_ms) for audience in asking]


def _cpu(running: list[Running]) -> float:
    seconds = 0.0
    for each in running:
        for process in _tree(each.process.pid):
            times = process.cpu_times()
            seconds += times.user + times.system
    return seconds


def _tree(pid: int) -> list[psutil.Process]:
    try:
        top = psutil.Process(pid)
        return [top, *top.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _kept(site: Site, audience: Audience, cpu_ms: float) -> Kept:
    platform = audience.bot.partition("@")[0]
    chats = {target.partition(":")[2] for target in audience.targets}
    found = [m for m in site.sandbox.accepted(platform) if m["chat"] in chats]
    arrived = Counter((m["chat"], m["text"]) for m in found)
    times = sorted(datetime.fromisoformat(str(m["at"])).timestamp() for m in found)
    return Kept(
        bot=audience.bot,
        messages=len(found),
        limit=audience.limit,
        rate=(len(times) - 1) / (times[-1] - times[0]),
        refused=site.sandbox.answers(platform).get("429", 0),
        doubled=sum(arrived.values()) - len(arrived),
        missed=audience.chats * audience.broadcasts - len(arrived),
        cpu_ms=cpu_ms,
    )


def telegram(say: Callable[[str], None]) -> list[Kept]:
    """Send to 10,000 chats of one bot."""
    return _run([Audience("telegram", 10_000, 1, 30.0)], say)


def telegram_killed(say: Callable[[str], None]) -> list[Kept]:
    """Do the same with a worker killed at half way; the other one goes on alone."""

    def kill(running: list[Running], _site: Site) -> None:
        running[0].kill()

    return _run([Audience("telegram", 10_000, 1, 30.0)], say, halfway=kill)


def discord(say: Callable[[str], None]) -> list[Kept]:
    """Send five broadcasts at once to the same 1,000 channels."""
    return _run([Audience("discord", 1_000, 5, 50.0)], say)


def five_bots(say: Callable[[str], None]) -> list[Kept]:
    """Let five bots of three platforms send at once, each as long as the others."""
    return _run(
        [
            Audience("telegram", 2_900, 1, 30.0),
            Audience("telegram@second", 2_900, 1, 30.0),
            Audience("discord", 960, 5, 50.0),
            Audience("discord@second", 960, 5, 50.0),
            # One message a second in each of its channels.
            Audience("slack", 20, 98, 20.0),
        ],
        say,
    )


@dataclass(frozen=True, slots=True)
class Passed:
    """How long single messages took while a broadcast used all of their bot's pace."""

    lane: str
    messages: int
    p50_ms: float
    p99_ms: float


def lanes(say: Callable[[str], None]) -> list[Passed]:
    """Measure replies and reminders while a broadcast to 100,000 runs on their bot."""
    with _site() as (site, _running):
        for name in _prepare(site, Audience("telegram", 100_000, 1, 30.0)):
            start(site.engine, name)
        wait_until(lambda: _sent(site) > 100, _LIMIT_S)
        ids: dict[str, list[str]] = {"reply": [], "reminder": []}
        for n in range(200):
            for lane, known in ids.items():
                if n % 2 == 0 or lane == "reply":
                    chat = f"telegram:2{len(known):05}{len(lane)}"
                    known.append(site.enqueue(chat, f"{lane} {n}", lane=lane))
            say(f"{n + 1} of 200 asked for")
            time.sleep(0.5)
        for known in ids.values():
            for id_ in known:
                site.reaches(id_, "sent", 60)
        return [_passed(site, lane, known) for lane, known in ids.items()]


def _passed(site: Site, lane: str, ids: list[str]) -> Passed:
    rows = [site.delivery(id_) for id_ in ids]
    took = [float((row.ended_ms or 0) - row.created_ms) for row in rows]
    cuts = quantiles(took, n=100)
    return Passed(lane, len(took), cuts[49], cuts[98])


RUNS: Mapping[str, Callable[[Callable[[str], None]], list[Kept]]] = {
    "telegram": telegram,
    "telegram-killed": telegram_killed,
    "discord": discord,
    "five-bots": five_bots,
}


def _report(console: Console, results: Mapping[str, list[Kept]], passed: list[Passed]) -> None:
    if results:
        table = Table(title="Broadcasts at the platforms' pace: as the sandbox recorded them")
        for name in ("run", "bot", "messages", "a second", "of the limit", "429"):
            table.add_column(name)
        for name in ("doubled", "missed", "worker CPU ms"):
            table.add_column(name)
        for run, bots in results.items():
            for each in bots:
                table.add_row(
                    run,
                    each.bot,
                    f"{each.messages:,}",
                    f"{each.rate:.2f}",
                    f"{each.rate / each.limit:.1%}",
                    str(each.refused),
                    str(each.doubled),
                    str(each.missed),
                    f"{each.cpu_ms:.2f}",
                )
        console.print(table)
    for lane in passed:
        console.print(
            f"{lane.lane}, {lane.messages} beside a broadcast to 100,000 on the same bot, from "
            f"commit to settled: p50 {lane.p50_ms:.0f} ms, p99 {lane.p99_ms:.0f} ms"
        )


def main() -> None:
    """Run what is named, all by default."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.pace", description=__doc__)
    parser.add_argument("runs", nargs="*", choices=[*RUNS, "lanes", []], metavar="RUN")
    wanted = parser.parse_args().runs or [*RUNS, "lanes"]
    err = Console(stderr=True)
    lock = threading.Lock()

    def say(words: str) -> None:
        with lock:
            err.print(words, end="\r")

    results = {name: RUNS[name](say) for name in wanted if name != "lanes"}
    passed = lanes(say) if "lanes" in wanted else []
    machine = describe([])
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(f"{machine.cpu}, {machine.cores}, {machine.kernel}, Python {machine.python}")
    _report(console, results, passed)


if __name__ == "__main__":
    main()
