"""The history of every conversation: what people wrote, what was answered, what was mirrored.

`SessionManager` is what bots, the command line and `mirror_to_session` use; the pipeline
writes its mirrors through `append`. Appending reads nothing of what is there.
"""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import sqlalchemy as sa

from resolvers.protocol import IdentityResolverProtocol
from worker.errors import Refused
from worker.sessions import entries, keys
from worker.sessions.entries import Entry
from worker.sessions.table import MESSAGE
from worker.sessions.writers import settle_writes

#: Messages. The newest ones that a bot's turn is given; `history` has all of them.
TURN_WINDOW: Final = 1000

#: Where a page ends: the messages before this time (epoch milliseconds UTC, ISO 8601, an aware
#: `datetime`), or before this exact message (time in milliseconds, id).
Before = int | str | datetime | tuple[int, int]

#: Index: ix_message_history, backwards. The row value is what lets both databases seek to it.
_NEWEST: Final = (
    sa.select(MESSAGE)
    .where(
        MESSAGE.c.session_key == sa.bindparam("key"),
        sa.tuple_(MESSAGE.c.timestamp_ms, MESSAGE.c.id)
        < sa.tuple_(
            sa.bindparam("before_ms", type_=sa.BigInteger),
            sa.bindparam("before_id", type_=sa.BigInteger),
        ),
    )
    .order_by(MESSAGE.c.timestamp_ms.desc(), MESSAGE.c.id.desc())
    .limit(sa.bindparam("at_most", type_=sa.BigInteger))
)
_APPEND: Final = sa.insert(MESSAGE)

_END: Final = 2**63 - 1


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """One message with everything that its row holds; see `MessageRow`."""

    id: int
    session_key: str
    role: str
    content: str
    timestamp_ms: int
    platform: str | None
    chat: str | None
    mirror: bool
    mirror_source: str | None
    delivery_id: str | None
    platform_message_ids: tuple[str, ...]
    metadata: Entry

    def entry(self) -> Entry:
        """Return the dict for a language model; metadata cannot override a key of its own."""
        source = (self.mirror_source or "") if self.mirror else None
        return entries.assemble(self.role, self.content, self.timestamp_ms, source, self.metadata)


class SessionManager:
    """Keep one conversation per person, in SQL, over all platforms.

    Safe to share between threads; several processes may use one database. The schema is made by
    `mirrorpost migrate`.

    Example:
        >>> sessions = SessionManager(engine, resolver=resolver, platform="telegram")
        >>> sessions.record("telegram", "4711", "user", "when is it?")
        >>> sessions.history(resolver.resolve("telegram", "4711"), limit=20)

    Args:
        engine: Of the database that holds the table `message`.
        resolver: Says who an account is. Without one every account is a conversation of its
            own, under `bot_{platform}_{user_id}`.
        platform: The platform whose raw user ids the underscored methods are given; empty for a
            manager that is given unified ids.
    """

    def __init__(
        self,
        engine: sa.Engine,
        *,
        resolver: IdentityResolverProtocol | None = None,
        platform: str = "",
    ) -> None:
        self._engine = engine
        self._resolver = resolver
        self._platform = platform
        self._saving = threading.Lock()

    def record(
        self,
        platform: str,
        user_id: str,
        role: str,
        content: str,
        *,
        chat: str | None = None,
        at: datetime | None = None,
        platform_message_ids: Sequence[str] = (),
        metadata: Mapping[str, object] | None = None,
    ) -> str:
        """Append what somebody wrote, or what a bot answered; return the conversation's key.

        A chat in which somebody wrote is not noted as dead any more. `user_id` is the account on
        `platform`, never a unified id; `at` is now by default.

        Raises:
            Refused: Empty or unstorable text, a time without a zone, metadata that is not JSON.
        """
        entries.storable("the text", content)
        key = keys.account_key(self._resolver, platform, entries.storable("the user id", user_id))
        moment = entries.now_ms() if at is None else entries.epoch_ms(at)
        entry = entries.plain_json(metadata) | {"role": role, "content": content}
        row = _row(key, platform, entry, moment)
        row |= {"chat": chat, "platform_message_ids": list(platform_message_ids)}
        self._append([row], heard_in=(platform, chat or user_id) if role == "user" else None)
        return key

    def history(
        self, key: str, limit: int | None = None, before: Before | None = None
    ) -> list[Entry]:
        """Return a conversation as plain dicts, oldest first.

        `limit` keeps the newest ones of those `before`. An unknown key has an empty history.

        Raises:
            Refused: A negative limit, or a `before` that is not a time.
        """
        return [message.entry() for message in self.messages(key, limit, before)]

    def messages(
        self, key: str, limit: int | None = None, before: Before | None = None
    ) -> list[StoredMessage]:
        """Return what `history` returns, with everything that the rows hold.

        To page without a gap or a double, give the first message of a page as the next
        `before`: `(message.timestamp_ms, message.id)`.
        """
        if limit is not None and limit < 0:
            raise Refused(f"a limit of {limit}: give how many messages at most, or None for all")
        before_ms, before_id = _boundary(before)
        settle_writes(self)
        with self._engine.connect() as conn:
            rows = conn.execute(
                _NEWEST,
                {
                    "key": key,
                    "before_ms": before_ms,
                    "before_id": before_id,
                    "at_most": _END if limit is None else limit,
                },
            ).all()
        return [_message(row) for row in reversed(rows)]

    def _storage_key(self, user_id: str) -> str:
        """Return the key of an account of this manager's platform, or of a unified id."""
        return keys.reader_key(self._resolver, self._platform, user_id)

    def _load_history(self, user_id: str) -> list[Entry]:
        """Return the newest messages of an account's conversation, at most `TURN_WINDOW`."""
        return self.history(self._storage_key(user_id), TURN_WINDOW)

    def _save_history(self, user_id: str, history: Sequence[Entry]) -> None:
        """Append what is new in `history`, as `entries.new_entries` tells it.

        Nothing that is stored is changed or removed: what was mirrored since the history was
        loaded stays, and so does what the caller left out.
        """
        key = self._storage_key(user_id)
        # Two saves of one history at once would each find the same entries new.
        with self._saving:
            stored = self.history(key, max(TURN_WINDOW, 2 * len(history)))
            self._append(
                [self._entry_row(key, entry) for entry in entries.new_entries(stored, history)]
            )

    def _add_mirror_entry_sync(self, user_id: str, entry: Entry) -> bool:
        """Append one mirror; a unified id goes to that person, whatever the platform.

        Blocks for the time of a commit: `mirror_to_session` keeps that away from a loop.
        """
        key = keys.mirror_key(self._resolver, self._platform, user_id)
        entries.storable("the text", entry.get("content"))
        self._append([self._entry_row(key, {**entry, "mirror": True})])
        return True

    def _entry_row(self, key: str, entry: Entry) -> Entry:
        stamp = entries.timestamp_ms(entry)
        return _row(key, self._platform, entry, entries.now_ms() if stamp is None else stamp)

    def _append(self, rows: list[Entry], *, heard_in: tuple[str, str] | None = None) -> None:
        if rows:
            with self._engine.begin() as conn:
                conn.execute(_APPEND, rows)
                if heard_in is not None:
                    # Imported here: whoever only mirrors needs nothing of the outbox.
                    from worker.dead import revive

                    revive(conn, heard_in[0], None, heard_in[1])


def _row(key: str, platform: str, entry: Entry, timestamp_ms: int) -> Entry:
    mirror = entry.get("mirror") is True
    return {
        "session_key": key,
        "role": str(entry.get("role") or "user"),
        "content": entries.text_of(entry),
        "timestamp_ms": timestamp_ms,
        "platform": platform or None,
        "chat": None,
        "mirror": mirror,
        "mirror_source": str(entry.get("mirror_source") or "delivery") if mirror else None,
        "delivery_id": None,
        "platform_message_ids": [],
        "metadata": entries.metadata_of(entry),
    }


def _boundary(before: Before | None) -> tuple[int, int]:
    """Return the time in milliseconds and the id of the first message that is left out."""
    match before:
        case None:
            return _END, _END
        case (int(before_ms), int(before_id)):
            return before_ms, before_id
        case int():
            return before, 0
        case datetime():
            return entries.epoch_ms(before), 0
        case str() if (moment := entries.timestamp_ms({"timestamp": before})) is not None:
            return moment, 0
        case _:
            raise Refused(f"{before!r} is not a time: give epoch milliseconds or ISO 8601")


def _message(row: sa.Row[tuple[object, ...]]) -> StoredMessage:
    return StoredMessage(
        id=row.id,
        session_key=row.session_key,
        role=row.role,
        content=row.content,
        timestamp_ms=row.timestamp_ms,
        platform=row.platform,
        chat=row.chat,
        mirror=row.mirror,
        mirror_source=row.mirror_source,
        delivery_id=row.delivery_id,
        platform_message_ids=tuple(row.platform_message_ids),
        metadata=row.metadata,
    )
