"""The tables of the delivery: outbox, attempts, and what was refused.

Times are epoch milliseconds UTC in columns named `*_ms`. The hot statements stand in
`worker.outbox`; migrations are in `worker/migrations`.
"""

from typing import Any

from sqlalchemy import JSON, BigInteger, Column, Index, Integer, Text, text
from sqlmodel import Field, SQLModel

#: What is due and has not ended: these hold those behind them in the order of a chat.
IN_ORDER = "state IN ('queued', 'sending', 'retrying', 'held')"
#: What waits until its broadcast lets it go: maybe a million, in an index of its own.
WAITS_FOR_ITS_BROADCAST = "state = 'held' AND error_kind = 'broadcast'"
#: What is held for any other reason; few, and looked through often.
HELD_OTHERWISE = "state = 'held' AND COALESCE(error_kind, '') <> 'broadcast'"

#: Held until a time: for quiet hours, or until a person's frequency cap has room.
WAITS_FOR_TIME = "state = 'held' AND error_kind IN ('quiet_hours', 'frequency_cap')"
#: Of a known person, and on its way.
_OF_PERSON = "unified_user IS NOT NULL AND state IN ('queued', 'sending', 'held')"

_ID = BigInteger().with_variant(Integer, "sqlite")


def _ms(*, nullable: bool = True) -> Any:
    return Field(default=None, sa_type=BigInteger, nullable=nullable)


class DeliveryRow(SQLModel, table=True):
    """One message for one target: the unit of work and the truth about it."""

    __tablename__ = "delivery"
    __table_args__ = (
        Index(
            "ix_delivery_queued",
            text("lane DESC"),
            "due_ms",
            "id",
            sqlite_where=text("state = 'queued'"),
            postgresql_where=text("state = 'queued'"),
        ),
        Index(
            "ix_delivery_unpublished",
            "published_ms",
            sqlite_where=text("state = 'queued'"),
            postgresql_where=text("state = 'queued'"),
        ),
        Index(
            "ix_delivery_due",
            "due_ms",
            sqlite_where=text("state IN ('scheduled', 'retrying')"),
            postgresql_where=text("state IN ('scheduled', 'retrying')"),
        ),
        Index(
            "ix_delivery_leased",
            "lease_until_ms",
            sqlite_where=text("state = 'sending'"),
            postgresql_where=text("state = 'sending'"),
        ),
        Index(
            "ix_delivery_held",
            "platform",
            "account",
            sqlite_where=text(HELD_OTHERWISE),
            postgresql_where=text(HELD_OTHERWISE),
        ),
        Index(
            "ix_delivery_spared",
            "due_ms",
            sqlite_where=text(WAITS_FOR_TIME),
            postgresql_where=text(WAITS_FOR_TIME),
        ),
        Index(
            "ix_delivery_person",
            "unified_user",
            "state",
            sqlite_where=text(_OF_PERSON),
            postgresql_where=text(_OF_PERSON),
        ),
        Index(
            "ix_delivery_expiring",
            "expires_ms",
            sqlite_where=text(
                "expires_ms IS NOT NULL AND state IN ('scheduled', 'queued', 'retrying', 'held')"
            ),
            postgresql_where=text(
                "expires_ms IS NOT NULL AND state IN ('scheduled', 'queued', 'retrying', 'held')"
            ),
        ),
        Index(
            "ix_delivery_order",
            "order_key",
            "seq",
            sqlite_where=text(f"order_key IS NOT NULL AND {IN_ORDER}"),
            postgresql_where=text(f"order_key IS NOT NULL AND {IN_ORDER}"),
        ),
        Index(
            "ix_delivery_broadcast",
            "broadcast_id",
            "state",
            "id",
            # Only so that counting a million by platform reads the index alone.
            "platform",
            sqlite_where=text("broadcast_id IS NOT NULL"),
            postgresql_where=text("broadcast_id IS NOT NULL"),
        ),
        Index(
            "ix_delivery_waiting",
            "broadcast_id",
            "platform",
            "account",
            "id",
            sqlite_where=text(WAITS_FOR_ITS_BROADCAST),
            postgresql_where=text(WAITS_FOR_ITS_BROADCAST),
        ),
        Index(
            "ix_delivery_ended",
            "broadcast_id",
            "ended_ms",
            sqlite_where=text("broadcast_id IS NOT NULL AND ended_ms IS NOT NULL"),
            postgresql_where=text("broadcast_id IS NOT NULL AND ended_ms IS NOT NULL"),
        ),
        Index(
            "ix_delivery_refers_to",
            "refers_to",
            sqlite_where=text("refers_to IS NOT NULL"),
            postgresql_where=text("refers_to IS NOT NULL"),
        ),
        Index(
            "ix_delivery_unmirrored",
            "id",
            sqlite_where=text("mirror = 'failed'"),
            postgresql_where=text("mirror = 'failed'"),
        ),
        Index(
            "ix_delivery_ended_badly",
            "state",
            "id",
            sqlite_where=text("state IN ('failed', 'unknown')"),
            postgresql_where=text("state IN ('failed', 'unknown')"),
        ),
    )

    id: str = Field(primary_key=True, max_length=32)
    key: str | None = Field(default=None, unique=True)
    body_hash: str
    #: As asked for: `telegram:123`, `user:alice`.
    target: str
    #: Where it goes; for a person empty until a route is chosen.
    platform: str | None = None
    account: str = ""
    chat_id: str | None = None
    thread_id: str | None = None
    #: Whose history it belongs to; set when it is resolved.
    unified_user: str | None = None
    #: The broadcast that it is a part of.
    broadcast_id: str | None = Field(default=None, max_length=32)
    #: What it is about, for people who do not want to hear of it.
    topic: str = Field(default="", sa_column_kwargs={"server_default": text("''")})
    #: `send`, or to `edit` or `retract` what the delivery `refers_to` has sent.
    action: str = Field(default="send", sa_column_kwargs={"server_default": text("'send'")})
    refers_to: str | None = Field(default=None, max_length=32)
    text: str = Field(sa_column=Column(Text, nullable=False))
    details: dict[str, Any] | None = Field(default=None, sa_column=Column("metadata", JSON))
    reply_to: str | None = None
    silent: bool = False
    source: str = ""
    lane: str
    #: Deliveries of one key leave one after the other, in the order of `seq`; without a key
    #: in any order.
    order_key: str | None = None
    #: The place in the order: from a sequence, or on SQLite made of the last rowid.
    seq: int | None = _ms()
    #: What to do when nobody can know whether it was sent: `resend` or `hold`.
    policy: str = "resend"
    state: str
    due_ms: int = _ms(nullable=False)
    expires_ms: int | None = _ms()
    created_ms: int = _ms(nullable=False)
    #: The fence: bumped by every claim.
    attempt: int = 0
    #: Attempts that count against the schedule of retries.
    attempts_used: int = 0
    #: When it was claimed for the first time.
    begun_ms: int | None = _ms()
    #: Since when an attempt may have been accepted without an answer; `None` without doubt.
    doubt_ms: int | None = _ms()
    lease_until_ms: int | None = _ms()
    owner: str | None = None
    #: When its id was last given to the broker; 0 when that failed.
    published_ms: int | None = _ms()
    error_kind: str | None = None
    error_text: str | None = None
    #: Fingerprint of the credential that was refused or missing, for `held`.
    credential_print: str | None = None
    #: It was sent again although the platform may have accepted it before.
    maybe_duplicate: bool = False
    #: The platform's message ids, one a part; of an unfinished one the parts sent so far.
    receipt: list[str] | None = Field(default=None, sa_type=JSON)
    ended_ms: int | None = _ms()
    #: `done`, `failed` (to be repaired), or nothing for what was not sent.
    mirror: str | None = None


class AttemptRow(SQLModel, table=True):
    """One try at the platform's API.

    Without a foreign key: the check would cost the settle a fifth, and only the retention
    deletes deliveries.
    """

    __tablename__ = "attempt"

    delivery_id: str = Field(primary_key=True, max_length=32)
    attempt: int = Field(
        primary_key=True, sa_type=Integer, sa_column_kwargs={"autoincrement": False}
    )
    owner: str
    started_ms: int = _ms(nullable=False)
    took_ms: int
    #: `sent` or an error kind.
    outcome: str
    code: str | None = None
    http_status: int | None = None
    retry_after_ms: int | None = _ms()
    #: Which part of the message, from 0.
    part: int = Field(default=0, sa_column_kwargs={"server_default": text("0")})
    #: Its worker came back after its lease had ended; what it said changed nothing.
    fenced: bool = Field(default=False, sa_column_kwargs={"server_default": text("false")})
    text: str | None = None


class RejectedRow(SQLModel, table=True):
    """A message from the intake queue that was refused at the door."""

    __tablename__ = "rejected"

    id: int | None = Field(default=None, primary_key=True, sa_type=_ID)
    received_ms: int = _ms(nullable=False)
    #: The Celery task id.
    task_id: str
    reason: str
    payload: dict[str, Any] = Field(default_factory=dict, sa_type=JSON)
    #: The delivery that it became when somebody had it tried again.
    delivery_id: str | None = Field(default=None, max_length=32)


class DeadTargetRow(SQLModel, table=True):
    """A chat, or a thread in it, that answered that it is gone, moved or closed to this bot."""

    __tablename__ = "dead_target"
    __table_args__ = (
        Index("ix_dead_target_chat", "chat_id"),
        Index(
            "ix_dead_target_moved",
            "moved_to",
            "followed",
            sqlite_where=text("moved_to IS NOT NULL"),
            postgresql_where=text("moved_to IS NOT NULL"),
        ),
    )

    platform: str = Field(primary_key=True)
    account: str = Field(primary_key=True)
    chat_id: str = Field(primary_key=True)
    #: Empty for the whole chat.
    thread_id: str = Field(primary_key=True)
    #: `target_gone`, `forbidden` or `target_moved`.
    kind: str
    reason: str
    since_ms: int = _ms(nullable=False)
    #: From when on one delivery may try whether it is alive again.
    probe_ms: int = _ms(nullable=False)
    #: Its new chat id.
    moved_to: str | None = None
    #: Links and schedules were moved to it.
    followed: bool = Field(default=False, sa_column_kwargs={"server_default": text("false")})


class DeadCredentialRow(SQLModel, table=True):
    """A bot whose credential was refused; its queue stands until it has another one."""

    __tablename__ = "dead_credential"

    platform: str = Field(primary_key=True)
    account: str = Field(primary_key=True)
    #: Fingerprint of the credential that was refused.
    credential_print: str
    reason: str
    since_ms: int = _ms(nullable=False)
