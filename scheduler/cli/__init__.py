"""The command line, `mirrorpost`: one file a group of commands.

Commands import what they need when they run: help and completion answer at once. What a
command gives goes to standard output, everything said beside it to standard error.
Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 130 interrupted.
"""

import typer

from scheduler.cli.amend import add_to_broadcast as add_amend
from scheduler.cli.audiences import app as audiences
from scheduler.cli.broadcasts import app as broadcasts
from scheduler.cli.deliveries import app as deliveries
from scheduler.cli.guarantees import add_to as add_guarantees
from scheduler.cli.history import add_to as add_history
from scheduler.cli.identity import app as identity
from scheduler.cli.optout import app as optout
from scheduler.cli.people import add_to as add_people
from scheduler.cli.persons import app as persons
from scheduler.cli.refusals import Commands
from scheduler.cli.rejected import app as rejected
from scheduler.cli.running import add_to as add_running
from scheduler.cli.schedules import app as schedules
from scheduler.cli.send import add_to as add_send
from scheduler.cli.steering import add_to as add_steering

__all__ = ["main"]

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    help="Deliver a bot's messages once, in order, at the platform's pace, and remember them.",
    # A traceback's local variables could show a token.
    pretty_exceptions_enable=False,
)
add_running(app)
add_send(app)
app.add_typer(schedules, name="schedule")
app.add_typer(audiences, name="audience")
add_steering(broadcasts)
add_amend(broadcasts)
app.add_typer(broadcasts, name="broadcast")
app.add_typer(deliveries, name="deliveries")
app.add_typer(rejected, name="rejected")
app.add_typer(identity, name="identity")
app.add_typer(persons, name="people")
app.add_typer(optout, name="optout")
add_history(app)
add_people(app)
add_guarantees(app)


def main() -> None:
    """Run the command that the process's arguments name."""
    app(prog_name="mirrorpost")
