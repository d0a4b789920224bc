"""What goes on, shown while it goes on: a live bar on a terminal, lines in a pipe or a file."""

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from scheduler.cli.output import print_line, shown_duration

if TYPE_CHECKING:
    from rich.console import RenderableType

    from scheduler.broadcasts.progress import Counts, Progress

#: Seconds between two looks on a terminal, and between two lines elsewhere.
_LOOK_S, _LINE_S = 0.5, 2.0
#: A look takes at most one part in so many of the time: of a million it is some tenths of a
#: second.
_LOOKING = 4


def follow(look: Callable[[], "Progress"]) -> "Progress":
    """Show a broadcast until it ends, or has halted; give the last look at it."""
    return _live(look) if sys.stdout.isatty() else _lines(look)


def _is_at_its_end(found: "Progress") -> bool:
    return found.is_over or found.state == "halted"


def _lines(look: Callable[[], "Progress"]) -> "Progress":
    before = ""
    while True:
        begun = time.monotonic()
        found = look()
        if _is_at_its_end(found):
            return found
        line = _line(found)
        if line != before:
            print_line(line)
            sys.stdout.flush()
            before = line
        _wait(begun, _LINE_S)


def _wait(begun: float, least_s: float) -> None:
    """Wait for the next look: others move the broadcast, and none could tell this process."""
    time.sleep(max(least_s, (time.monotonic() - begun) * _LOOKING))


def _line(found: "Progress") -> str:
    why = f" ({found.reason})" if found.reason else ""
    places = "; ".join(f"{name}: {_in_words(c)}" for name, c in found.platforms.items())
    return (
        f"{found.name} {found.state}{why}: {found.ended}/{found.recipients}, "
        f"{found.rate:g} a second, {_eta(found)}" + (f"; {places}" if places else "")
    )


def _in_words(counts: "Counts") -> str:
    return f"{counts.sent} sent, {counts.failed} failed, {counts.suppressed} suppressed"


def _eta(found: "Progress") -> str:
    return "no end in sight" if found.eta_s is None else f"{shown_duration(found.eta_s)} left"


def _live(look: Callable[[], "Progress"]) -> "Progress":
    from rich.live import Live

    found = look()
    with Live(_screen(found), refresh_per_second=4, transient=True) as live:
        while not _is_at_its_end(found):
            begun = time.monotonic()
            found = look()
            live.update(_screen(found))
            _wait(begun, _LOOK_S)
    return found


def _screen(found: "Progress") -> "RenderableType":
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    why = f": {found.reason}" if found.reason else ""
    head = Table.grid(padding=(0, 1))
    head.add_row(
        Text(f"{found.name} {found.state}{why}"),
        ProgressBar(total=max(1, found.recipients), completed=found.ended, width=40),
        Text(f"{found.ended}/{found.recipients}  {found.rate:g}/s  {_eta(found)}"),
    )
    places = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("platform", "sent", "failed", "suppressed", "under way", "waiting"):
        places.add_column(column)
    for name, c in found.platforms.items():
        counts = (c.sent, c.failed, c.suppressed, c.under_way, c.waiting)
        places.add_row(Text(name), *(str(n) for n in counts))
    return Group(head, places)
