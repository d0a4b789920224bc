"""Add order, doubt, parts, dead targets and dead credentials; attempts without a foreign key."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_ORDER = "order_key IS NOT NULL AND state IN ('queued', 'sending', 'retrying', 'held')"
_ATTEMPT = (
    "delivery_id, attempt, owner, started_ms, took_ms, outcome, code, http_status, "
    "retry_after_ms, text"
)


def upgrade() -> None:
    for column in (
        sa.Column("order_key", sa.Text),
        sa.Column("seq", sa.BigInteger),
        sa.Column("begun_ms", sa.BigInteger),
        sa.Column("doubt_ms", sa.BigInteger),
    ):
        op.add_column("delivery", column)
    if op.get_bind().dialect.name == "postgresql":
        op.execute("CREATE SEQUENCE delivery_seq")
        op.execute("ALTER TABLE delivery ALTER COLUMN seq SET DEFAULT nextval('delivery_seq')")
        op.execute("ALTER SEQUENCE delivery_seq OWNED BY delivery.seq")
    op.create_index(
        "ix_delivery_order",
        "delivery",
        ["order_key", "seq"],
        sqlite_where=sa.text(_ORDER),
        postgresql_where=sa.text(_ORDER),
    )
    op.rename_table("attempt", "attempt_before")
    op.create_table(
        "attempt",
        *_attempt_columns(),
        sa.Column("part", sa.Integer, nullable=False, server_default=sa.text("0")),
        sa.Column("fenced", sa.Boolean, nullable=False, server_default=sa.text("false")),
        sa.PrimaryKeyConstraint("delivery_id", "attempt", name="attempt_key"),
    )
    op.execute(f"INSERT INTO attempt ({_ATTEMPT}) SELECT {_ATTEMPT} FROM attempt_before")
    op.drop_table("attempt_before")
    op.add_column("rejected", sa.Column("delivery_id", sa.String(32)))
    op.create_table(
        "dead_target",
        *(
            sa.Column(name, sa.Text, primary_key=True)
            for name in ("platform", "account", "chat_id", "thread_id")
        ),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("since_ms", sa.BigInteger, nullable=False),
        sa.Column("probe_ms", sa.BigInteger, nullable=False),
        sa.Column("moved_to", sa.Text),
        sa.Column("followed", sa.Boolean, nullable=False, server_default=sa.text("false")),
    )
    op.create_index("ix_dead_target_chat", "dead_target", ["chat_id"])
    op.create_index(
        "ix_dead_target_moved",
        "dead_target",
        ["moved_to", "followed"],
        sqlite_where=sa.text("moved_to IS NOT NULL"),
        postgresql_where=sa.text("moved_to IS NOT NULL"),
    )
    op.create_table(
        "dead_credential",
        sa.Column("platform", sa.Text, primary_key=True),
        sa.Column("account", sa.Text, primary_key=True),
        sa.Column("credential_print", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("since_ms", sa.BigInteger, nullable=False),
    )


def _attempt_columns() -> tuple[sa.Column[object], ...]:
    return (
        sa.Column("delivery_id", sa.String(32), nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("started_ms", sa.BigInteger, nullable=False),
        sa.Column("took_ms", sa.Integer, nullable=False),
        sa.Column("outcome", sa.Text, nullable=False),
        sa.Column("code", sa.Text),
        sa.Column("http_status", sa.Integer),
        sa.Column("retry_after_ms", sa.BigInteger),
        sa.Column("text", sa.Text),
    )


def downgrade() -> None:
    op.drop_table("dead_credential")
    op.drop_table("dead_target")
    op.drop_column("rejected", "delivery_id")
    op.rename_table("attempt", "attempt_after")
    identity = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "attempt",
        sa.Column("id", identity, primary_key=True),
        *_attempt_columns(),
        sa.ForeignKeyConstraint(["delivery_id"], ["delivery.id"], ondelete="CASCADE"),
        sa.UniqueConstraint("delivery_id", "attempt"),
    )
    op.execute(f"INSERT INTO attempt ({_ATTEMPT}) SELECT {_ATTEMPT} FROM attempt_after")
    op.drop_table("attempt_after")
    op.drop_index("ix_delivery_order", "delivery")
    for column in ("doubt_ms", "begun_ms", "seq", "order_key"):
        op.drop_column("delivery", column)
