"""`mirrorpost send`: one delivery, and on request its end."""

import sys
import time
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from scheduler.cli.deliveries import as_object
from scheduler.cli.fields import parse_metadata
from scheduler.cli.output import Json, fail, iso, note, print_json, print_line
from scheduler.cli.state import say_only_errors

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from worker.tables import DeliveryRow

#: Seconds between two looks at a row.
_POLL_S = 0.05


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        epilog="Example: mirrorpost send telegram:4711 'The build is green' --key build-812 --wait"
    )(send)


def send(  # noqa: PLR0917 - every parameter is an option of its own
    target: Annotated[
        str, typer.Argument(help="platform:chat, platform:chat#thread or user:name.")
    ],
    text: Annotated[str, typer.Argument(help="What to say.")],
    key: Annotated[
        str | None, typer.Option(help="The occasion: the same key again is the same delivery.")
    ] = None,
    source: Annotated[str, typer.Option(help="Who asks, as histories and listings show it.")] = "",
    topic: Annotated[
        str, typer.Option(help="What it is about: who opted out of that does not get it.")
    ] = "",
    lane: Annotated[
        str | None, typer.Option(help="reply, reminder, cron or broadcast, by priority.")
    ] = None,
    at: Annotated[
        str | None,
        typer.Option(help="When: 2027-01-31T09:00, 'tomorrow 9am' (both UTC) or 10m."),
    ] = None,
    expires: Annotated[
        str | None, typer.Option(help="After this it is not sent any more; written like --at.")
    ] = None,
    thread: Annotated[str | None, typer.Option(help="The thread or topic in the chat.")] = None,
    reply_to: Annotated[
        str | None, typer.Option(help="The platform's id of the message that this answers.")
    ] = None,
    silent: Annotated[bool, typer.Option("--silent", help="Without a notification.")] = False,
    metadata: Annotated[
        str | None, typer.Option(help="A JSON object that stays with the message.")
    ] = None,
    policy: Annotated[
        str,
        typer.Option(help="When nobody can know whether it was sent: resend, or hold it."),
    ] = "resend",
    order: Annotated[
        str | None,
        typer.Option(help="strict: after what its chat has waiting (replies, reminders); none."),
    ] = None,
    order_key: Annotated[
        str | None, typer.Option(help="What is in order with each other; the chat by default.")
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait for its end; exit 1 unless it was sent.")
    ] = False,
    timeout: Annotated[float, typer.Option(min=0, help="Seconds that --wait waits.")] = 60,
    json: Json = False,
) -> None:
    """Send one message, now or later; prints the delivery's id."""
    from scheduler.deliveries import find
    from scheduler.producer import enqueue
    from worker.database import engine as engine_of
    from worker.settings import settings

    say_only_errors()
    accepted = enqueue(
        to=target,
        text=text,
        key=key,
        source=source,
        topic=topic,
        lane=lane,
        at=_moment(at),
        expires=_moment(expires),
        metadata=parse_metadata(metadata),
        thread=thread,
        reply_to=reply_to,
        silent=silent,
        policy=policy,
        order=order,
        order_key=order_key,
    )
    engine = engine_of(settings().database)
    row = find(engine, accepted.id)
    _say_what_is_special(row, created=accepted.created)
    if wait:
        row = _wait(engine, row, timeout)
    if json:
        print_json(as_object(row) | {"created": accepted.created})
    else:
        print_line(row.id)
    if wait and row.state != "sent":
        fail(_why_not_sent(row, timeout))
        raise typer.Exit(1)


def _moment(text: str | None) -> datetime | None:
    if text is None:
        return None
    from scheduler.when import parse_when
    from worker.zones import parse_zone

    return parse_when(text, now=datetime.now(UTC), tz=parse_zone("UTC"))


def _say_what_is_special(row: "DeliveryRow", *, created: bool) -> None:
    if not created:
        note(f"This key was used before for the same message; that delivery is {row.state}.")
    elif row.state == "scheduled":
        note(f"It is due at {iso(row.due_ms)}.")
    elif row.state == "queued" and row.published_ms == 0:
        note("It is stored; the broker cannot be reached. It goes out when `mirrorpost up` runs.")


def _wait(engine: "Engine", row: "DeliveryRow", timeout_s: float) -> "DeliveryRow":
    """Give the row when it has ended, or as it is after `timeout_s`."""
    from scheduler.deliveries import find
    from worker.states import ENDS

    deadline = time.monotonic() + timeout_s
    said: str | None = None
    with _spinner(row.target):
        while True:
            if row.state != said and row.state in {"held", "retrying"}:
                note(f"{row.state}: {row.error_text}")
            said = row.state
            if row.state in ENDS or time.monotonic() >= deadline:
                return row
            time.sleep(_POLL_S)
            row = find(engine, row.id)


def _spinner(target: str) -> AbstractContextManager[object]:
    if not sys.stderr.isatty():
        return nullcontext()
    from rich.console import Console
    from rich.text import Text

    return Console(stderr=True).status(Text(f"waiting for {target}"))


def _why_not_sent(row: "DeliveryRow", timeout_s: float) -> str:
    from worker.states import ENDS

    why = f": {row.error_text}" if row.error_text else ""
    if row.state in ENDS:
        return f"{row.id} ended {row.state}{why}"
    if row.state == "queued" and not why:
        why = ": no worker took it; start one with mirrorpost up"
    return f"{row.id} is not sent after {timeout_s:g} s, it is {row.state}{why}"
