"""Add people, and what a delivery has of its broadcast, its topic and another delivery."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

_WAITING = "state = 'held' AND error_kind IN ('quiet_hours', 'frequency_cap')"
_OF_PERSON = "unified_user IS NOT NULL AND state IN ('queued', 'sending', 'held')"
_COLUMNS = ("refers_to", "action", "topic", "broadcast_id")


def upgrade() -> None:
    for column in (
        sa.Column("broadcast_id", sa.String(32)),
        sa.Column("topic", sa.Text, nullable=False, server_default=sa.text("''")),
        sa.Column("action", sa.Text, nullable=False, server_default=sa.text("'send'")),
        sa.Column("refers_to", sa.String(32)),
    ):
        op.add_column("delivery", column)
    op.create_index(
        "ix_delivery_broadcast",
        "delivery",
        ["broadcast_id", "state", "id"],
        sqlite_where=sa.text("broadcast_id IS NOT NULL"),
        postgresql_where=sa.text("broadcast_id IS NOT NULL"),
    )
    for name, columns, where in (
        ("ix_delivery_waiting", ["due_ms"], _WAITING),
        ("ix_delivery_person", ["unified_user", "state"], _OF_PERSON),
    ):
        op.create_index(
            name,
            "delivery",
            columns,
            sqlite_where=sa.text(where),
            postgresql_where=sa.text(where),
        )
    op.create_table(
        "person",
        sa.Column("unified_user", sa.Text, primary_key=True),
        sa.Column("attributes", sa.JSON, nullable=False),
        sa.Column("timezone", sa.Text),
    )
    op.create_table(
        "person_tag",
        sa.Column("tag", sa.Text, primary_key=True),
        sa.Column("unified_user", sa.Text, primary_key=True),
    )
    op.create_index("ix_person_tag_user", "person_tag", ["unified_user"])
    op.create_table(
        "opt_out",
        sa.Column("unified_user", sa.Text, primary_key=True),
        sa.Column("topic", sa.Text, primary_key=True),
        sa.Column("since_ms", sa.BigInteger, nullable=False),
    )


def downgrade() -> None:
    op.drop_table("opt_out")
    op.drop_index("ix_person_tag_user", "person_tag")
    op.drop_table("person_tag")
    op.drop_table("person")
    for index in ("ix_delivery_person", "ix_delivery_waiting", "ix_delivery_broadcast"):
        op.drop_index(index, "delivery")
    for column in _COLUMNS:
        op.drop_column("delivery", column)
