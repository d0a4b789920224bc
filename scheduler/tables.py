"""The tables of the clock: what is to happen when, and what has fired.

`schedule` is the truth: any process may add and change rows with plain SQL, giving `id`,
`name`, `spec` and `message`; the database fills in the rest. A NULL in `next_fire_ms` asks
the next pass to plan the row. The trigger `schedule_edited`, which stands in the migration, writes
that NULL when a spec is edited, and makes a broken row active when it is edited.

spec     {"cron": "0 9 * * 1-5", "tz": "Europe/Berlin"} | {"every_s": 60, "anchor_ms": 0}
         | {"at_ms": 1767222000000}
message  {"to": "user:alice", "text": "Stand-up", "lane": "cron", "metadata": {}}
policy   {"misfire": "latest" | "all" | "none", "grace_s": 60}
"""

from enum import StrEnum

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    Column,
    FetchedValue,
    Index,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, SQLModel


class ScheduleState(StrEnum):
    """Whether a schedule fires."""

    ACTIVE = "active"
    PAUSED = "paused"
    #: There is no further occurrence.
    ENDED = "ended"
    #: The row cannot be read; `error` says why. Editing it makes it active again.
    BROKEN = "broken"


class Misfire(StrEnum):
    """What goes out of the occurrences that passed while no clock ran."""

    LATEST = "latest"
    ALL = "all"
    NONE = "none"


class FireOutcome(StrEnum):
    """What came of an occurrence."""

    FIRED = "fired"
    SKIPPED = "skipped"


def _json() -> JSON:
    # JSONB because triggers compare documents, which PostgreSQL's json type cannot.
    return JSON().with_variant(JSONB(), "postgresql")


class Schedule(SQLModel, table=True):
    """A rule that makes deliveries.

    Attributes:
        next_fire_ms: The next occurrence; `None` until it is planned and after the end.
        updated_ms: When spec, message, policy or state last changed, by the database's
            clock: occurrences after it count.
        note: Why it is paused.
        error: Why it is broken.
    """

    __tablename__ = "schedule"
    __table_args__ = (
        CheckConstraint(
            "state IN ('active', 'paused', 'ended', 'broken')", name="schedule_state_known"
        ),
        Index(
            "ix_schedule_due",
            "next_fire_ms",
            sqlite_where=text("state = 'active'"),
            postgresql_where=text("state = 'active'"),
        ),
    )

    id: str = Field(sa_column=Column(Text, primary_key=True))
    name: str = Field(sa_column=Column(Text, nullable=False, unique=True))
    spec: dict[str, object] = Field(sa_column=Column(_json(), nullable=False))
    message: dict[str, object] = Field(sa_column=Column(_json(), nullable=False))
    policy: dict[str, object] = Field(
        sa_column=Column(_json(), nullable=False, server_default=text("'{}'"))
    )
    state: str = Field(sa_column=Column(Text, nullable=False, server_default=text("'active'")))
    note: str | None = Field(default=None, sa_column=Column(Text))
    error: str | None = Field(default=None, sa_column=Column(Text))
    next_fire_ms: int | None = Field(default=None, sa_column=Column(BigInteger))
    created_ms: int = Field(
        sa_column=Column(BigInteger, nullable=False, server_default=FetchedValue())
    )
    updated_ms: int = Field(
        sa_column=Column(BigInteger, nullable=False, server_default=FetchedValue())
    )


class Fire(SQLModel, table=True):
    """What came of one occurrence; the key is what makes an occurrence fire once.

    It outlives its schedule, so that a delivery can still be explained.

    Attributes:
        fire_ms: The occurrence, not the moment at which it was noticed.
        missed: How many occurrences were left out with this row: those before it when it
            fired, itself among them when it was skipped.
        missed_since_ms: The first of them.
        fired_by: The process.
    """

    __tablename__ = "fire"
    __table_args__ = (
        CheckConstraint("outcome IN ('fired', 'skipped')", name="fire_outcome_known"),
    )

    schedule_id: str = Field(sa_column=Column(Text, primary_key=True))
    fire_ms: int = Field(sa_column=Column(BigInteger, primary_key=True, autoincrement=False))
    fired_at_ms: int = Field(sa_column=Column(BigInteger, nullable=False))
    outcome: str = Field(sa_column=Column(Text, nullable=False))
    missed: int = Field(sa_column=Column(BigInteger, nullable=False, server_default=text("0")))
    missed_since_ms: int | None = Field(default=None, sa_column=Column(BigInteger))
    delivery_ids: list[str] = Field(
        sa_column=Column(_json(), nullable=False, server_default=text("'[]'"))
    )
    fired_by: str = Field(sa_column=Column(Text, nullable=False))
