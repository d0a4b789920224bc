"""The story of the demo, played in the home that the environment names.

A sandbox and a `mirrorpost up` run as any user would run them; then alice is linked, a cron
reminder fires, a producer that knows only Celery asks for a reply, a small broadcast goes
out, Slack answers 429 once and one mirror fails. Nothing in this file sends a message.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NoReturn

import httpx
from rich.console import Console
from sqlalchemy import Engine, text

from scheduler import schedules
from scheduler.children import Child, Program, Screen, end_all
from scheduler.deliveries import Filter, newest
from scheduler.demo_report import ALICE, Seen, missing, show
from scheduler.embedded_redis import answers
from scheduler.explain import explain_stored
from scheduler.guardian import GRACE_S, Guardian
from scheduler.producer import broadcast
from scheduler.stand_ins import free_port, is_open, sandbox_environment
from worker.database import engine
from worker.log import configure_logging
from worker.runtime import resolver_of
from worker.sessions import SessionManager
from worker.settings import settings

#: Seconds that everything together may take on a slow machine before the demo gives up.
_PATIENCE_S = 40.0
#: Seconds between two looks at what it waits for.
_LOOK_S = 0.05
#: Seconds ahead at which the cron reminder is due.
_SOON_S = 2
_LOG_LINES = 30

QUESTION = "When do we meet?"
REPLY = "In room 4, at ten"
REMINDER = "Stand-up in a minute"
NEWS = "Back at 22:00 UTC"
#: The first one is alice.
AUDIENCE = (
    "slack:U3003",
    "slack:C0TEAM",
    "telegram:1002",
    "telegram:-100200300",
    "discord:5005",
    "discord:6006",
)
#: All that this producer knows: a broker, a queue, the name of a task and its fields.
_PRODUCER = """
import sys
from celery import Celery

Celery(broker=sys.argv[1]).send_task(
    "mirrorpost.deliver",
    kwargs={"to": "user:alice", "text": sys.argv[2], "source": "assistant"},
    queue="mirrorpost",
)
"""
#: A real fault: the database refuses this one mirror until the trigger is gone.
_BREAK_MIRROR = text(
    f"CREATE TRIGGER demo_fault BEFORE INSERT ON message WHEN NEW.content = '{REMINDER}' "
    "BEGIN SELECT RAISE(ABORT, 'the demo lets this mirror fail'); END"
)
_MEND_MIRROR = text("DROP TRIGGER demo_fault")


class _GaveUp(Exception):
    """Something did not happen in time; the message says what."""


def main() -> int:
    """Play the story and show what came of it; 0 when everything in it really happened."""
    for name in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, _interrupt)
    configure_logging("ERROR")
    begun_s = time.monotonic()
    console = Console(highlight=False)
    log = settings().data_dir / "up.log"
    try:
        with console.status("") as status:
            seen = _play(log, say=status.update, until_s=begun_s + _PATIENCE_S)
    except _GaveUp as gave_up:
        console.print(f"The demo gave up waiting for {gave_up}. The end of its log:", style="red")
        lines = log.read_text().splitlines()[-_LOG_LINES:]
        console.print("\n".join(lines), markup=False, soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        console.print("The demo was ended; nothing of it is left.")
        return 130
    show(console, seen, took_s=time.monotonic() - begun_s)
    return 1 if missing(seen) else 0


def _interrupt(_number: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt


def _play(log: Path, *, say: Callable[[str], None], until_s: float) -> Seen:
    """Start everything, let the story happen, end everything."""

    def wait_for(what: str, condition: Callable[[], bool]) -> None:
        say(f"Waiting for {what}")
        while not condition():
            if time.monotonic() >= until_s:
                raise _GaveUp(what)
            time.sleep(_LOOK_S)

    port = free_port()
    with _running(log, port):
        wait_for(
            "the sandbox and Redis", lambda: is_open(port) and answers(settings().redis_socket)
        )
        database = engine(settings().database)
        try:
            return _tell(database, f"http://127.0.0.1:{port}/_sandbox", wait_for)
        finally:
            database.dispose()
            say("Ending everything")


@contextmanager
def _running(log: Path, port: int) -> Iterator[None]:
    """Run a sandbox, and a `mirrorpost up` that is pointed at it."""
    sandbox = ("-m", "worker.sandbox", "--port", str(port))
    up = ("-c", "from scheduler.supervisor import up; raise SystemExit(up(sandbox=False))")
    environment = sandbox_environment(f"http://127.0.0.1:{port}")
    programs = (
        Program("sandbox", (sys.executable, "-P", *sandbox), ends_in_round=2),
        Program("up", (sys.executable, "-P", *up), ends_in_round=1, environment=environment),
    )
    with log.open("a") as file:
        guardian = Guardian()
        children = [Child(program, guardian, Screen(file)) for program in programs]
        try:
            for child in children:
                child.start()
            yield
        finally:
            # Asked twice, `up` waits for no soft shutdown; there is nothing left to do.
            for child in children:
                if child.pid is not None:
                    with suppress(ProcessLookupError):
                        os.kill(child.pid, signal.SIGINT)
            end_all(children, within_s=GRACE_S, hurry=lambda: False)
            guardian.close()


def _tell(
    database: Engine, sandbox: str, wait_for: Callable[[str, Callable[[], bool]], None]
) -> Seen:
    resolver = resolver_of(settings(), database)
    sessions = SessionManager(database, resolver=resolver)
    for platform, account in ALICE.items():
        resolver.link(platform, account, "alice")
    # Where she wrote last is where a reply to her goes.
    sessions.record("discord", ALICE["discord"], "user", QUESTION)

    _post_fault(sandbox, {"platform": "slack", "chat": "U3003", "fault": "429", "times": 1})
    with database.begin() as connection:
        connection.execute(_BREAK_MIRROR)

    soon = datetime.now(UTC) + timedelta(seconds=_SOON_S)
    schedules.schedule(
        "stand-up",
        to=f"telegram:{ALICE['telegram']}",
        text=REMINDER,
        cron=f"{soon.second} * * * * *",
    )
    _ask_for_reply()
    broadcast(to=AUDIENCE, text=NEWS, id="maintenance")

    def sent(words: str) -> bool:
        return any(row.text == words and row.state == "sent" for row in newest(database, Filter()))

    wait_for("the cron reminder", lambda: sent(REMINDER))
    reminder = next(row for row in newest(database, Filter()) if row.text == REMINDER)
    failed = explain_stored(database, reminder)
    with database.begin() as connection:
        connection.execute(_MEND_MIRROR)
    wait_for("the reply", lambda: sent(REPLY))
    expected = len(AUDIENCE) + 2
    wait_for(
        "the broadcast, and Slack to take it after its 429",
        lambda: sum(row.state == "sent" for row in newest(database, Filter())) >= expected,
    )
    wait_for(
        "the repair of the mirror",
        lambda: all(row.mirror == "done" for row in newest(database, Filter())),
    )
    rows = newest(database, Filter())
    limited = next(row for row in rows if row.target == AUDIENCE[0])
    return Seen(
        accepted=httpx.get(f"{sandbox}/messages").json(),
        answers=httpx.get(f"{sandbox}/requests").json(),
        deliveries=tuple(rows),
        history=tuple(sessions.messages("alice")),
        limited=tuple(explain_stored(database, limited)),
        mirror_failed=tuple(failed),
        repaired=tuple(explain_stored(database, next(r for r in rows if r.id == reminder.id))),
    )


def _post_fault(sandbox: str, fault: dict[str, object]) -> None:
    httpx.post(f"{sandbox}/faults", json=fault | {"retry_after": 1}).raise_for_status()


def _ask_for_reply() -> None:
    """Ask as a program in another repository would: isolated, with nothing of ours imported."""
    command = [sys.executable, "-I", "-c", _PRODUCER, settings().broker, REPLY]
    subprocess.run(command, check=True)  # noqa: S603 - all of it is ours


if __name__ == "__main__":
    sys.exit(main())
