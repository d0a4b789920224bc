"""`mirrorpost broadcast status|watch|results`: how far a broadcast is, and what came of it."""

import csv
import io
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scheduler.cli.live import follow
from scheduler.cli.output import (
    Json,
    fail,
    fail_usage,
    iso,
    note,
    print_json,
    print_line,
    print_table,
    shown_duration,
)
from scheduler.cli.progress import progress as bar
from scheduler.cli.state import database, say_only_errors

if TYPE_CHECKING:
    from scheduler.broadcasts.progress import Progress
    from scheduler.broadcasts.results import Result

Name = Annotated[str, typer.Argument(metavar="NAME", help="The broadcast's name.")]

_FIELDS = (
    "person",
    "target",
    "platform",
    "status",
    "reason",
    "receipt",
    "sent_at",
    "delivery",
)


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(epilog="Example: mirrorpost broadcast status spring-news --json")(status)
    app.command(epilog="Example: mirrorpost broadcast watch spring-news")(watch)
    app.command(epilog="Example: mirrorpost broadcast results spring-news > results.csv")(results)


def status(name: Name, json: Json = False) -> None:
    """Say how far a broadcast is, on each platform, and when it will be done."""
    from scheduler.broadcasts.progress import progress_of

    found = progress_of(database(), name)
    if json:
        print_json(found.as_object())
        return
    for line in in_words(found):
        print_line(line)
    columns = list(asdict(found.counts))
    rows = {**found.platforms, "all": found.counts} if found.platforms else {}
    print_table(
        ["platform", *(column.replace("_", " ") for column in columns)],
        [(platform, *asdict(counts).values()) for platform, counts in rows.items()],
        nothing="Nobody has a delivery yet.",
    )


def in_words(found: "Progress") -> Iterator[str]:
    """Say where a broadcast stands, without its numbers by platform."""
    why = f": {found.reason}" if found.reason else ""
    yield f"{found.name} is {found.state}{why}."
    left = found.counts.waiting + found.counts.under_way
    pace = f", {found.rate:g} a second" if found.rate else ""
    when = f", done in {shown_duration(found.eta_s)}" if found.eta_s is not None else ""
    yield f"{found.ended} of {found.recipients} have ended, {left} are left{pace}{when}."
    if found.held:
        yield (
            f"{found.held} are held for another reason than their turn: "
            f"mirrorpost deliveries list --broadcast {found.name} --status held"
        )


def watch(name: Name) -> None:
    """Follow a broadcast until it ends: 0 when it is done, 1 when it was cancelled or halted."""
    from scheduler.broadcasts.progress import progress_of
    from scheduler.broadcasts.states import BroadcastState

    say_only_errors()
    engine = database()
    last = follow(lambda: progress_of(engine, name))
    for line in in_words(last):
        print_line(line)
    if last.state is not BroadcastState.DONE:
        raise typer.Exit(1)


def results(
    name: Name,
    csv_file: Annotated[
        Path | None, typer.Option(help="Write the CSV there, not to standard output.")
    ] = None,
    json: Json = False,
) -> None:
    """Say of each recipient what became of it, as CSV: also of those who were left out."""
    from scheduler.broadcasts.progress import named
    from scheduler.broadcasts.results import results as stream

    say_only_errors()
    engine = database()
    broadcast = named(engine, name)
    if json and csv_file is not None:
        fail_usage("--json goes to standard output, --csv-file is for CSV: say one of both")
    found = stream(engine, broadcast)
    if json:
        _print_array(_as_object(result) for result in found)
        return
    if csv_file is None:
        for line in _csv_lines(found):
            print_line(line)
        return
    try:
        with (
            csv_file.open("w", encoding="utf-8", newline="") as file,
            bar("writing", broadcast.recipients) as advance,
        ):
            for line in _csv_lines(found):
                file.write(f"{line}\r\n")
                advance(1)
    except OSError as error:
        fail(f"{csv_file} cannot be written: {error.strerror}")
        raise typer.Exit(1) from None
    note(f"The results of {name} are in {csv_file}")


def _as_object(result: "Result") -> dict[str, object]:
    found = asdict(result)
    found["sent_at"] = iso(found.pop("sent_ms"))
    return {field: found[field] for field in _FIELDS}


def _csv_lines(found: Iterable["Result"]) -> Iterator[str]:
    line = io.StringIO()
    writer = csv.writer(line, lineterminator="")
    writer.writerow(_FIELDS)
    yield line.getvalue()
    for result in found:
        line.seek(0)
        line.truncate()
        writer.writerow(["" if cell is None else cell for cell in _as_object(result).values()])
        yield line.getvalue()


def _print_array(objects: Iterable[dict[str, object]]) -> None:
    """Print a JSON array of any length, an object a line."""
    import orjson

    sys.stdout.write("[")
    for n, each in enumerate(objects):
        sys.stdout.write(f"{',' if n else ''}\n{orjson.dumps(each).decode()}")
    sys.stdout.write("\n]\n")
