"""`mirrorpost rejected`: messages from the broker that were refused at the door."""

from typing import TYPE_CHECKING, Annotated

import typer

from scheduler.cli.output import Json, iso, print_json, print_line, print_table, shown_time
from scheduler.cli.state import database, say_only_errors

if TYPE_CHECKING:
    from worker.tables import RejectedRow

app = typer.Typer(no_args_is_help=True, help="See what was refused at the door, and why.")

Number = Annotated[int, typer.Argument(metavar="NUMBER", help="As rejected list shows it.")]
#: Characters of a payload in a table.
_SHORT = 60


@app.command("list", epilog="Example: mirrorpost rejected list --limit 20")
def list_(
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 100,
    json: Json = False,
) -> None:
    """List refused messages, the newest first."""
    from scheduler.rejected import newest, payload_line

    rows = newest(database(), limit=limit)
    if json:
        print_json([_as_object(row) for row in rows])
        return
    print_table(
        ["number", "received", "reason", "payload", "delivery"],
        [
            (r.id, shown_time(r.received_ms), r.reason, payload_line(r)[:_SHORT], r.delivery_id)
            for r in rows
        ],
        nothing="Nothing was refused.",
    )


@app.command(epilog="Example: mirrorpost rejected show 7")
def show(number: Number, json: Json = False) -> None:
    """Show a refused message whole."""
    from scheduler.rejected import find, payload_line

    row = find(database(), number)
    if json:
        print_json(_as_object(row))
        return
    shown = _as_object(row) | {"payload": payload_line(row)}
    print_table(["field", "value"], [(k, v) for k, v in shown.items() if v is not None], "")


@app.command(epilog="Example: mirrorpost rejected retry 7")
def retry(number: Number, json: Json = False) -> None:
    """Let a message through the door again, after what was wrong is mended; prints the id."""
    from scheduler.rejected import retry as again

    say_only_errors()
    accepted = again(database(), number)
    if json:
        print_json({"number": number, "delivery_id": accepted.id, "created": accepted.created})
        return
    print_line(accepted.id)


def _as_object(row: "RejectedRow") -> dict[str, object]:
    return {
        "number": row.id,
        "received_at": iso(row.received_ms),
        "task_id": row.task_id,
        "reason": row.reason,
        "payload": row.payload,
        "delivery_id": row.delivery_id,
    }
