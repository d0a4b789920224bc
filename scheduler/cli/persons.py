"""`mirrorpost people`: what is known of people, for templates and their quiet hours."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scheduler.cli.output import Json, fail, note, print_json, print_table
from scheduler.cli.progress import progress, uninterrupted
from scheduler.cli.state import database, resolver_on, say_only_errors

if TYPE_CHECKING:
    from worker.people.views import PersonView

app = typer.Typer(no_args_is_help=True, help="Say what is known of people.")

User = Annotated[str, typer.Argument(help="A person, or an account as telegram:4711.")]
Tag = Annotated[str, typer.Argument(help="Such as beta.")]


@app.command(
    "set", epilog="Example: mirrorpost people set alice name=Alice plan=pro --timezone Europe/Paris"
)
def set_(
    user: User,
    attributes: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME=VALUE]...", help="For templates.")
    ] = None,
    timezone: Annotated[str | None, typer.Option(help="Their time zone: Europe/Paris.")] = None,
    json: Json = False,
) -> None:
    """Add attributes to a person's, and say in which time zone they live."""
    from scheduler import people

    say_only_errors()
    engine = database()
    pairs = dict(_pair(each) for each in attributes or ())
    _show(people.save(engine, resolver_on(engine), user, attributes=pairs, zone=timezone), json)


@app.command(epilog="Example: mirrorpost people show alice")
def show(user: User, json: Json = False) -> None:
    """Show what is known of a person."""
    from scheduler import people

    say_only_errors()
    engine = database()
    _show(people.show(engine, resolver_on(engine), user), json)


@app.command("list", epilog="Example: mirrorpost people list --tag beta --json")
def list_(
    tag: Annotated[str | None, typer.Option(help="Only who has this tag.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 1000,
    json: Json = False,
) -> None:
    """List people of whom anything is known."""
    from worker.database import reading
    from worker.people.views import list_people

    with reading(database()) as connection:
        found = list_people(connection, tag=tag, limit=limit)
    if json:
        print_json([each.as_json() for each in found])
        return
    print_table(
        ["user", "time zone", "tags", "opted out of", "attributes"],
        [
            (
                each.unified_user,
                each.timezone,
                ", ".join(each.tags),
                ", ".join(topic or "(everything)" for topic in each.opted_out),
                ", ".join(f"{name}={value}" for name, value in each.attributes.items()),
            )
            for each in found
        ],
        nothing="Nothing is known of anybody: mirrorpost people set alice name=Alice",
    )


@app.command(epilog="Example: mirrorpost people tag alice beta")
def tag(user: User, tag: Tag, json: Json = False) -> None:
    """Give a person a tag."""
    from scheduler import people

    say_only_errors()
    engine = database()
    whom = people.tag(engine, resolver_on(engine), user, tag)
    if json:
        print_json({"user": whom, "tag": tag, "tagged": True})
        return
    note(f"{whom} has the tag {tag}")


@app.command(epilog="Example: mirrorpost people untag alice beta")
def untag(user: User, tag: Tag, json: Json = False) -> None:
    """Take a tag away; exit 1 when it was not there."""
    from scheduler import people

    say_only_errors()
    engine = database()
    if not people.untag(engine, resolver_on(engine), user, tag):
        fail(f"{user} has no tag {tag!r}: mirrorpost people show {user}")
        raise typer.Exit(1)
    if json:
        print_json({"user": user, "tag": tag, "tagged": False})
        return
    note(f"{user} has the tag {tag} no more")


@app.command("import", epilog="Example: mirrorpost people import people.csv --skip-bad")
def import_(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="A .csv with a column user, or a .jsonl of objects with one."
        ),
    ],
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Store the good lines although others are broken.")
    ] = False,
    json: Json = False,
) -> None:
    """Add what a file says of people; timezone and tags are known columns, the rest attributes."""
    from scheduler import people
    from scheduler.people_file import read_people

    say_only_errors()
    engine = database()
    checked = people.check_lines(read_people(file))
    for line in checked.first:
        note(f"line {line.number}: {line.wrong}")
    if checked.bad > len(checked.first):
        note(f"and {checked.bad - len(checked.first)} more")
    refused = checked.bad > 0 and not skip_bad
    if refused or not checked.good:
        why = "mend them, or say --skip-bad to store the rest" if refused else "nothing to store"
        fail(f"{checked.bad} of {checked.bad + checked.good} lines are broken: {why}")
        raise typer.Exit(1)
    stored = 0
    with progress("storing", checked.good) as advance:
        try:
            batches = people.save_lines(engine, resolver_on(engine), read_people(file))
            while True:
                with uninterrupted():
                    count = next(batches, 0)
                    stored += count
                if not count:
                    break
                advance(count)
        except KeyboardInterrupt:
            note(f"interrupted: {stored} of {checked.good} were stored; run it again for the rest")
            raise
    if json:
        print_json({"stored": stored, "bad": checked.bad})
        return
    note(f"{stored} are stored" + (f", {checked.bad} broken lines left out" if checked.bad else ""))


def _pair(text: str) -> tuple[str, str]:
    from worker.errors import Refused

    name, equals, value = text.partition("=")
    if not equals:
        raise Refused(f"{text!r} is no attribute: write name=value, such as plan=pro")
    return name, value


def _show(person: "PersonView", json: bool) -> None:
    shown = person.as_json()
    if json:
        print_json(shown)
        return
    rows: list[tuple[str, object]] = [("user", person.unified_user), ("time zone", person.timezone)]
    rows += [("tags", ", ".join(person.tags))] if person.tags else []
    rows += (
        [("opted out of", ", ".join(topic or "(everything)" for topic in person.opted_out))]
        if person.opted_out
        else []
    )
    rows += list(person.attributes.items())
    print_table(["what", "value"], [(k, v) for k, v in rows if v is not None], "")
