"""What a person changes: deliveries tried again, cancelled, resolved.

Part of the outbox: writes the state by `worker.states`, and lets go what waited behind
whatever it ends. Each is a few statements in the caller's transaction and gives the ids that
it changed; an id in another state than it is for is left alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import orjson
from sqlalchemy import Connection, text

from worker.database import NOW_MS
from worker.lanes import Lane
from worker.order import WAITS, WAITS_FOR_BROADCAST, queue, release
from worker.states import State, sources

#: From where a person may have a delivery tried again.
RETRYABLE = (State.FAILED, State.SUPPRESSED, State.HELD, State.UNKNOWN)
CANCELLABLE = sources(State.CANCELLED)
_IDS = {
    "sqlite": "(SELECT value FROM json_each(:ids))",
    "postgresql": "(SELECT json_array_elements_text(CAST(:ids AS json)))",
}


class Resolution(StrEnum):
    """What a person knows, or decides, of a delivery whose outcome nobody could know."""

    SENT = "sent"
    RESEND = "resend"
    DROP = "drop"


@dataclass(frozen=True, slots=True)
class Requeued:
    """A delivery that is queued again and not published yet."""

    id: str
    lane: Lane


def can_be_retried(dialect: str) -> str:
    """Give SQL that is true of a row `delivery` that `retry` changes.

    One that waits for an earlier one of its chat goes on waiting, and what must not go out any
    more stays where it is.
    """
    allowed = ", ".join(f"'{state}'" for state in RETRYABLE)
    return (
        f"delivery.state IN ({allowed}) "
        f"AND NOT (delivery.state = 'held' AND COALESCE(delivery.error_kind, '') IN "
        f"('{WAITS}', '{WAITS_FOR_BROADCAST}')) "
        f"AND (delivery.expires_ms IS NULL OR delivery.expires_ms > {NOW_MS[dialect]})"
    )


def retry(connection: Connection, ids: Sequence[str]) -> list[Requeued]:
    """Queue deliveries again, with all their attempts before them, where `can_be_retried`.

    What had ended comes after what its chat has in line by now. A chat that is noted as dead
    may be tried at once. What was `unknown` is sent again in doubt, as its platform allows.
    """
    dialect = connection.dialect.name
    rows = connection.execute(
        text(
            queue(
                dialect,
                f"id IN {_IDS[dialect]} AND {can_be_retried(dialect)}",
                changes="attempts_used = 0, begun_ms = NULL, published_ms = 0, "
                "ended_ms = NULL, error_kind = NULL, error_text = NULL",
                returning="id, lane, platform, account, chat_id",
            )
        ),
        {"ids": orjson.dumps(list(ids)).decode()},
    ).all()
    for chat in {(r.platform, r.account, r.chat_id) for r in rows if r.chat_id is not None}:
        connection.execute(
            text(
                "UPDATE dead_target SET probe_ms = 0 WHERE platform = :platform "
                "AND account = :account AND chat_id = :chat"
            ),
            dict(zip(("platform", "account", "chat"), chat, strict=True)),
        )
    for bot in {(r.platform, r.account) for r in rows if r.platform is not None}:
        connection.execute(
            text("DELETE FROM dead_credential WHERE platform = :platform AND account = :account"),
            dict(zip(("platform", "account"), bot, strict=True)),
        )
    return [Requeued(row.id, Lane(row.lane)) for row in rows]


def cancel(connection: Connection, ids: Sequence[str]) -> list[str]:
    """End deliveries that are not under way."""
    return _end(connection, ids, State.CANCELLED, CANCELLABLE)


def resolve(connection: Connection, id_: str, resolution: Resolution) -> list[Requeued] | None:
    """End the doubt about an `unknown` delivery; `None` when it is not unknown.

    What was sent is mirrored by the next repair, at the time at which it may have arrived.
    What is sent again is marked as a possible duplicate and not asked for; what must not go
    out any more is not.
    """
    dialect = connection.dialect.name
    unknown = (State.UNKNOWN,)
    match resolution:
        case Resolution.DROP:
            changed = _end(connection, [id_], State.CANCELLED, unknown)
        case Resolution.SENT:
            changed = _end(
                connection,
                [id_],
                State.SENT,
                unknown,
                at=f"COALESCE(doubt_ms, ended_ms, {NOW_MS[dialect]})",
                also=", mirror = 'failed'",
            )
        case Resolution.RESEND:
            changed = list(
                connection.execute(
                    text(
                        "UPDATE delivery SET maybe_duplicate = true, doubt_ms = NULL "
                        f"WHERE id = :id AND state = 'unknown' AND {can_be_retried(dialect)} "
                        "RETURNING id"
                    ),
                    {"id": id_},
                ).scalars()
            )
            return retry(connection, changed) if changed else None
    return [] if changed else None


def _end(
    connection: Connection,
    ids: Sequence[str],
    state: State,
    allowed: Sequence[State],
    *,
    at: str | None = None,
    also: str = "",
) -> list[str]:
    states = ", ".join(f"'{each}'" for each in allowed)
    rows = connection.execute(
        text(
            f"UPDATE delivery SET state = '{state}', ended_ms = "
            f"{at or NOW_MS[connection.dialect.name]}, doubt_ms = NULL{also} "
            f"WHERE id IN {_IDS[connection.dialect.name]} AND state IN ({states}) "
            "RETURNING id, order_key"
        ),
        {"ids": orjson.dumps(list(ids)).decode()},
    ).all()
    release(connection, {row.order_key for row in rows if row.order_key is not None})
    return [row.id for row in rows]
