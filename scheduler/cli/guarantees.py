"""`mirrorpost guarantees`: what holds when no answer came, and what can be changed later."""

from dataclasses import asdict
from typing import Annotated

import typer

from scheduler.cli.output import Json, print_json, print_lines, print_table


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog="Example: mirrorpost guarantees --markdown")(guarantees)


def guarantees(
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the table as Markdown.")
    ] = False,
    json: Json = False,
) -> None:
    """Show per platform what becomes of a message in doubt, and if one can be changed later."""
    from scheduler.guarantees import HEADINGS, INTAKE, as_markdown
    from scheduler.guarantees import guarantees as of
    from worker.platforms import platforms

    found = of(platforms())
    if json:
        print_json([asdict(each) for each in found])
    elif markdown:
        for line in as_markdown(found):
            typer.echo(line)
    else:
        print_table(HEADINGS, [each.cells() for each in found], "")
        print_lines(["", *INTAKE])
