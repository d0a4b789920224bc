"""The verdicts of many runs, as a table for people and as JSON."""

from collections.abc import Sequence
from dataclasses import asdict

from rich import box
from rich.console import Console
from rich.table import Table

from tests.bench.machine import Machine
from tests.chaos.bench import Outcome
from tests.chaos.judge import KINDS

#: Violations of one run that are shown in words.
_SHOWN = 10


def progress(console: Console, n: int, runs: int, outcome: Outcome) -> None:
    """Print one line for a run, and what is wrong with it."""
    verdict = outcome.verdict
    console.print(
        f"{n}/{runs} {outcome.fault} on {outcome.database}, seed {outcome.seed}: "
        f"{'WRONG' if outcome.failed else 'right'}, {outcome.killed} killed, "
        f"{verdict.in_doubt} in doubt, {verdict.marked} marked, {outcome.took_s:.0f} s "
        f"{outcome.note}",
        soft_wrap=True,
        highlight=False,
    )
    if not outcome.failed:
        return
    if not outcome.quiet:
        console.print("  it never became quiet")
    for kind, found in verdict.wrong.items():
        for what in found[:_SHOWN]:
            console.print(f"  {kind}: {what}", soft_wrap=True, highlight=False)
        if len(found) > _SHOWN:
            console.print(f"  {kind}: and {len(found) - _SHOWN} more")
    console.print(f"  again: {outcome.command}", soft_wrap=True, highlight=False)
    console.print(f"  folder: {outcome.folder}", soft_wrap=True, highlight=False)


def table(console: Console, machine: Machine, seed: int, outcomes: Sequence[Outcome]) -> None:
    """Print a line for each fault and database, and the total."""
    shown = Table(
        title=f"{len(outcomes)} runs, seed {seed}", box=box.SIMPLE_HEAD, title_justify="left"
    )
    shown.add_column("fault", no_wrap=True)
    shown.add_column("database", no_wrap=True)
    names = ("runs", "asked", "killed", "in doubt", *KINDS, "marked", "unknown", "s a run")
    for name in names:
        shown.add_column(name, justify="right", no_wrap=True)
    kinds = list(dict.fromkeys((o.fault, o.database) for o in outcomes))
    for fault, database in kinds:
        own = [o for o in outcomes if (o.fault, o.database) == (fault, database)]
        shown.add_row(fault, database, *_figures(own))
    shown.add_section()
    shown.add_row("all", "", *_figures(outcomes))
    console.print(shown)
    console.print(f"{machine.cpu}, {machine.cores}, {machine.kernel}", soft_wrap=True)
    for outcome in outcomes:
        if outcome.failed:
            console.print(f"again: {outcome.command}", soft_wrap=True, highlight=False)


def _figures(own: Sequence[Outcome]) -> list[str]:
    wrong = [sum(len(o.verdict.wrong.get(kind, ())) for o in own) for kind in KINDS]
    figures = [
        len(own),
        sum(o.verdict.asked for o in own),
        sum(o.killed for o in own),
        sum(o.verdict.in_doubt for o in own),
        *wrong,
        sum(o.verdict.marked for o in own),
        sum(o.verdict.unknown for o in own),
        round(sum(o.took_s for o in own) / len(own)),
    ]
    return [f"{figure:,}" for figure in figures]


def as_object(machine: Machine, seed: int, outcomes: Sequence[Outcome]) -> dict[str, object]:
    """Give everything as JSON knows it."""
    return {
        "machine": asdict(machine),
        "seed": seed,
        "runs": [
            {
                "fault": o.fault,
                "database": o.database,
                "seed": o.seed,
                "asked": o.verdict.asked,
                "killed": o.killed,
                "repeated": o.repeated,
                "in_doubt": o.verdict.in_doubt,
                "marked": o.verdict.marked,
                "unknown": o.verdict.unknown,
                "quiet": o.quiet,
                "wrong": dict(o.verdict.wrong),
                "took_s": round(o.took_s, 1),
                "again": o.command,
            }
            for o in outcomes
        ],
    }
