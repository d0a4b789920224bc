"""`mirrorpost audience`: whom broadcasts are for."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scheduler.cli.output import (
    Json,
    fail_usage,
    iso,
    note,
    print_json,
    print_line,
    print_table,
    shown_time,
)
from scheduler.cli.progress import progress
from scheduler.cli.refusals import Commands
from scheduler.cli.state import database, say_only_errors

if TYPE_CHECKING:
    from scheduler.broadcasts.audiences import Audience, Loaded

app = typer.Typer(cls=Commands, no_args_is_help=True, help="Say whom broadcasts are for.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="The audience's name.")]
#: Members that `show` lists.
_SHOWN = 10


@app.command(
    epilog="Example: mirrorpost audience create customers --file customers.csv, with a first line "
    "such as target,name and further ones such as telegram:123,Alice"
)
def create(  # noqa: PLR0917 - every parameter is an option of its own
    name: Name,
    everybody: Annotated[
        bool, typer.Option("--everybody", help="All people who have a link.")
    ] = False,
    tag: Annotated[str | None, typer.Option(help="All people with this tag.")] = None,
    platform: Annotated[
        str | None, typer.Option(help="All people with an account there, written to there.")
    ] = None,
    file: Annotated[
        Path | None, typer.Option(help="A list: CSV with a header, or JSON lines (.jsonl).")
    ] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave broken lines of the file out.")
    ] = False,
    generator: Annotated[
        str | None, typer.Option(help="A function that yields targets: package.module:function.")
    ] = None,
    json: Json = False,
) -> None:
    """Save an audience by one of --everybody, --tag, --platform, --file and --generator."""
    from scheduler.broadcasts import audiences
    from worker.runtime import resolver_of
    from worker.settings import settings

    queries = {"everybody": everybody, "tag": tag, "platform": platform, "generator": generator}
    given = [
        kind for kind, value in {**queries, "list": file}.items() if value not in (None, False)
    ]
    if len(given) != 1 or (skip_bad and file is None):
        fail_usage(
            "name one of --everybody, --tag, --platform, --file (with or without --skip-bad) "
            "and --generator"
        )
    say_only_errors()
    engine = database()
    if file is not None:
        size = file.stat().st_size if file.is_file() else 0
        try:
            with progress("reading", size) as advance:
                audience, loaded = audiences.create_list(
                    engine, name, file, skip_bad=skip_bad, advance=advance
                )
        except audiences.BrokenLines as error:
            _list_broken(error.loaded, said=audiences.NAMED)
            raise
        if not json:
            _list_broken(loaded)
        _say(audience, loaded, json=json)
        return
    kind = audiences.Kind(given[0])
    resolver = resolver_of(settings(), engine)
    value = tag or platform or generator or ""
    _say(audiences.create_query(engine, resolver, name, kind, value), None, json=json)


def _list_broken(loaded: "Loaded", said: int = 0) -> None:
    if loaded.unusable > said:
        for broken in loaded.shown:
            note(f"line {broken.line}: {broken.why}")
        if loaded.unusable > len(loaded.shown):
            note(f"and {loaded.unusable - len(loaded.shown)} more")


def _say(audience: "Audience", loaded: "Loaded | None", *, json: bool) -> None:
    if json:
        lines = (
            {}
            if loaded is None
            else {
                "unusable": loaded.unusable,
                "shown": [asdict(broken) for broken in loaded.shown],
            }
        )
        print_json(_document(audience) | lines)
        return
    print_line(audience.name)
    if loaded is not None:
        left_out = f", {loaded.unusable} lines are left out" if loaded.unusable else ""
        note(f"{loaded.used} members{left_out}")


def _document(audience: "Audience") -> dict[str, object]:
    document = asdict(audience)
    created = iso(document.pop("created_ms"))
    return {k: v for k, v in document.items() if v is not None} | {"created": created}


@app.command("list", epilog="Example: mirrorpost audience list --json")
def list_(json: Json = False) -> None:
    """List all audiences by name."""
    from scheduler.broadcasts.audiences import list_ as all_audiences

    found = all_audiences(database())
    if json:
        print_json([_document(each) for each in found])
        return
    print_table(
        ["name", "kind", "value", "members", "created"],
        [(a.name, a.kind.value, a.value, a.members, shown_time(a.created_ms)) for a in found],
        nothing="There are no audiences: mirrorpost audience create --help shows how to make one.",
    )


@app.command(epilog="Example: mirrorpost audience show customers")
def show(name: Name, json: Json = False) -> None:
    """Show an audience, and of a list the first members."""
    from scheduler.broadcasts.audiences import first_members, get

    engine = database()
    found = _document(get(engine, name))
    first = first_members(engine, name, _SHOWN)
    if json:
        print_json(found | {"first": [{"target": t, "attributes": a} for t, a in first]})
        return
    print_table(["field", "value"], list(found.items()), "")
    if first:
        print_line("")
        print_table(["target", "attributes"], first, "")


@app.command(epilog="Example: mirrorpost audience remove customers")
def remove(name: Name) -> None:
    """Remove an audience; broadcasts that were checked keep their recipients."""
    from scheduler.broadcasts.audiences import remove as remove_audience

    remove_audience(database(), name)
