"""`mirrorpost schedule`: deliveries at set times."""

from typing import TYPE_CHECKING, Annotated

import typer

from scheduler.cli.fields import parse_metadata
from scheduler.cli.output import (
    Json,
    note,
    print_json,
    print_line,
    print_lines,
    print_table,
)
from scheduler.cli.state import database, say_only_errors

if TYPE_CHECKING:
    from scheduler.schedule_views import ScheduleView

app = typer.Typer(no_args_is_help=True, help="Make deliveries at set times.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="The schedule's name or id.")]


@app.command(
    epilog="Example: mirrorpost schedule add stand-up --cron '0 9 * * 1-5' --tz Europe/Berlin "
    "--to user:alice --text 'Stand-up in five minutes'"
)
def add(  # noqa: PLR0917 - every parameter is an option of its own
    name: Annotated[str, typer.Argument(metavar="NAME", help="What to call it.")],
    to: Annotated[str, typer.Option(help="The target: platform:chat or user:name.")],
    text: Annotated[str, typer.Option(help="What to say.")],
    cron: Annotated[
        str | None, typer.Option(help="minute hour day month weekday, or such as @daily.")
    ] = None,
    every: Annotated[str | None, typer.Option(help="An interval, such as 90s, 5m, 1h30m.")] = None,
    at: Annotated[
        str | None, typer.Option(help="Once: 2027-01-31T09:00, 'tomorrow 9am', 10m.")
    ] = None,
    tz: Annotated[
        str, typer.Option(help="Whose clock --cron and --at mean, such as Europe/Berlin.")
    ] = "UTC",
    lane: Annotated[
        str | None, typer.Option(help="reply, reminder, cron or broadcast, by priority.")
    ] = None,
    misfire: Annotated[
        str, typer.Option(help="What goes out of missed occurrences: latest, all or none.")
    ] = "latest",
    topic: Annotated[
        str | None, typer.Option(help="What it is about, for people who opted out of that.")
    ] = None,
    metadata: Annotated[
        str | None, typer.Option(help="A JSON object that stays with each message.")
    ] = None,
    json: Json = False,
) -> None:
    """Add a schedule by one of --cron, --every and --at."""
    from scheduler import schedules

    view = schedules.add(
        database(),
        name,
        to=to,
        text=text,
        cron=cron,
        every=every,
        at=at,
        tz=tz,
        lane=lane,
        misfire=misfire,
        topic=topic,
        metadata=parse_metadata(metadata),
    )
    _say(view, json=json)


@app.command("list", epilog="Example: mirrorpost schedule list --json")
def list_(json: Json = False) -> None:
    """List all schedules by name."""
    from scheduler.schedule_views import list_ as all_schedules

    views = all_schedules(database())
    if json:
        print_json([view.as_json() for view in views])
        return
    print_table(
        ["name", "state", "when", "next", "to", "text", "why"],
        [
            (
                view.name,
                view.state.value,
                _when(view.spec),
                _next(view),
                _said(view.message, "to"),
                _said(view.message, "text"),
                view.error or view.note,
            )
            for view in views
        ],
        nothing="There are no schedules: mirrorpost schedule add --help shows how to make one.",
    )


@app.command(epilog="Example: mirrorpost schedule show stand-up")
def show(name: Name, json: Json = False) -> None:
    """Show a schedule and what came of its latest occurrences."""
    from scheduler.schedule_views import fires, get

    engine = database()
    found = get(engine, name).as_json()
    latest = [fire.as_json() for fire in fires(engine, name)]
    if json:
        print_json(found | {"fires": latest})
        return
    print_table(["field", "value"], [(k, v) for k, v in found.items() if v is not None], "")
    if latest:
        print_lines([""])
        print_table(list(latest[0]), [list(fire.values()) for fire in latest], "")


@app.command(epilog="Example: mirrorpost schedule preview stand-up -n 10 --json")
def preview(
    name: Name,
    count: Annotated[int, typer.Option("-n", min=1, max=1000, help="How many.")] = 5,
    json: Json = False,
) -> None:
    """Tell the next occurrences, in UTC and on the schedule's own clock."""
    from scheduler.schedule_views import preview_of

    occurrences = preview_of(database(), name, count)
    if json:
        print_json(occurrences)
        return
    print_table(
        ["utc", "local"],
        [(each["utc"], each["local"]) for each in occurrences],
        nothing=f"{name} has no further occurrence.",
    )


@app.command(epilog="Example: mirrorpost schedule pause stand-up --note 'holidays'")
def pause(
    name: Name,
    note: Annotated[str | None, typer.Option(help="Why, as listings show it.")] = None,
    json: Json = False,
) -> None:
    """Stop a schedule until it is resumed; what it made already goes out all the same."""
    from scheduler import schedules

    _say(schedules.pause(database(), name, note), json=json)


@app.command(epilog="Example: mirrorpost schedule resume stand-up")
def resume(name: Name, json: Json = False) -> None:
    """Start a paused schedule again; what it missed is left out and written down."""
    from scheduler import schedules

    _say(schedules.resume(database(), name), json=json)


@app.command(epilog="Example: mirrorpost schedule run stand-up")
def run(name: Name, json: Json = False) -> None:
    """Fire a schedule now, besides its occurrences; prints the delivery's id."""
    from scheduler import schedules
    from scheduler.publish import publish

    say_only_errors()
    engine = database()
    accepted = schedules.run(engine, name)
    if accepted.due_now and not publish(engine, [accepted]):
        note("It is stored; the broker cannot be reached. It goes out when `mirrorpost up` runs.")
    if json:
        print_json({"id": accepted.id, "status": accepted.state.value, "target": accepted.target})
    else:
        print_line(accepted.id)


@app.command(epilog="Example: mirrorpost schedule remove stand-up")
def remove(name: Name, json: Json = False) -> None:
    """Remove a schedule; what it made stays."""
    from scheduler import schedules

    view = schedules.remove(database(), name)
    if json:
        print_json(view.as_json())
    else:
        print_line(f"{view.name} is removed")


def _say(view: "ScheduleView", *, json: bool) -> None:
    if json:
        print_json(view.as_json())
    else:
        due = f", next at {_next(view)}" if view.next_fire is not None else ""
        print_line(f"{view.name} is {view.state.value}{due}")


def _next(view: "ScheduleView") -> str:
    return "" if view.next_fire is None else f"{view.next_fire:%Y-%m-%d %H:%M:%S}Z"


def _when(spec: object) -> str:
    """Give a spec in few words; as it is where another process wrote something else."""
    from scheduler.when import from_ms

    match spec:
        case {"cron": str(expression), **rest}:
            return f"{expression} {rest.get('tz', 'UTC')}"
        case {"every_s": int() | float() as seconds}:
            return f"every {seconds:g} s"
        case {"at_ms": int(at_ms)}:
            return f"once at {from_ms(at_ms):%Y-%m-%d %H:%M:%S}Z"
        case _:
            return str(spec)


def _said(message: object, field: str) -> object:
    return message.get(field) if isinstance(message, dict) else message
