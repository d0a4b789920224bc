"""Marks: what is noted on rows beside their way: mirrors, and what waits for a credential.

Part of the outbox.
"""

from collections.abc import Sequence

from sqlalchemy import Connection, text

from worker.tables import HELD_OTHERWISE


def mark_mirror_failed(connection: Connection, delivery_ids: Sequence[str]) -> None:
    """Note that what was sent is not in the history yet."""
    connection.execute(
        text("UPDATE delivery SET mirror = 'failed' WHERE id = :id"),
        [{"id": id_} for id_ in delivery_ids],
    )


def mark_mirrored(connection: Connection, delivery_id: str, unified_user: str) -> None:
    """Note that a delivery is in its person's history now."""
    connection.execute(
        text("UPDATE delivery SET mirror = 'done', unified_user = :user WHERE id = :id"),
        {"id": delivery_id, "user": unified_user},
    )


def release_held(
    connection: Connection, *, platform: str, account: str, credential_print: str
) -> int:
    """Queue what waits for another credential than the one that is there now."""
    return connection.execute(
        text(
            f"UPDATE delivery SET state = 'queued', published_ms = 0 WHERE {HELD_OTHERWISE} "
            "AND platform = :platform AND account = :account AND error_kind = 'auth' "
            "AND COALESCE(credential_print, '') <> :print"
        ),
        {"platform": platform, "account": account, "print": credential_print},
    ).rowcount


def held_accounts(connection: Connection) -> list[tuple[str, str]]:
    """Give the platforms and accounts for which something waits."""
    rows = connection.execute(
        text(
            "SELECT DISTINCT platform, account FROM delivery "
            f"WHERE {HELD_OTHERWISE} AND platform IS NOT NULL"
        )
    )
    return [(row.platform, row.account) for row in rows]
