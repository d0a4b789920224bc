"""The usual way, as people write it: one Celery task a message, ORM sessions, three commits.

Nothing of Mirrorpost's is used. Settings come from the environment: BENCH_DATABASE_URL,
BENCH_BROKER_URL, BENCH_PLATFORM_URL.
"""

import os
import time
from functools import cache

import httpx
from celery import Celery
from sqlalchemy import Engine, create_engine, event
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

app = Celery("usual", broker=os.environ["BENCH_BROKER_URL"])
app.conf.update(task_ignore_result=True, broker_connection_retry_on_startup=True)


class Base(DeclarativeBase):
    """The tables."""


class Message(Base):
    """One message and how far it is."""

    __tablename__ = "message"

    id: Mapped[int] = mapped_column(primary_key=True)
    chat_id: Mapped[int]
    text: Mapped[str]
    state: Mapped[str] = mapped_column(index=True)
    receipt: Mapped[str | None]


class History(Base):
    """One line of a chat's history."""

    __tablename__ = "history"

    id: Mapped[int] = mapped_column(primary_key=True)
    chat_id: Mapped[int] = mapped_column(index=True)
    role: Mapped[str]
    content: Mapped[str]
    at: Mapped[float]


@cache
def engine() -> Engine:
    """Give the process's engine; SQLite with the settings that Mirrorpost has."""
    made = create_engine(os.environ["BENCH_DATABASE_URL"])
    if made.dialect.name == "sqlite":

        @event.listens_for(made, "connect")
        def prepare(connection: object, _record: object) -> None:
            for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=30000"):
                connection.execute(f"PRAGMA {pragma}")  # type: ignore[attr-defined]

    return made


@cache
def client() -> httpx.Client:
    """Give the process's client, kept alive."""
    return httpx.Client(base_url=os.environ["BENCH_PLATFORM_URL"], timeout=10)


@app.task(name="usual.send", acks_late=True)
def send(message_id: int) -> None:
    """Send one message: commit that it is under way, that it is sent, and its history."""
    with Session(engine()) as session:
        message = session.get_one(Message, message_id)
        if message.state != "queued":
            return
        message.state = "sending"
        session.commit()
        response = client().post(
            "/bot1:bench/sendMessage", json={"chat_id": message.chat_id, "text": message.text}
        )
        response.raise_for_status()
        message.receipt = str(response.json()["result"]["message_id"])
        message.state = "sent"
        session.commit()
        session.add(
            History(chat_id=message.chat_id, role="assistant", content=message.text, at=time.time())
        )
        session.commit()
