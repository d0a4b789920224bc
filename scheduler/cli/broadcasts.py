"""`mirrorpost broadcast`: one message to many, written down, checked and started."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scheduler.cli.output import (
    Json,
    fail_usage,
    iso,
    note,
    print_json,
    print_line,
    print_lines,
    print_table,
    shown_duration,
    shown_time,
)
from scheduler.cli.progress import progress
from scheduler.cli.refusals import Commands
from scheduler.cli.state import database, say_only_errors

if TYPE_CHECKING:
    from scheduler.broadcasts.drafts import Broadcast

app = typer.Typer(cls=Commands, no_args_is_help=True, help="Send one message to many people.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="The broadcast's name or id.")]
_TIMES = ("created_ms", "checked_ms", "started_ms", "ended_ms")


@app.command(
    epilog="Example: mirrorpost broadcast create spring --audience customers "
    "--text 'Hello {{ name }}, the spring offers are here' --template --topic offers --canary 1%"
)
def create(  # noqa: PLR0917 - every parameter is an option of its own
    name: Annotated[str, typer.Argument(metavar="NAME", help="What to call it.")],
    audience: Annotated[str, typer.Option(help="Whom it is for: mirrorpost audience list.")],
    text: Annotated[str | None, typer.Option(help="What to say.")] = None,
    text_file: Annotated[Path | None, typer.Option(help="A file with what to say.")] = None,
    template: Annotated[
        bool,
        typer.Option("--template", help="Fill {{ name }} and the like with each one's attributes."),
    ] = False,
    topic: Annotated[str, typer.Option(help="What it is about, for opt-outs.")] = "",
    silent: Annotated[bool, typer.Option("--silent", help="Without a sound.")] = False,
    tenant: Annotated[
        str, typer.Option(help="For whom it is sent: tenants share a bot's pace evenly.")
    ] = "",
    canary: Annotated[
        str | None, typer.Option(help="Share of the recipients that get it first, such as 1%.")
    ] = None,
    canary_then: Annotated[
        str | None,
        typer.Option(help="wait (default) for a person, or go on while failures are few."),
    ] = None,
    json: Json = False,
) -> None:
    """Write a broadcast down as a draft; nothing is sent."""
    from scheduler.broadcasts import drafts

    if (text is None) is (text_file is None):
        fail_usage("give the message by one of --text and --text-file")
    if canary is None and canary_then is not None:
        fail_usage("--canary-then says what follows a canary: name --canary too")
    body = text if text is not None else _read(text_file)
    made = drafts.create(
        database(),
        name,
        audience=audience,
        body=body,
        templated=template,
        topic=topic,
        silent=silent,
        tenant=tenant,
        canary_percent=drafts.parse_percent(canary),
        canary_then=canary_then or "wait",
    )
    _say(made, json=json, then=f"mirrorpost broadcast preflight {made.name}")


def _read(path: Path | None) -> str:
    from worker.errors import Refused

    assert path is not None  # noqa: S101 - one of the two options is given
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise Refused(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise Refused(f"{path} is not UTF-8: save it so") from None


@app.command(epilog="Example: mirrorpost broadcast preflight spring --skip-missing")
def preflight(
    name: Name,
    skip_missing: Annotated[
        bool,
        typer.Option("--skip-missing", help="Leave out who lacks what the template needs."),
    ] = False,
    json: Json = False,
) -> None:
    """Find who gets it, where, who is left out and why, and how long it takes."""
    from scheduler.broadcasts.preflight import preflight as check
    from worker.runtime import resolver_of
    from worker.settings import settings

    say_only_errors()
    engine = database()
    resolver = resolver_of(settings(), engine)
    found = check(engine, resolver, name, skip_missing=skip_missing, progress=progress)
    report = found.report or {}
    if json:
        print_json({"id": found.id, "name": found.name, "state": found.state.value, **report})
        return
    _show_report(report)
    note(f"{found.name} can be started: mirrorpost broadcast start {found.name}")


def _show_report(report: dict[str, Any]) -> None:
    print_table(
        ["platform", "recipients", "takes at least"],
        [
            (
                place["platform"] + (f"@{place['account']}" if place["account"] else ""),
                place["recipients"],
                "no limit of the bot's"
                if place["seconds"] is None
                else shown_duration(place["seconds"]),
            )
            for place in report["platforms"]
        ],
        "",
    )
    print_lines([""])
    counts = [
        ("recipients", report["recipients"]),
        ("takes at least", shown_duration(report["seconds"])),
        ("duplicates merged", report["duplicates_merged"]),
        *((f"left out: {why.replace('_', ' ')}", n) for why, n in report["left_out"].items()),
        ("without a known time zone", report["without_time_zone"]),
    ]
    print_table(["what", "count"], counts, "")
    print_lines([""])
    print_table(
        ["to", "target", "text"],
        [(each["person"], each["target"], each["text"]) for each in report["sample"]],
        "",
    )
    for lack in report["missing_attributes"]:
        note(f"left out: {lack['person']}: {lack['why']}")
    for warning in report["warnings"]:
        note(f"warning: {warning}")


@app.command(epilog="Example: mirrorpost broadcast start spring")
def start(name: Name, json: Json = False) -> None:
    """Let a checked broadcast run."""
    from scheduler.broadcasts.start import start as begin

    started = begin(database(), name)
    _say(started, json=json, then=f"mirrorpost broadcast watch {started.name}")


@app.command("list", epilog="Example: mirrorpost broadcast list --json")
def list_(json: Json = False) -> None:
    """List all broadcasts, the latest first."""
    from scheduler.broadcasts.drafts import list_ as all_broadcasts

    found = all_broadcasts(database())
    if json:
        print_json([_document(each) for each in found])
        return
    print_table(
        ["name", "state", "audience", "recipients", "topic", "created", "why"],
        [
            (
                each.name,
                each.state.value,
                each.audience,
                each.recipients or "",
                each.topic,
                shown_time(each.created_ms),
                each.reason,
            )
            for each in found
        ],
        nothing="There are no broadcasts: mirrorpost broadcast create --help shows how to make "
        "one.",
    )


@app.command(epilog="Example: mirrorpost broadcast show spring")
def show(name: Name, json: Json = False) -> None:
    """Show a broadcast with what its last preflight found."""
    from scheduler.broadcasts.drafts import get

    found = get(database(), name)
    document = _document(found)
    if json:
        print_json(document | {"report": found.report})
        return
    print_table(
        ["field", "value"], [(k, v) for k, v in document.items() if v not in (None, "")], ""
    )
    if found.report is not None:
        print_lines([""])
        _show_report(found.report)


def _say(broadcast: "Broadcast", *, json: bool, then: str) -> None:
    if json:
        print_json(_document(broadcast))
        return
    print_line(broadcast.name)
    note(f"{broadcast.name} is {broadcast.state.value}; next: {then}")


def _document(broadcast: "Broadcast") -> dict[str, object]:
    document = asdict(broadcast)
    del document["report"]
    times = {name.removesuffix("_ms"): iso(document.pop(name)) for name in _TIMES}
    return document | times
