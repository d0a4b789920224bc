"""What commands print: results to standard output, everything else to standard error.

Text of other people passes through here, so nothing in it may act on the terminal: no
markup is read, and control characters are shown as U+FFFD.
"""

import json
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

if TYPE_CHECKING:
    from rich.console import Console

#: Columns of a table that goes into a file or a pipe.
_WIDTH_OF_A_PIPE = 200
_EPOCH = datetime.fromtimestamp(0, UTC)

Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]


def iso(epoch_ms: int | None) -> str | None:
    """Give epoch milliseconds as ISO 8601 in UTC."""
    if epoch_ms is None:
        return None
    return (_EPOCH + timedelta(milliseconds=epoch_ms)).isoformat(timespec="milliseconds")


def shown_time(epoch_ms: int | None) -> str:
    """Give epoch milliseconds for a table, to the second, in UTC."""
    if epoch_ms is None:
        return ""
    return f"{_EPOCH + timedelta(milliseconds=epoch_ms):%Y-%m-%d %H:%M:%S}Z"


def shown_duration(seconds: int) -> str:
    """Give seconds as a person would say them."""
    minutes, s = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {s} s" if minutes else f"{s} s"


def print_json(value: object) -> None:
    """Print one JSON value."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def print_line(text: str) -> None:
    """Print one line of the result."""
    sys.stdout.write(_harmless(text) + "\n")


def print_lines(lines: Iterable[str]) -> None:
    """Print lines of the result, wrapped on a terminal."""
    console = _console()
    for line in lines:
        console.print(_harmless(line), markup=False, highlight=False)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], nothing: str) -> None:
    """Print a table, the first column never cut; say `nothing` on standard error without rows."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, column in enumerate(columns):
        table.add_column(column, no_wrap=number == 0, overflow="fold")
    for row in rows:
        table.add_row(*(Text("" if cell is None else _harmless(str(cell))) for cell in row))
    if table.row_count:
        _console().print(table)
    else:
        note(nothing)


def note(text: str) -> None:
    """Say something beside the result, in one line."""
    sys.stderr.write(" ".join(_harmless(text).split()) + "\n")


def fail(text: str) -> None:
    """Say in one line why a command did not do what it was asked."""
    note(f"mirrorpost: {text}")


def fail_usage(text: str) -> NoReturn:
    """Say in one line what is wrong with how a command was called, and end it."""
    fail(text)
    raise typer.Exit(2)


def _console() -> "Console":
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else _WIDTH_OF_A_PIPE, soft_wrap=False)


def _harmless(text: str) -> str:
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)
