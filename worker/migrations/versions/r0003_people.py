"""Add people, and what a delivery has of its broadcast, its topic and another delivery."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

_COLUMNS = ("refers_to", "action", "topic", "broadcast_id")
_INDEXES = {
    "ix_delivery_broadcast": (
        ["broadcast_id", "state", "id", "platform"],
        "broadcast_id IS NOT NULL",
    ),
    "ix_delivery_waiting": (
        ["broadcast_id", "platform", "account", "id"],
        "state = 'held' AND error_kind = 'broadcast'",
    ),
    "ix_delivery_ended": (
        ["broadcast_id", "ended_ms"],
        "broadcast_id IS NOT NULL AND ended_ms IS NOT NULL",
    ),
    "ix_delivery_refers_to": (["refers_to"], "refers_to IS NOT NULL"),
    "ix_delivery_spared": (
        ["due_ms"],
        "state = 'held' AND error_kind IN ('quiet_hours', 'frequency_cap')",
    ),
    "ix_delivery_person": (
        ["unified_user", "state"],
        "unified_user IS NOT NULL AND state IN ('queued', 'sending', 'held')",
    ),
}
_HELD = "state = 'held'"


def upgrade() -> None:
    for column in (
        sa.Column("broadcast_id", sa.String(32)),
        sa.Column("topic", sa.Text, nullable=False, server_default=sa.text("''")),
        sa.Column("action", sa.Text, nullable=False, server_default=sa.text("'send'")),
        sa.Column("refers_to", sa.String(32)),
    ):
        op.add_column("delivery", column)
    for name, (columns, where) in _INDEXES.items():
        _index(name, columns, where)
    # A broadcast's waiting rows are looked through by nobody who looks for held ones.
    op.drop_index("ix_delivery_held", "delivery")
    _index(
        "ix_delivery_held",
        ["platform", "account"],
        f"{_HELD} AND COALESCE(error_kind, '') <> 'broadcast'",
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
    # The older code would send an edit or a retraction as a message of its own.
    op.execute(
        "UPDATE delivery SET state = 'cancelled', ended_ms = created_ms WHERE action <> 'send' "
        "AND state IN ('scheduled', 'queued', 'sending', 'retrying', 'held')"
    )
    op.drop_table("opt_out")
    op.drop_index("ix_person_tag_user", "person_tag")
    op.drop_table("person_tag")
    op.drop_table("person")
    op.drop_index("ix_delivery_held", "delivery")
    _index("ix_delivery_held", ["platform", "account"], _HELD)
    for name in _INDEXES:
        op.drop_index(name, "delivery")
    for column in _COLUMNS:
        op.drop_column("delivery", column)


def _index(name: str, columns: list[str], where: str) -> None:
    op.create_index(
        name, "delivery", columns, sqlite_where=sa.text(where), postgresql_where=sa.text(where)
    )
