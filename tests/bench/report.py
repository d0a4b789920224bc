"""Medians and ratios of the runs, as tables for people and as JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median

from rich.console import Console
from rich.table import Table

from tests.bench.latency import Idle
from tests.bench.machine import Machine
from tests.bench.measure import Measurement


@dataclass(frozen=True, slots=True)
class Figure:
    """The medians of one contender's runs.

    Attributes:
        of_limit: Rate as a part of `raw_httpx`'s in the same round; `None` without that.
        usual_over_cpu: The CPU per message of the usual way on the same database, divided by
            this contender's in the same round; `None` without that.
    """

    contender: str
    runs: int
    messages: int
    rate: float
    cpu_ms: float
    enqueue_ms: float | None
    of_limit: float | None
    usual_over_cpu: float | None


def figures(rounds: Sequence[Mapping[str, Measurement]]) -> list[Figure]:
    """Give the figures of rounds, each of which holds every contender once."""
    return [_figure(name, rounds) for name in rounds[0]]


def _figure(name: str, rounds: Sequence[Mapping[str, Measurement]]) -> Figure:
    own = [each[name] for each in rounds]
    usual = f"usual_{name.rpartition('_')[2]}"
    enqueue = [m.enqueue_ms for m in own if m.enqueue_ms is not None]
    return Figure(
        contender=name,
        runs=len(own),
        messages=own[0].messages,
        rate=median(m.rate for m in own),
        cpu_ms=median(m.cpu_ms for m in own),
        enqueue_ms=median(enqueue) if enqueue else None,
        of_limit=(
            median(each[name].rate / each["raw_httpx"].rate for each in rounds)
            if "raw_httpx" in rounds[0]
            else None
        ),
        usual_over_cpu=(
            median(each[usual].cpu_ms / each[name].cpu_ms for each in rounds)
            if usual in rounds[0]
            else None
        ),
    )


def as_object(machine: Machine, found: Sequence[Figure], idle: Sequence[Idle]) -> dict[str, object]:
    """Give everything as JSON knows it."""
    return {
        "machine": asdict(machine),
        "throughput": [asdict(each) for each in found],
        "idle": [asdict(each) for each in idle],
    }


def show(console: Console, machine: Machine, found: Sequence[Figure], idle: Sequence[Idle]) -> None:
    """Print the machine and the tables."""
    versions = ", ".join(f"{name} {number}" for name, number in machine.versions.items())
    console.print(f"{machine.cpu}, {machine.cores}, {machine.kernel}", soft_wrap=True)
    console.print(f"Python {machine.python}, {versions}", soft_wrap=True)
    if found:
        console.print(_throughput(found))
    if idle:
        console.print(_idle(idle))


def _throughput(found: Sequence[Figure]) -> Table:
    table = Table(title=f"Throughput: medians of {found[0].runs} interleaved runs")
    table.add_column("contender", no_wrap=True)
    for name in ("messages", "msg/s", "of raw_httpx", "CPU ms/msg", "usual's CPU /", "enqueue ms"):
        table.add_column(name, justify="right")
    for each in found:
        table.add_row(
            each.contender,
            str(each.messages),
            f"{each.rate:,.0f}",
            _or_dash(each.of_limit, ".0%"),
            f"{each.cpu_ms:.2f}",
            _or_dash(each.usual_over_cpu, ".1f"),
            _or_dash(each.enqueue_ms, ".2f"),
        )
    return table


def _idle(idle: Sequence[Idle]) -> Table:
    table = Table(title="One message on an idle system, from commit to arrival")
    table.add_column("database")
    for name in ("messages", "p50 ms", "p99 ms", "slowest ms", "idle, % of a core"):
        table.add_column(name, justify="right")
    for each in idle:
        table.add_row(
            each.database,
            str(each.messages),
            f"{each.p50_ms:.1f}",
            f"{each.p99_ms:.1f}",
            f"{each.max_ms:.1f}",
            f"{each.idle_percent:.2f} over {each.idle_seconds:.0f} s",
        )
    return table


def _or_dash(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
