"""What the demo shows at its end, and whether everything in it really happened.

Pure apart from printing: works on what was seen, which is the sandbox's own record and the
rows, never on what the demo meant to do.
"""

from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime

from rich.console import Console
from rich.table import Table

from worker.sessions import StoredMessage
from worker.tables import DeliveryRow

#: Alice's accounts.
ALICE = {"telegram": "1001", "discord": "2002", "slack": "U3003"}
#: Messages that each platform must have accepted, no more and no less.
_ACCEPTED = {"telegram": 3, "discord": 3, "slack": 2}
_HTTP_TOO_MANY = "429"


@dataclass(frozen=True, slots=True)
class Seen:
    """What the demo saw.

    Attributes:
        accepted: The sandbox's record of messages.
        answers: The sandbox's count of requests by platform and status.
        history: Alice's.
        limited: The explanation of the delivery that was answered 429.
        mirror_failed: The explanation of the reminder before its mirror was repaired.
        repaired: And after.
    """

    accepted: list[dict[str, str | None]]
    answers: dict[str, dict[str, int]]
    deliveries: tuple[DeliveryRow, ...]
    history: tuple[StoredMessage, ...]
    limited: tuple[str, ...]
    mirror_failed: tuple[str, ...]
    repaired: tuple[str, ...]


def missing(seen: Seen) -> list[str]:
    """Say what did not happen as it should; nothing when all did."""
    expected = sum(_ACCEPTED.values())
    accepted = Counter(message["platform"] for message in seen.accepted)
    once = Counter((message["platform"], message["chat"]) for message in seen.accepted)
    mirrored = {message.platform for message in seen.history if message.mirror}
    sources = {row.source for row in seen.deliveries}
    checks = {
        f"the platforms accepted {dict(accepted)}, not {_ACCEPTED}": accepted == _ACCEPTED,
        "a chat got a message twice": max(once.values(), default=0) == 1,
        "Slack did not answer 429 once": seen.answers.get("slack", {}).get(_HTTP_TOO_MANY) == 1,
        f"not all {expected} deliveries are sent with a receipt": len(seen.deliveries) == expected
        and all(row.state == "sent" and row.receipt for row in seen.deliveries),
        f"the sources are {sorted(sources)}": len(sources) == 3,  # noqa: PLR2004 - cron, producer, broadcast
        "no mirror failed": any("writing it failed" in line for line in seen.mirror_failed),
        "a mirror is missing": all(row.mirror == "done" for row in seen.deliveries),
        "alice's history does not have what she wrote and three mirrors": len(seen.history)
        == len(ALICE) + 1,
        f"alice's mirrors are from {mirrored}": mirrored == set(ALICE),
    }
    return [wrong for wrong, right in checks.items() if not right]


def show(console: Console, seen: Seen, *, took_s: float) -> None:
    """Print what was seen and where to look further."""
    console.print(_accepted_table(seen))
    console.print(_history_table(seen))
    console.print("\n[bold]Slack answered 429 once[/bold] (mirrorpost deliveries explain ID)")
    _print_lines(console, [line for line in seen.limited if line.startswith(("Attempt", "It "))])
    console.print("\n[bold]A mirror failed; the reminder went out all the same[/bold]")
    _print_lines(
        console, [seen.repaired[1], *seen.mirror_failed[-2:], f"Then: {seen.repaired[-1]}"]
    )
    wrong = missing(seen)
    for line in wrong:
        console.print(f"Not as it should be: {line}", style="red", markup=False)
    if not wrong:
        console.print(
            f"\n{len(seen.deliveries)} messages by cron, a Celery producer and a broadcast: each "
            f"accepted once, all in their histories. {took_s:.0f} s, nothing left behind.",
            style="green",
        )
    console.print(_WHERE_NEXT, markup=False)


_WHERE_NEXT = """
The same, to look around in; the first in one terminal, the rest in another:

  mirrorpost up --sandbox
  mirrorpost identity link telegram 1001 alice
  mirrorpost send user:alice "hello" --wait
  mirrorpost schedule add tea --every 1m --to telegram:1001 --text "Tea"
  mirrorpost deliveries list
  mirrorpost deliveries explain ID
  mirrorpost history alice

For the real thing: mirrorpost doctor names the token that is missing.
"""


def _accepted_table(seen: Seen) -> Table:
    table = Table("platform", "to", "text", "its id", title="What each platform accepted")
    in_order = sorted(seen.accepted, key=lambda m: (m["platform"] or "", m["at"] or ""))
    before = None
    for message in in_order:
        platform, to = message["platform"] or "", message["recipient"] or message["chat"] or ""
        if before not in {None, platform}:
            table.add_section()
        is_alice = ALICE.get(platform) == to
        table.add_row(
            "" if platform == before else platform,
            f"{to} (alice)" if is_alice else to,
            message["text"],
            message["id"],
        )
        before = platform
    return table


def _history_table(seen: Seen) -> Table:
    table = Table("time", "who", "platform", "text", title="Alice's one history")
    for message in seen.history:
        at = datetime.fromtimestamp(message.timestamp_ms / 1000, UTC)
        who = f"mirror ({message.mirror_source})" if message.mirror else "alice"
        table.add_row(f"{at:%H:%M:%S} UTC", who, message.platform, message.content)
    return table


def _print_lines(console: Console, lines: list[str]) -> None:
    for line in lines:
        console.print(f"  {line}", markup=False, soft_wrap=True)
