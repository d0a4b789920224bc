"""`mirrorpost broadcast`: one message to many, checked, started and steered."""

import typer

from scheduler.cli.refusals import Commands

app = typer.Typer(cls=Commands, no_args_is_help=True, help="Send one message to many people.")
