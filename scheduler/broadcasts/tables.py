"""The tables of audiences and broadcasts. Times are epoch milliseconds UTC."""

from typing import Any

from sqlalchemy import JSON, BigInteger, Column, Index, Text, text
from sqlmodel import Field, SQLModel


def _ms(*, nullable: bool = True) -> Any:
    return Field(default=None, sa_type=BigInteger, nullable=nullable)


class AudienceRow(SQLModel, table=True):
    """A saved query, or a list whose members are kept."""

    __tablename__ = "audience"

    name: str = Field(primary_key=True)
    #: `everybody`, `tag`, `platform`, `list` or `generator`.
    kind: str
    #: The tag, the platform, or the generator's `package.module:function`.
    value: str = ""
    created_ms: int = _ms(nullable=False)


class AudienceMemberRow(SQLModel, table=True):
    """One line of a list."""

    __tablename__ = "audience_member"

    audience: str = Field(primary_key=True)
    n: int = Field(primary_key=True, sa_type=BigInteger)
    #: As a line named it: `telegram:123`, `user:alice`.
    target: str
    #: The parts of the target; of a person only where their name is an account's.
    platform: str | None = None
    account: str = ""
    chat_id: str | None = None
    thread_id: str | None = None
    #: What the line says of them, for the template; beside what is known of the person.
    attributes: dict[str, Any] | None = Field(default=None, sa_type=JSON)


class BroadcastRow(SQLModel, table=True):
    """One message to an audience."""

    __tablename__ = "broadcast"

    id: str = Field(primary_key=True, max_length=32)
    name: str = Field(unique=True)
    state: str
    audience: str
    #: The message; a Jinja2 template when `templated`.
    body: str = Field(sa_column=Column(Text, nullable=False))
    templated: bool = False
    topic: str = ""
    source: str = "broadcast"
    silent: bool = False
    #: Broadcasts of different tenants share a bot's pace evenly.
    tenant: str = ""
    created_ms: int = _ms(nullable=False)
    checked_ms: int | None = _ms()
    started_ms: int | None = _ms()
    #: Of a cancelled one only when all of its deliveries are.
    ended_ms: int | None = _ms()
    #: Why it was paused or halted, in words.
    reason: str | None = None
    #: Share of the recipients that get it first, in percent.
    canary_percent: float | None = None
    #: What follows the canary: `wait` for a person, or `go` on while failures are few.
    canary_then: str = "wait"
    #: Set when the canary has ended.
    canary_done: bool = Field(default=False, sa_column_kwargs={"server_default": text("false")})
    #: Recipients that are left after the preflight.
    recipients: int = Field(default=0, sa_type=BigInteger)
    #: `n` of the last recipient that has a delivery.
    fanned_out: int = Field(default=0, sa_type=BigInteger)
    #: What had come of it when a person let it go on: only what came after that is judged.
    forgiven: dict[str, Any] | None = Field(default=None, sa_type=JSON)
    #: What the preflight found.
    report: dict[str, Any] | None = Field(default=None, sa_type=JSON)


class RecipientRow(SQLModel, table=True):
    """One person, or one target that is nobody's, of one broadcast; numbered from 1.

    Drawn by the preflight. Those that are left out come without a number.
    """

    __tablename__ = "recipient"
    __table_args__ = (Index("ix_recipient_n", "broadcast_id", "n"),)

    broadcast_id: str = Field(primary_key=True, max_length=32)
    #: The unified user, or the target of somebody whom no link names.
    person: str = Field(primary_key=True)
    n: int | None = Field(default=None, sa_type=BigInteger)
    target: str
    platform: str | None = None
    account: str = ""
    #: `None` where the direct chat has to be opened first.
    chat_id: str | None = None
    thread_id: str | None = None
    #: Why this one is left out, one of `scheduler.broadcasts.draw.Excluded`.
    excluded: str | None = None
    #: What the template is filled with, as it was when that was checked.
    attributes: dict[str, Any] | None = Field(default=None, sa_type=JSON)
