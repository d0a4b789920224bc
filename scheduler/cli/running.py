"""What runs and what looks after it: `up`, `demo`, `sandbox`, `migrate`, `doctor`, `bench`."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from scheduler.cli.output import Json, fail, note, print_json, print_line, print_lines


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(epilog="Example: mirrorpost up --sandbox")(up)
    app.command(epilog="Example: mirrorpost demo")(demo)
    app.command(epilog="Example: mirrorpost sandbox --port 8089")(sandbox)
    app.command(epilog="Example: mirrorpost doctor --json")(doctor)
    app.command(epilog="Example: mirrorpost migrate")(migrate)
    app.command(epilog="Example: mirrorpost bench")(bench)


def up(
    sandbox: Annotated[
        bool, typer.Option("--sandbox", help="Send to stand-ins on loopback, not to platforms.")
    ] = False,
) -> None:
    """Run a worker and a scheduler, and a Redis where none is configured; Ctrl-C ends them."""
    from scheduler.supervisor import up as run

    raise typer.Exit(run(sandbox=sandbox))


def demo() -> None:
    """Show the whole path in some seconds, with stand-ins for the platforms and no token."""
    from scheduler.demo import demo as run

    raise typer.Exit(run())


def sandbox(
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Where to listen; 0 takes a free port.")
    ] = 0,
) -> None:
    """Stand in for Telegram, Discord and Slack on loopback until Ctrl-C."""
    import asyncio

    from worker.sandbox.__main__ import run

    try:
        asyncio.run(run("127.0.0.1", port, limits=True))
    except OSError as error:
        fail(f"the sandbox cannot listen on port {port} ({error.strerror}): name another --port")
        raise typer.Exit(1) from None


def migrate(json: Json = False) -> None:
    """Bring the database up to this version; safe to run again and from several places."""
    from scheduler.cli.state import say_only_errors
    from worker import database
    from worker.errors import SchemaOutdated
    from worker.settings import settings

    say_only_errors()
    engine = database.engine(settings().database)
    changed = False
    try:
        database.check_schema(engine)
    except SchemaOutdated:
        database.migrate(engine)
        changed = True
    shown = engine.url.render_as_string(hide_password=True)
    if json:
        print_json({"database": shown, "changed": changed})
    else:
        print_line(f"{shown} {'is migrated' if changed else 'was up to date'}")
    if os.environ.get("HONCHO_PROCESS_NAME", "").startswith("release."):
        # honcho start ends everything when the first process ends, the release step too.
        signal.pause()


def doctor(json: Json = False) -> None:
    """Check what a delivery needs: database, Redis, broker, credentials, and what is stuck."""
    from scheduler.cli.state import say_only_errors
    from scheduler.doctor import examine
    from worker.settings import settings

    say_only_errors()
    found = examine(settings())
    if json:
        print_json(found.as_object())
    else:
        print_lines(found.lines())
    if found.problems:
        raise typer.Exit(1)


def bench() -> None:
    """Measure throughput, CPU and latency on this machine (in a checkout)."""
    checkout = Path(__file__).parents[2]
    if not (checkout / "tests" / "bench" / "__main__.py").is_file():
        note("The benchmarks live in a checkout of the source: run mirrorpost bench there.")
        raise typer.Exit(1)
    done = subprocess.run([sys.executable, "-m", "tests.bench"], cwd=checkout, check=False)
    raise typer.Exit(done.returncode)
