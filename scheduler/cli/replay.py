"""`mirrorpost deliveries retry|cancel|resolve`: what a person does about deliveries."""

from typing import Annotated

import typer

from scheduler.cli.fields import parse_moment
from scheduler.cli.output import Json, fail_usage, note, print_json, print_line
from scheduler.cli.progress import progress, uninterrupted
from scheduler.cli.state import database, say_only_errors

Ids = Annotated[list[str], typer.Argument(metavar="ID...", help="Their ids, or beginnings.")]


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(
        epilog="Example: mirrorpost deliveries retry --platform slack --since 1d --dry-run"
    )(retry)
    app.command(epilog="Example: mirrorpost deliveries cancel 0192f3")(cancel)
    app.command(epilog="Example: mirrorpost deliveries resolve 0192f3 sent")(resolve)


def retry(  # noqa: PLR0917 - every parameter is an option of its own
    ids: Annotated[
        list[str] | None, typer.Argument(metavar="[ID]...", help="Or a filter, not both.")
    ] = None,
    status: Annotated[
        str | None, typer.Option(help="failed (default), suppressed, held or unknown.")
    ] = None,
    platform: Annotated[str | None, typer.Option(help="Only those of this platform.")] = None,
    since: Annotated[
        str | None, typer.Option(help="Asked for since: 2027-01-31, yesterday, or 2d ago.")
    ] = None,
    error_kind: Annotated[
        str | None, typer.Option(help="Only with this last error, as explain names it.")
    ] = None,
    rate: Annotated[float, typer.Option(min=0.1, help="So many a second.")] = 10,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say which, and change nothing.")
    ] = False,
    json: Json = False,
) -> None:
    """Try dead letters again, by id or by filter, at a limited rate."""
    from scheduler import replay
    from scheduler.deliveries import Filter

    say_only_errors()
    filtered = (status, platform, since, error_kind) != (None,) * 4
    if bool(ids) is filtered:
        fail_usage(
            "name ids or a filter (--status, --platform, --since, --error-kind), one of both"
        )
    engine = database()
    if ids and not dry_run:
        found = replay.retry(engine, ids)
        done = len(found)
    elif ids:
        found, done = replay.named(engine, ids), 0
    else:
        which = Filter(
            status=status, platform=platform, since=parse_moment(since), error_kind=error_kind
        )
        found, done = replay.matching(engine, which), 0
        if not dry_run:
            with progress("retrying", len(found)) as advance:
                try:
                    for batch in replay.paced(found, rate=rate):
                        with uninterrupted():
                            done += replay.requeue(engine, batch)
                        advance(len(batch))
                except KeyboardInterrupt:
                    note(f"interrupted: {done} of {len(found)} were queued")
                    raise
    if json:
        print_json({"dry_run": dry_run, "found": found, "queued": done})
        return
    for id_ in found:
        print_line(id_)
    note(f"{len(found)} would be tried again" if dry_run else f"{done} are tried again")


def cancel(ids: Ids, json: Json = False) -> None:
    """End deliveries that are not under way yet."""
    from scheduler import replay

    say_only_errors()
    done = replay.cancel(database(), ids)
    if json:
        print_json({"cancelled": done})
        return
    for id_ in done:
        print_line(id_)


def resolve(
    id_: Annotated[str, typer.Argument(metavar="ID", help="A delivery's id, or its beginning.")],
    what: Annotated[
        str,
        typer.Argument(
            metavar="sent|resend|drop",
            help="It arrived; send it again; or let it be.",
        ),
    ],
    json: Json = False,
) -> None:
    """End the doubt about a delivery of which nobody could know whether it was sent."""
    from scheduler import replay
    from worker.by_hand import Resolution

    if what not in set(Resolution):
        fail_usage(f"{what!r} is none of {', '.join(Resolution)}")
    say_only_errors()
    done = replay.resolve(database(), id_, Resolution(what))
    if json:
        print_json({"id": done, "resolved": what})
        return
    print_line(done)
