"""`mirrorpost deliveries`: what became of what was asked for."""

from typing import TYPE_CHECKING, Annotated

import typer

from scheduler.cli.amend import add_to as add_amend
from scheduler.cli.fields import parse_moment
from scheduler.cli.output import Json, iso, note, print_json, print_lines, print_table, shown_time
from scheduler.cli.replay import add_to as add_replay
from scheduler.cli.state import database

if TYPE_CHECKING:
    from worker.tables import AttemptRow, DeliveryRow

app = typer.Typer(no_args_is_help=True, help="See what became of deliveries, and why.")

add_replay(app)
add_amend(app)

Id = Annotated[str, typer.Argument(metavar="ID", help="A delivery's id, or its beginning.")]


@app.command("list", epilog="Example: mirrorpost deliveries list --status held --limit 20")
def list_(  # noqa: PLR0917 - every parameter is an option of its own
    status: Annotated[
        str | None, typer.Option(help="Only these: queued, sent, held, retrying, failed, ...")
    ] = None,
    target: Annotated[str | None, typer.Option(help="Only those for this target.")] = None,
    platform: Annotated[str | None, typer.Option(help="Only those of this platform.")] = None,
    since: Annotated[
        str | None, typer.Option(help="Asked for since: 2027-01-31T09:00, or 2d ago.")
    ] = None,
    error_kind: Annotated[str | None, typer.Option(help="Only with this last error.")] = None,
    broadcast: Annotated[
        str | None, typer.Option(help="Only those of the broadcast of this name.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 100,
    json: Json = False,
) -> None:
    """List deliveries, the newest first."""
    from scheduler.broadcasts.progress import named
    from scheduler.deliveries import Filter, newest

    engine = database()
    part_of = None if broadcast is None else named(engine, broadcast).id
    which = Filter(status, target, platform, parse_moment(since), error_kind, part_of)
    rows = newest(engine, which, limit=limit + 1)
    if len(rows) > limit:
        note(f"There are more; --limit {limit * 10} shows more of them.")
        rows = rows[:limit]
    if json:
        print_json([as_object(row) for row in rows])
        return
    print_table(
        ["id", "status", "target", "due", "source", "text", "why"],
        [
            (
                row.id,
                row.state,
                row.target,
                shown_time(row.due_ms),
                row.source,
                _short(row.text),
                _short(row.error_text or ""),
            )
            for row in rows
        ],
        nothing="There are no such deliveries.",
    )


@app.command(epilog="Example: mirrorpost deliveries show 0192f3 --json")
def show(id_: Id, json: Json = False) -> None:
    """Show everything that is stored about one delivery."""
    from scheduler.deliveries import attempts_of, find

    engine = database()
    row = find(engine, id_)
    found = as_object(row) | {"attempts": [_attempt(a) for a in attempts_of(engine, row.id)]}
    if json:
        print_json(found)
        return
    attempts = found.pop("attempts")
    print_table(["field", "value"], [(k, v) for k, v in found.items() if v is not None], "")
    if isinstance(attempts, list) and attempts:
        print_lines([""])
        print_table(list(attempts[0]), [list(a.values()) for a in attempts], "")


@app.command(epilog="Example: mirrorpost deliveries explain 0192f3")
def explain(id_: Id, json: Json = False) -> None:
    """Say in words why a delivery was sent, held, late, doubled or dropped."""
    from scheduler.deliveries import find
    from scheduler.explain import explain_stored

    engine = database()
    row = find(engine, id_)
    lines = explain_stored(engine, row)
    if json:
        print_json(as_object(row) | {"explanation": lines})
        return
    print_lines(lines)


def as_object(row: "DeliveryRow") -> dict[str, object]:
    """Give a delivery as JSON shows it."""
    return {
        "id": row.id,
        "status": row.state,
        "target": row.target,
        "text": row.text,
        "source": row.source,
        "topic": row.topic,
        "lane": row.lane,
        "key": row.key,
        "platform": row.platform,
        "account": row.account or None,
        "chat_id": row.chat_id,
        "thread_id": row.thread_id,
        "unified_user": row.unified_user,
        "metadata": row.details,
        "reply_to": row.reply_to,
        "silent": row.silent,
        "policy": row.policy,
        "created_at": iso(row.created_ms),
        "due_at": iso(row.due_ms),
        "expires_at": iso(row.expires_ms),
        "ended_at": iso(row.ended_ms),
        "attempts_used": row.attempts_used,
        "error_kind": row.error_kind,
        "error": row.error_text,
        "maybe_duplicate": row.maybe_duplicate,
        "doubt_since": iso(row.doubt_ms),
        "order_key": row.order_key,
        "receipt": row.receipt,
        "mirror": row.mirror,
        "action": row.action,
        "refers_to": row.refers_to,
    }


def _attempt(row: "AttemptRow") -> dict[str, object]:
    return {
        "attempt": row.attempt,
        "part": row.part,
        "fenced": row.fenced,
        "started_at": iso(row.started_ms),
        "took_ms": row.took_ms,
        "outcome": row.outcome,
        "http_status": row.http_status,
        "code": row.code,
        "retry_after_ms": row.retry_after_ms,
        "error": row.text,
        "worker": row.owner,
    }


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 60 else f"{line[:59]}…"  # noqa: PLR2004 - columns of a table
