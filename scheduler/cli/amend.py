"""`mirrorpost deliveries edit|retract` and `mirrorpost broadcast edit|retract`: after the fact."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from scheduler.cli.output import Json, fail, note, print_json, print_line, print_table
from scheduler.cli.progress import progress
from scheduler.cli.state import database, say_only_errors

if TYPE_CHECKING:
    from scheduler.amend import Amendment
    from worker.actions import Action

Id = Annotated[str, typer.Argument(metavar="ID", help="A delivery's id, or its beginning.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="The broadcast's name.")]


def add_to(app: typer.Typer) -> None:
    """Add the commands for one delivery."""
    app.command(epilog="Example: mirrorpost deliveries edit 0192f3 'It is at ten.'")(edit)
    app.command(epilog="Example: mirrorpost deliveries retract 0192f3")(retract)


def add_to_broadcast(app: typer.Typer) -> None:
    """Add the commands for all that a broadcast has sent."""
    app.command("edit", epilog="Example: mirrorpost broadcast edit news --text 'It is at ten.'")(
        edit_broadcast
    )
    app.command("retract", epilog="Example: mirrorpost broadcast retract news --yes")(
        retract_broadcast
    )


def edit(
    id_: Id, text: Annotated[str, typer.Argument(help="What it is to say.")], json: Json = False
) -> None:
    """Put another text in the place of what a delivery has sent."""
    from scheduler import amend

    say_only_errors()
    _show(amend.edit(database(), id_, text), json=json)


def retract(id_: Id, json: Json = False) -> None:
    """Take back what a delivery has sent."""
    from scheduler import amend

    say_only_errors()
    _show(amend.retract(database(), id_), json=json)


def _show(made: "Amendment", *, json: bool) -> None:
    if json:
        print_json({"id": made.id, "status": made.state, "created": made.created})
        return
    if not made.created:
        note(f"The same was asked for before; that is {made.state}.")
    print_line(made.id)


def edit_broadcast(
    name: Name,
    text: Annotated[str, typer.Option(help="What the messages are to say.")],
    json: Json = False,
) -> None:
    """Put another text in the place of what a broadcast has sent."""
    from worker.actions import Action

    _amend(name, Action.EDIT, text, yes=True, json=json)


def retract_broadcast(
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    json: Json = False,
) -> None:
    """Take back what a broadcast has sent."""
    from worker.actions import Action

    _amend(name, Action.RETRACT, None, yes=yes, json=json)


def _amend(name: str, action: "Action", text: str | None, *, yes: bool, json: bool) -> None:
    from scheduler.broadcasts.amend import amend_broadcast, find_broadcast

    say_only_errors()
    engine = database()
    found = find_broadcast(engine, name)
    if not yes:
        if not sys.stdin.isatty():
            fail(f"this takes back {found.sent} messages and cannot be undone: say --yes")
            raise typer.Exit(1)
        typer.confirm(f"Take back {found.sent} messages for good?", abort=True, err=True)
    with progress(str(action), found.sent) as advance:
        amended = amend_broadcast(engine, found.id, action, text, advance=advance)
    cannot = dict(amended.refused)
    if json:
        print_json(
            {
                "name": name,
                "made": amended.made,
                "there_before": amended.there,
                "cannot": cannot,
                "not_sent_yet": found.not_sent_yet,
            }
        )
        return
    what = {"made": amended.made, "there before": amended.there}
    what |= {f"cannot: {reason}": count for reason, count in cannot.items()}
    print_table(["what", "count"], list(what.items()), "")
    if found.not_sent_yet:
        note(
            f"{found.not_sent_yet} are not sent yet and stay as they are: mirrorpost broadcast "
            f"cancel {name}"
        )
