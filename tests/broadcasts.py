"""People, audiences and broadcasts in a database, and what is in it afterwards."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, text

from resolvers import SqlIdentityResolver
from scheduler.broadcasts import audiences, drafts
from scheduler.broadcasts.audiences import Audience, Kind
from scheduler.broadcasts.drafts import Broadcast
from scheduler.broadcasts.preflight import preflight
from worker.database import reading


def link(engine: Engine, platform: str, user_id: str, person: str, created_ms: int = 0) -> None:
    execute(
        engine,
        "INSERT INTO identity_link VALUES (:platform, :user_id, :person, :created_ms)",
        platform=platform,
        user_id=user_id,
        person=person,
        created_ms=created_ms,
    )


def describe(engine: Engine, person: str, timezone: str | None = None, **attributes: Any) -> None:
    """Note attributes of a person, and their time zone."""
    execute(
        engine,
        "INSERT INTO person VALUES (:person, :attributes, :timezone)",
        person=person,
        attributes=json.dumps(attributes),
        timezone=timezone,
    )


def wrote(engine: Engine, person: str, platform: str, at_ms: int) -> None:
    """Let a person have written to the bot."""
    execute(
        engine,
        "INSERT INTO message (session_key, role, content, timestamp_ms, platform, mirror, "
        "platform_message_ids, metadata) VALUES (:p, 'user', 'hi', :at, :on, false, '[]', '{}')",
        p=person,
        at=at_ms,
        on=platform,
    )


def opt_out(engine: Engine, person: str, topic: str = "") -> None:
    execute(engine, "INSERT INTO opt_out VALUES (:p, :t, 0)", p=person, t=topic)


def tag(engine: Engine, person: str, name: str) -> None:
    execute(engine, "INSERT INTO person_tag VALUES (:t, :p)", p=person, t=name)


def dead(engine: Engine, platform: str, chat: str, moved_to: str | None = None) -> None:
    """Note that a chat is gone, or has moved."""
    execute(
        engine,
        "INSERT INTO dead_target (platform, account, chat_id, thread_id, kind, reason, since_ms, "
        "probe_ms, moved_to) VALUES (:p, '', :c, '', 'forbidden', 'blocked', 0, 0, :m)",
        p=platform,
        c=chat,
        m=moved_to,
    )


def audience(engine: Engine, kind: Kind = Kind.EVERYBODY, value: str = "") -> Audience:
    """Save a query under the name of its kind."""
    return audiences.create_query(engine, SqlIdentityResolver(engine), kind.value, kind, value)


def listed(engine: Engine, folder: Path, *members: object) -> Audience:
    """Save a list called `list`; a member is a target or an object of a line."""
    lines = [{"target": each} if isinstance(each, str) else each for each in members]
    file = folder / "list.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return audiences.create_list(engine, "list", file, skip_bad=False, advance=lambda _: None)[0]


def draft(engine: Engine, name: str = "spring", to: str = "everybody", **more: Any) -> Broadcast:
    return drafts.create(engine, name, audience=to, **{"body": "The offers are here", **more})


def check(engine: Engine, name: str = "spring", *, skip_missing: bool = False) -> Broadcast:
    return preflight(engine, SqlIdentityResolver(engine), name, skip_missing=skip_missing)


def crowd(engine: Engine, people: int) -> None:
    """Link so many people, `p1` and on, each to one Telegram account."""
    with engine.begin() as connection:
        connection.execute(
            text("INSERT INTO identity_link VALUES ('telegram', :id, :person, 0)"),
            [{"id": str(n), "person": f"p{n}"} for n in range(1, people + 1)],
        )


def drawn(engine: Engine) -> dict[str, tuple[str, str | None]]:
    """Give each recipient's target and why they are left out."""
    found = rows(engine, "SELECT person, target, excluded FROM recipient")
    return {person: (target, excluded) for person, target, excluded in found}


def execute(engine: Engine, statement: str, **values: object) -> None:
    with engine.begin() as connection:
        connection.execute(text(statement), values)


def rows(engine: Engine, query: str, **values: object) -> Sequence[Any]:
    with reading(engine) as connection:
        return connection.execute(text(query), values).all()
