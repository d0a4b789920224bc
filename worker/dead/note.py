"""Note what platforms say about chats and credentials; called in the transaction of the settle."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import structlog
from sqlalchemy import Connection, TextClause, text

from worker.database import NOW_MS
from worker.dead.keys import KEY, Dead, packed, same
from worker.json_rows import rows_from_json
from worker.taxonomy import CONSEQUENCES, Failure

_log = structlog.get_logger(__name__)

#: Milliseconds between two tries whether a chat is alive again, over all workers.
PROBE_EVERY_MS = 3_600_000

_NOTED = {**KEY, "kind": "text", "reason": "text", "moved_to": "text"}
_REFUSED = {"platform": "text", "account": "text", "print": "text", "reason": "text"}


@dataclass(frozen=True, slots=True)
class Tried:
    """A try that failed.

    Attributes:
        thread_id: Empty outside threads.
        credential_print: Of the credential that was refused.
    """

    delivery_id: str
    platform: str
    account: str
    chat_id: str
    thread_id: str
    failure: Failure
    credential_print: str | None = None


def note(connection: Connection, tries: Sequence[Tried]) -> None:
    """Note which chats are dead or have moved and which credentials are refused.

    Each is logged once, by whichever worker notes it first, and not again until a chat was
    alive or a bot had another credential in between.
    """
    targets: dict[Dead, Tried] = {}
    refused: dict[tuple[str, str], Tried] = {}
    for tried in tries:
        failure = tried.failure
        consequence = CONSEQUENCES[failure.kind]
        if consequence.credential_dead and tried.credential_print:
            refused[tried.platform, tried.account] = tried
        elif consequence.target_dead or failure.moved_to is not None:
            if failure.thread_only and not tried.thread_id:
                # A closed general topic: written to without a thread, as the group is.
                continue
            thread = tried.thread_id if failure.thread_only else ""
            targets[Dead(tried.platform, tried.account, tried.chat_id, thread)] = tried
    if targets:
        _note_targets(connection, targets)
    if refused:
        _note_credentials(connection, refused)


def _note_targets(connection: Connection, targets: Mapping[Dead, Tried]) -> None:
    dialect = connection.dialect.name
    # In one order, so that two workers that note the same chats do not wait for each other.
    rows = {key: _row(key, targets[key].failure) for key in sorted(targets)}
    found = connection.execute(_insert(dialect), {"rows": packed(rows.values())})
    new = {Dead(*row) for row in found}
    if known := [row for key, row in rows.items() if key not in new]:
        connection.execute(_renew(dialect), {"rows": packed(known)})
    if moved := [row for row in rows.values() if row["moved_to"] is not None]:
        for statement in _shorten(dialect):
            connection.execute(statement, {"rows": packed(moved)})
    for key in sorted(new):
        failure = targets[key].failure
        _log.warning(
            "target_dead" if failure.moved_to is None else "target_moved",
            platform=key.platform,
            account=key.account,
            error_kind=failure.kind.value,
            reason=failure.text,
            delivery=targets[key].delivery_id,
        )


def _row(key: Dead, failure: Failure) -> dict[str, object]:
    return {
        **key._asdict(),
        "kind": failure.kind.value,
        "reason": failure.text,
        "moved_to": failure.moved_to,
    }


@cache
def _insert(dialect: str) -> TextClause:
    now = NOW_MS[dialect]
    return text(
        f"""
        INSERT INTO dead_target (platform, account, chat_id, thread_id, kind, reason, since_ms,
            probe_ms, moved_to)
        SELECT platform, account, chat_id, thread_id, kind, reason, {now},
            {now} + {PROBE_EVERY_MS}, moved_to
        FROM ({rows_from_json(dialect, _NOTED)}) AS r WHERE true
        ON CONFLICT DO NOTHING RETURNING platform, account, chat_id, thread_id
        """
    )


@cache
def _renew(dialect: str) -> TextClause:
    # What has moved has moved, whatever its old id says later.
    return text(
        f"""
        UPDATE dead_target SET
            kind = CASE WHEN r.moved_to IS NULL AND dead_target.moved_to IS NOT NULL
                   THEN dead_target.kind ELSE r.kind END,
            reason = r.reason, probe_ms = {NOW_MS[dialect]} + {PROBE_EVERY_MS},
            followed = COALESCE(dead_target.followed AND (r.moved_to IS NULL
                       OR r.moved_to = dead_target.moved_to), false),
            moved_to = COALESCE(r.moved_to, dead_target.moved_to)
        FROM ({rows_from_json(dialect, _NOTED)}) AS r WHERE {same("r")}
        """
    )


@cache
def _shorten(dialect: str) -> tuple[TextClause, TextClause]:
    """Let each move name the last id of a chain, so that no look-up follows one or circles."""
    rows = f"({rows_from_json(dialect, _NOTED)}) AS r"
    return (
        text(
            "DELETE FROM dead_target WHERE (platform, account, chat_id) IN "
            f"(SELECT platform, account, moved_to FROM {rows}) AND moved_to IS NOT NULL"
        ),
        text(
            f"UPDATE dead_target SET moved_to = r.moved_to, followed = false FROM {rows} "
            "WHERE dead_target.platform = r.platform AND dead_target.account = r.account "
            "AND dead_target.moved_to = r.chat_id"
        ),
    )


def _note_credentials(connection: Connection, refused: Mapping[tuple[str, str], Tried]) -> None:
    rows = [
        {
            "platform": platform,
            "account": account,
            "print": refused[platform, account].credential_print,
            "reason": refused[platform, account].failure.text,
        }
        for platform, account in sorted(refused)
    ]
    statement = _insert_credentials(connection.dialect.name)
    for row in connection.execute(statement, {"rows": packed(rows)}):
        _log.error("credential_dead", platform=row.platform, account=row.account, reason=row.reason)


@cache
def _insert_credentials(dialect: str) -> TextClause:
    return text(
        f"""
        INSERT INTO dead_credential (platform, account, credential_print, reason, since_ms)
        SELECT platform, account, print, reason, {NOW_MS[dialect]}
        FROM ({rows_from_json(dialect, _REFUSED)}) AS r WHERE true
        ON CONFLICT (platform, account) DO UPDATE SET reason = excluded.reason,
            credential_print = excluded.credential_print, since_ms = excluded.since_ms
        WHERE dead_credential.credential_print <> excluded.credential_print
        RETURNING platform, account, reason
        """
    )
