"""Add audiences, broadcasts and their recipients."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.create_table(
        "audience",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("value", sa.Text, nullable=False),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "audience_member",
        sa.Column("audience", sa.Text, primary_key=True),
        sa.Column("n", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("target", sa.Text, nullable=False),
        sa.Column("platform", sa.Text),
        sa.Column("account", sa.Text, nullable=False),
        sa.Column("chat_id", sa.Text),
        sa.Column("thread_id", sa.Text),
        sa.Column("attributes", sa.JSON),
    )
    op.create_table(
        "broadcast",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("name", sa.Text, nullable=False, unique=True),
        *(sa.Column(name, sa.Text, nullable=False) for name in ("state", "audience", "body")),
        sa.Column("templated", sa.Boolean, nullable=False),
        sa.Column("topic", sa.Text, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("silent", sa.Boolean, nullable=False),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        *(sa.Column(name, sa.BigInteger) for name in ("checked_ms", "started_ms", "ended_ms")),
        sa.Column("reason", sa.Text),
        sa.Column("canary_percent", sa.Float),
        sa.Column("canary_then", sa.Text, nullable=False),
        sa.Column("canary_done", sa.Boolean, nullable=False, server_default=sa.text("false")),
        sa.Column("recipients", sa.BigInteger, nullable=False),
        sa.Column("fanned_out", sa.BigInteger, nullable=False),
        sa.Column("forgiven", sa.JSON),
        sa.Column("report", sa.JSON),
    )
    op.create_table(
        "recipient",
        sa.Column("broadcast_id", sa.String(32), primary_key=True),
        sa.Column("person", sa.Text, primary_key=True),
        sa.Column("n", sa.BigInteger),
        sa.Column("target", sa.Text, nullable=False),
        sa.Column("platform", sa.Text),
        sa.Column("account", sa.Text, nullable=False),
        sa.Column("chat_id", sa.Text),
        sa.Column("thread_id", sa.Text),
        sa.Column("excluded", sa.Text),
        sa.Column("attributes", sa.JSON),
    )
    op.create_index("ix_recipient_n", "recipient", ["broadcast_id", "n"])


def downgrade() -> None:
    op.drop_index("ix_recipient_n", "recipient")
    for table in ("recipient", "broadcast", "audience_member", "audience"):
        op.drop_table(table)
