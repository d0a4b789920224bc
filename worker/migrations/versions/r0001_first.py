"""Create the outbox, the attempts, the history, the identity links and the schedules."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0001"
down_revision = None

_WAITING = "state IN ('scheduled', 'queued', 'retrying', 'held')"
_NOW_MS = {
    "sqlite": "(CAST(ROUND((julianday('now') - 2440587.5) * 86400000) AS INTEGER))",
    "postgresql": "(CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT))",
}

_SQLITE_TRIGGERS = [
    """
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
]
_POSTGRESQL_TRIGGERS = [
    """
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
""",
    """
CREATE TRIGGER schedule_edited BEFORE UPDATE OF spec, message, policy, state ON schedule
FOR EACH ROW WHEN (OLD.spec IS DISTINCT FROM NEW.spec OR OLD.message IS DISTINCT FROM NEW.message
  OR OLD.policy IS DISTINCT FROM NEW.policy OR OLD.state IS DISTINCT FROM NEW.state)
EXECUTE FUNCTION schedule_edited()
""",
]


def upgrade() -> None:
    _create_delivery()
    _create_message()
    _create_clock()
    op.create_table(
        "identity_link",
        sa.Column("platform", sa.Text, primary_key=True),
        sa.Column("platform_user_id", sa.Text, primary_key=True),
        sa.Column("unified_user_id", sa.Text, nullable=False),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
    )
    op.create_index("ix_identity_link_unified_user_id", "identity_link", ["unified_user_id"])


def _id() -> sa.types.TypeEngine[int]:
    return sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _index(name: str, table: str, columns: list[str], where: str) -> None:
    op.create_index(
        name,
        table,
        [sa.text(column) for column in columns],
        sqlite_where=sa.text(where),
        postgresql_where=sa.text(where),
    )


def _create_delivery() -> None:
    op.create_table(
        "delivery",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("key", sa.Text, unique=True),
        sa.Column("body_hash", sa.Text, nullable=False),
        sa.Column("target", sa.Text, nullable=False),
        sa.Column("platform", sa.Text),
        sa.Column("account", sa.Text, nullable=False),
        sa.Column("chat_id", sa.Text),
        sa.Column("thread_id", sa.Text),
        sa.Column("unified_user", sa.Text),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("metadata", sa.JSON),
        sa.Column("reply_to", sa.Text),
        sa.Column("silent", sa.Boolean, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("lane", sa.Text, nullable=False),
        sa.Column("policy", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("due_ms", sa.BigInteger, nullable=False),
        sa.Column("expires_ms", sa.BigInteger),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("attempts_used", sa.Integer, nullable=False),
        sa.Column("lease_until_ms", sa.BigInteger),
        sa.Column("owner", sa.Text),
        sa.Column("published_ms", sa.BigInteger),
        sa.Column("error_kind", sa.Text),
        sa.Column("error_text", sa.Text),
        sa.Column("credential_print", sa.Text),
        sa.Column("maybe_duplicate", sa.Boolean, nullable=False),
        sa.Column("receipt", sa.JSON),
        sa.Column("ended_ms", sa.BigInteger),
        sa.Column("mirror", sa.Text),
    )
    _index("ix_delivery_queued", "delivery", ["lane DESC", "due_ms", "id"], "state = 'queued'")
    _index("ix_delivery_unpublished", "delivery", ["published_ms"], "state = 'queued'")
    _index("ix_delivery_due", "delivery", ["due_ms"], "state IN ('scheduled', 'retrying')")
    _index("ix_delivery_leased", "delivery", ["lease_until_ms"], "state = 'sending'")
    _index("ix_delivery_held", "delivery", ["platform", "account"], "state = 'held'")
    _index(
        "ix_delivery_expiring",
        "delivery",
        ["expires_ms"],
        f"expires_ms IS NOT NULL AND {_WAITING}",
    )
    _index("ix_delivery_unmirrored", "delivery", ["id"], "mirror = 'failed'")
    _index("ix_delivery_ended_badly", "delivery", ["state", "id"], "state IN ('failed', 'unknown')")
    if op.get_bind().dialect.name == "postgresql":
        # Each delivery leaves three dead rows; the default waits until a fifth of the table
        # is dead, and the indexes of the waiting rows are slow by then.
        op.execute(
            "ALTER TABLE delivery SET (autovacuum_vacuum_scale_factor = 0.01, "
            "autovacuum_vacuum_threshold = 5000)"
        )
    op.create_table(
        "attempt",
        sa.Column("id", _id(), primary_key=True),
        sa.Column(
            "delivery_id",
            sa.String(32),
            sa.ForeignKey("delivery.id", ondelete="CASCADE"),
            nullable=False,
        ),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("started_ms", sa.BigInteger, nullable=False),
        sa.Column("took_ms", sa.Integer, nullable=False),
        sa.Column("outcome", sa.Text, nullable=False),
        sa.Column("code", sa.Text),
        sa.Column("http_status", sa.Integer),
        sa.Column("retry_after_ms", sa.BigInteger),
        sa.Column("text", sa.Text),
        sa.UniqueConstraint("delivery_id", "attempt"),
    )
    op.create_table(
        "rejected",
        sa.Column("id", _id(), primary_key=True),
        sa.Column("received_ms", sa.BigInteger, nullable=False),
        sa.Column("task_id", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("payload", sa.JSON, nullable=False),
    )


def _create_message() -> None:
    op.create_table(
        "message",
        sa.Column("id", _id(), primary_key=True),
        sa.Column("session_key", sa.Text, nullable=False),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("content", sa.Text, nullable=False),
        sa.Column("timestamp_ms", sa.BigInteger, nullable=False),
        sa.Column("platform", sa.Text),
        sa.Column("chat", sa.Text),
        sa.Column("mirror", sa.Boolean, nullable=False),
        sa.Column("mirror_source", sa.Text),
        sa.Column("delivery_id", sa.Text, unique=True),
        sa.Column("platform_message_ids", sa.JSON, nullable=False),
        sa.Column("metadata", sa.JSON, nullable=False),
    )
    op.create_index("ix_message_history", "message", ["session_key", "timestamp_ms", "id"])


def _create_clock() -> None:
    dialect = op.get_bind().dialect.name
    json = sa.JSON().with_variant(JSONB(), "postgresql")
    now = sa.text(_NOW_MS[dialect])
    op.create_table(
        "schedule",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, nullable=False, unique=True),
        sa.Column("spec", json, nullable=False),
        sa.Column("message", json, nullable=False),
        sa.Column("policy", json, nullable=False, server_default=sa.text("'{}'")),
        sa.Column("state", sa.Text, nullable=False, server_default=sa.text("'active'")),
        sa.Column("note", sa.Text),
        sa.Column("error", sa.Text),
        sa.Column("next_fire_ms", sa.BigInteger),
        sa.Column("created_ms", sa.BigInteger, nullable=False, server_default=now),
        sa.Column("updated_ms", sa.BigInteger, nullable=False, server_default=now),
        sa.CheckConstraint(
            "state IN ('active', 'paused', 'ended', 'broken')", name="schedule_state_known"
        ),
    )
    _index("ix_schedule_due", "schedule", ["next_fire_ms"], "state = 'active'")
    op.create_table(
        "fire",
        sa.Column("schedule_id", sa.Text, primary_key=True),
        sa.Column("fire_ms", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("fired_at_ms", sa.BigInteger, nullable=False),
        sa.Column("outcome", sa.Text, nullable=False),
        sa.Column("missed", sa.BigInteger, nullable=False, server_default=sa.text("0")),
        sa.Column("missed_since_ms", sa.BigInteger),
        sa.Column("delivery_ids", json, nullable=False, server_default=sa.text("'[]'")),
        sa.Column("fired_by", sa.Text, nullable=False),
        sa.CheckConstraint("outcome IN ('fired', 'skipped')", name="fire_outcome_known"),
    )
    for statement in _SQLITE_TRIGGERS if dialect == "sqlite" else _POSTGRESQL_TRIGGERS:
        op.execute(statement)


def downgrade() -> None:
    dialect = op.get_bind().dialect.name
    for table in (
        "fire",
        "schedule",
        "attempt",
        "delivery",
        "rejected",
        "message",
        "identity_link",
    ):
        op.drop_table(table)
    if dialect == "postgresql":
        op.execute("DROP FUNCTION schedule_edited()")
