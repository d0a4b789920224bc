"""The table of messages: one row for one message of one conversation.

`append` writes mirrors in bulk, `history` reads and writes for everybody else. The time of a
message and its id give the order. Rows are only ever appended, but that `amend` changes what was
edited or retracted after it was sent.
"""

from sqlalchemy import JSON, BigInteger, Column, Index, Integer
from sqlmodel import Field, SQLModel


class MessageRow(SQLModel, table=True):
    """One message of one conversation.

    Attributes:
        session_key: Whose conversation: a unified user, or `bot_{platform}_{user_id}`.
        role: As language models know it: `user`, `assistant`, `system`, `tool`.
        timestamp_ms: Epoch milliseconds UTC.
        platform: Where it was said; `None` where nobody told.
        chat: The chat on that platform; `None` where nobody told.
        mirror: A copy of what was sent, not a turn of the agent's own.
        mirror_source: What made the message (`cron`, `delivery`, ...); only mirrors have one.
        delivery_id: The delivery that was sent; one message at most for each.
        platform_message_ids: The ids in the platform's receipt.
        extra: Everything else that the writer wants back, in the column `metadata` (a name that
            SQLAlchemy keeps for itself on mapped classes).
    """

    __tablename__ = "message"
    __table_args__ = (Index("ix_message_history", "session_key", "timestamp_ms", "id"),)

    # SQLite gives out ids by itself only for a column that is exactly INTEGER PRIMARY KEY.
    id: int | None = Field(
        default=None,
        sa_column=Column(
            BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True
        ),
    )
    session_key: str
    role: str
    content: str
    timestamp_ms: int = Field(sa_column=Column(BigInteger, nullable=False))
    platform: str | None = None
    chat: str | None = None
    mirror: bool = False
    mirror_source: str | None = None
    delivery_id: str | None = Field(default=None, unique=True)
    platform_message_ids: list[str] = Field(
        default_factory=list, sa_column=Column(JSON, nullable=False)
    )
    extra: dict[str, object] = Field(
        default_factory=dict, sa_column=Column("metadata", JSON, nullable=False)
    )


#: The same table for statements that do without the ORM.
MESSAGE = SQLModel.metadata.tables["message"]
