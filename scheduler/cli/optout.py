"""`mirrorpost optout`: who wants nothing more, and of what."""

from typing import Annotated

import typer

from scheduler.cli.output import Json, fail, iso, note, print_json, print_table, shown_time
from scheduler.cli.state import database, resolver_on, say_only_errors

app = typer.Typer(no_args_is_help=True, help="Say who wants nothing more, and of what.")

User = Annotated[str, typer.Argument(help="A person, or an account as telegram:4711.")]
Topic = Annotated[str, typer.Option(help="Only of this topic; without, of everything.")]


@app.command(epilog="Example: mirrorpost optout add alice --topic offers")
def add(user: User, topic: Topic = "", json: Json = False) -> None:
    """Send a person nothing more of a topic, or nothing but replies."""
    from scheduler import people

    say_only_errors()
    engine = database()
    whom = people.opt_out(engine, resolver_on(engine), user, topic)
    if json:
        print_json({"user": whom, "topic": topic or None, "opted_out": True})
        return
    note(f"{whom} opted out of {_topic(topic)}: replies still go out")


@app.command(epilog="Example: mirrorpost optout remove alice --topic offers")
def remove(user: User, topic: Topic = "", json: Json = False) -> None:
    """Take an opt-out back; exit 1 when there was none."""
    from scheduler import people

    say_only_errors()
    engine = database()
    if not people.opt_in(engine, resolver_on(engine), user, topic):
        fail(f"{user} has not opted out of {_topic(topic)}: mirrorpost optout list {user}")
        raise typer.Exit(1)
    if json:
        print_json({"user": user, "topic": topic or None, "opted_out": False})
        return
    note(f"{user} is written to again: what was suppressed meanwhile stays so")


@app.command("list", epilog="Example: mirrorpost optout list --json")
def list_(
    user: Annotated[
        str | None, typer.Argument(metavar="[USER]", help="Only this person's.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 1000,
    json: Json = False,
) -> None:
    """List opt-outs."""
    from scheduler import people

    say_only_errors()
    engine = database()
    found = people.opt_outs(engine, resolver_on(engine), user, limit=limit)
    if json:
        print_json(
            [
                {"user": o.unified_user, "topic": o.topic or None, "since": iso(o.since_ms)}
                for o in found
            ]
        )
        return
    print_table(
        ["user", "topic", "since"],
        [(o.unified_user, o.topic or "(everything)", shown_time(o.since_ms)) for o in found],
        nothing="Nobody opted out.",
    )


def _topic(topic: str) -> str:
    return repr(topic) if topic else "everything"
