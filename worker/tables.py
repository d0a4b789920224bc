"""The tables of the delivery: outbox, attempts, and what was refused.

Times are epoch milliseconds UTC in columns named `*_ms`. The hot statements stand in
`worker.outbox`; migrations are in `worker/migrations`.
"""

from typing import Any

from sqlalchemy import JSON, BigInteger, Column, Index, Integer, Text, UniqueConstraint, text
from sqlmodel import Field, SQLModel

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
            sqlite_where=text("state = 'held'"),
            postgresql_where=text("state = 'held'"),
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
    text: str = Field(sa_column=Column(Text, nullable=False))
    details: dict[str, Any] | None = Field(default=None, sa_column=Column("metadata", JSON))
    reply_to: str | None = None
    silent: bool = False
    source: str = ""
    lane: str
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
    #: The platform's message ids.
    receipt: list[str] | None = Field(default=None, sa_type=JSON)
    ended_ms: int | None = _ms()
    #: `done`, `failed` (to be repaired), or nothing for what was not sent.
    mirror: str | None = None


class AttemptRow(SQLModel, table=True):
    """One try at the platform's API."""

    __tablename__ = "attempt"
    __table_args__ = (UniqueConstraint("delivery_id", "attempt"),)

    id: int | None = Field(default=None, primary_key=True, sa_type=_ID)
    delivery_id: str = Field(foreign_key="delivery.id", ondelete="CASCADE")
    attempt: int
    owner: str
    started_ms: int = _ms(nullable=False)
    took_ms: int
    #: `sent` or an error kind.
    outcome: str
    code: str | None = None
    http_status: int | None = None
    retry_after_ms: int | None = _ms()
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
