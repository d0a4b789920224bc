"""The tables of the clock: what is to happen when, and what has fired.

`schedule` is the truth: any process may add and change rows with plain SQL, giving `id`,
`name`, `spec` and `message`; the database fills in the rest. A NULL in `next_fire_ms` asks
the next pass to plan the row, and a trigger writes that NULL when a spec is edited.

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


#: `created_ms` and `updated_ms` have the same expressions as server defaults.
_SQLITE_TRIGGER = """
CREATE TRIGGER schedule_edited AFTER UPDATE OF spec, message, policy, state ON schedule
WHEN OLD.spec IS NOT NEW.spec OR OLD.message IS NOT NEW.message
  OR OLD.policy IS NOT NEW.policy OR OLD.state IS NOT NEW.state
BEGIN
  UPDATE schedule SET
    updated_ms = CAST(ROUND((julianday('now') - 2440587.5) * 86400000) AS INTEGER),
    next_fire_ms = CASE
      WHEN OLD.spec IS NOT NEW.spec AND OLD.next_fire_ms IS NEW.next_fire_ms THEN NULL
      ELSE NEW.next_fire_ms END
  WHERE id = NEW.id;
  UPDATE schedule SET state = 'active', error = NULL
  WHERE id = NEW.id AND OLD.state = NEW.state AND (
    NEW.state = 'broken' OR NEW.state = 'ended' AND OLD.spec IS NOT NEW.spec);
END
"""

_POSTGRESQL_FUNCTION = """
CREATE FUNCTION schedule_edited() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  NEW.updated_ms := CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT);
  IF OLD.spec IS DISTINCT FROM NEW.spec
     AND OLD.next_fire_ms IS NOT DISTINCT FROM NEW.next_fire_ms THEN
    NEW.next_fire_ms := NULL;
  END IF;
  IF OLD.state = NEW.state AND (NEW.state = 'broken'
     OR NEW.state = 'ended' AND OLD.spec IS DISTINCT FROM NEW.spec) THEN
    NEW.state := 'active';
    NEW.error := NULL;
  END IF;
  RETURN NEW;
END $$
"""

_POSTGRESQL_TRIGGER = """
CREATE TRIGGER schedule_edited BEFORE UPDATE OF spec, message, policy, state ON schedule
FOR EACH ROW WHEN (OLD.spec IS DISTINCT FROM NEW.spec OR OLD.message IS DISTINCT FROM NEW.message
  OR OLD.policy IS DISTINCT FROM NEW.policy OR OLD.state IS DISTINCT FROM NEW.state)
EXECUTE FUNCTION schedule_edited()
"""


def create_triggers(dialect: str) -> list[str]:
    """Give the statements that make an edited schedule be planned and examined again."""
    if dialect == "sqlite":
        return [_SQLITE_TRIGGER]
    return [_POSTGRESQL_FUNCTION, _POSTGRESQL_TRIGGER]


def drop_triggers(dialect: str) -> list[str]:
    """Give the statements that undo `create_triggers`."""
    if dialect == "sqlite":
        return ["DROP TRIGGER schedule_edited"]
    return ["DROP TRIGGER schedule_edited ON schedule", "DROP FUNCTION schedule_edited()"]
