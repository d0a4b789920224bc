"""`mirrorpost broadcast pause|resume|cancel`: what a person does about a broadcast under way."""

from typing import Annotated

import typer

from scheduler.cli.output import Json, note, print_json, print_line
from scheduler.cli.progress import uninterrupted
from scheduler.cli.state import database, say_only_errors
from scheduler.cli.watching import add_to as add_watching

Name = Annotated[str, typer.Argument(metavar="NAME", help="The broadcast's name.")]


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(epilog="Example: mirrorpost broadcast pause spring-news")(pause)
    app.command(epilog="Example: mirrorpost broadcast resume spring-news")(resume)
    app.command(epilog="Example: mirrorpost broadcast cancel spring-news")(cancel)
    add_watching(app)


def pause(name: Name, json: Json = False) -> None:
    """Let nothing more of a running broadcast go out; what is being sent goes out."""
    from scheduler.broadcasts import steer

    say_only_errors()
    taken_back = steer.pause(database(), name)
    if json:
        print_json({"name": name, "state": "paused", "taken_back": taken_back})
        return
    print_line(f"{name} is paused: mirrorpost broadcast resume {name}")


def resume(name: Name, json: Json = False) -> None:
    """Let a broadcast go on that was paused, has halted, or waits after its canary."""
    from scheduler.broadcasts import steer

    say_only_errors()
    steer.resume(database(), name)
    if json:
        print_json({"name": name, "state": "running"})
        return
    print_line(f"{name} goes on")


def cancel(name: Name, json: Json = False) -> None:
    """End a broadcast for good: whoever has not got it, does not get it."""
    from scheduler.broadcasts import steer

    say_only_errors()
    cancelled = 0
    batches = steer.cancel(database(), name)
    try:
        while True:
            with uninterrupted():
                done = next(batches, None)
            if done is None:
                break
            cancelled += done
    except KeyboardInterrupt:
        note(f"interrupted: nothing more of {name} goes out, a scheduler cancels what is left")
        raise
    if json:
        print_json({"name": name, "state": "cancelled", "cancelled": cancelled})
        return
    print_line(f"{name} is cancelled, with {cancelled} deliveries that had not gone out")
