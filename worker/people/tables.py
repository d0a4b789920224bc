"""The tables of people, under their unified user."""

from typing import Any

from sqlalchemy import JSON, BigInteger, Column, Index
from sqlmodel import Field, SQLModel


class PersonRow(SQLModel, table=True):
    """What a template may say of a person, and their time zone."""

    __tablename__ = "person"

    unified_user: str = Field(primary_key=True)
    attributes: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))
    #: An IANA name; `None` when nobody knows it.
    timezone: str | None = None


class PersonTagRow(SQLModel, table=True):
    """One tag of one person."""

    __tablename__ = "person_tag"
    __table_args__ = (Index("ix_person_tag_user", "unified_user"),)

    tag: str = Field(primary_key=True)
    unified_user: str = Field(primary_key=True)


class OptOutRow(SQLModel, table=True):
    """A topic of which a person wants nothing more; the empty one is everything."""

    __tablename__ = "opt_out"

    unified_user: str = Field(primary_key=True)
    topic: str = Field(primary_key=True)
    since_ms: int = Field(sa_type=BigInteger, nullable=False)
