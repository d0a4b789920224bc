"""`mirrorpost history`: a person's one conversation over all platforms."""

from typing import TYPE_CHECKING, Annotated

import typer

from scheduler.cli.output import Json, print_json, print_table, shown_time
from scheduler.cli.state import database

if TYPE_CHECKING:
    from worker.sessions import StoredMessage


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog="Example: mirrorpost history alice --limit 20")(history)


def history(
    user: Annotated[str, typer.Argument(help="A person, or an account as telegram:4711.")],
    limit: Annotated[int, typer.Option(min=1, help="The newest so many.")] = 1000,
    json: Json = False,
) -> None:
    """Show a person's messages over all platforms, the oldest first."""
    from worker.runtime import resolver_of
    from worker.sessions import SessionManager
    from worker.settings import settings

    engine = database()
    sessions = SessionManager(engine, resolver=resolver_of(settings(), engine))
    messages = sessions.messages(sessions._storage_key(user), limit)
    if json:
        print_json([_as_object(message) for message in messages])
        return
    print_table(
        ["when", "who", "where", "text"],
        [
            (
                shown_time(m.timestamp_ms),
                f"{m.role} ({m.mirror_source})" if m.mirror else m.role,
                ":".join(part for part in (m.platform, m.chat) if part),
                m.content,
            )
            for m in messages
        ],
        nothing=f"{user} has no history.",
    )


def _as_object(message: "StoredMessage") -> dict[str, object]:
    """Give the entry that a language model gets, with where it was said beside it."""
    return message.entry() | {
        "mirror": message.mirror,
        "platform": message.platform,
        "chat": message.chat,
        "delivery_id": message.delivery_id,
        "platform_message_ids": list(message.platform_message_ids),
        "metadata": message.metadata,
    }
