"""`mirrorpost forget` and `mirrorpost remirror`: what is kept of people."""

import sys
from dataclasses import asdict
from typing import Annotated

import typer

from scheduler.cli.fields import parse_moment
from scheduler.cli.output import Json, fail, note, print_json, print_table
from scheduler.cli.progress import progress
from scheduler.cli.state import database, say_only_errors


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(epilog="Example: mirrorpost forget alice --dry-run")(forget)
    app.command(epilog="Example: mirrorpost remirror --since 7d")(remirror)


def forget(
    user: Annotated[str, typer.Argument(help="A person, or an account as telegram:4711.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count, and change nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    json: Json = False,
) -> None:
    """Remove a person: their links, their history, the texts of their deliveries."""
    from scheduler.forget import forget as remove
    from scheduler.forget import person, schedules_for
    from worker.runtime import resolver_of
    from worker.settings import settings

    say_only_errors()
    engine = database()
    resolver = resolver_of(settings(), engine)
    whom = person(resolver, user)
    if not (dry_run or yes):
        if not sys.stdin.isatty():
            fail("this cannot be undone: say --yes, or --dry-run to see what would go")
            raise typer.Exit(1)
        _print_counts(asdict(remove(engine, resolver, whom, dry_run=True)))
        typer.confirm(f"Remove {whom.name} for good?", abort=True, err=True)
    counts = asdict(remove(engine, resolver, whom, dry_run=dry_run))
    schedules = schedules_for(engine, whom)
    if json:
        print_json({"user": whom.name, "dry_run": dry_run, **counts, "schedules": schedules})
        return
    _print_counts(counts)
    if schedules:
        note(f"They are still written to by {', '.join(schedules)}: mirrorpost schedule remove")
    if dry_run:
        note("Nothing was changed.")
    elif counts["under_way"]:
        note("Some were just being sent: run this again when that is over.")


def _print_counts(counts: dict[str, int]) -> None:
    print_table(["what", "count"], list(counts.items()), "")


def remirror(
    since: Annotated[str, typer.Option(help="Sent since: 2027-01-31T09:00, or 7d ago.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count, and change nothing.")] = False,
    json: Json = False,
) -> None:
    """Write what was sent and is in no history into the histories again."""
    from scheduler import remirror as again
    from worker.runtime import resolver_of
    from worker.settings import settings

    say_only_errors()
    engine = database()
    moment = parse_moment(since)
    assert moment is not None  # noqa: S101 - the option is required
    missing = sum(again.mark(engine, since=moment, dry_run=dry_run))
    written = 0
    if not dry_run:
        with progress("writing", missing) as advance:
            for count in again.write(engine, resolver_of(settings(), engine)):
                written += count
                advance(count)
    if json:
        print_json({"dry_run": dry_run, "missing": missing, "written": written})
        return
    note(f"{missing} are missing" if dry_run else f"{written} of {missing} are written")
