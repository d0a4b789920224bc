"""Staged links: whose the members of a list are, where a resolver keeps it and not the database.

They are asked for member by member and put into a temporary table that reads as `identity_link`.
"""

from collections.abc import Iterable

import orjson
from sqlalchemy import Connection, text

from resolvers import IdentityResolverProtocol
from resolvers.protocol import IdentityLink, unlinked
from scheduler.broadcasts.staging import CHUNK
from worker.json_rows import rows_from_json
from worker.targets import USER

#: Reads as `identity_link`.
TABLE = "staged_link"
_COLUMNS = {
    "platform": "text",
    "platform_user_id": "text",
    "unified_user_id": "text",
    "created_ms": "bigint",
}


def stage_links(
    connection: Connection, resolver: IdentityResolverProtocol, members: str, value: str, name: str
) -> None:
    """Make the table, with every link of everybody whom `members` name.

    Args:
        members: SQL of the members, with `:value` and `:name`.
    """
    columns = ", ".join(f"{column} {kind}" for column, kind in _COLUMNS.items())
    key = "PRIMARY KEY (platform, platform_user_id)"
    connection.execute(text(f"CREATE TEMPORARY TABLE {TABLE} ({columns}, {key})"))
    connection.execute(text(f"CREATE INDEX staged_link_user ON {TABLE} (unified_user_id)"))
    insert = text(
        f"INSERT INTO {TABLE} SELECT {', '.join(_COLUMNS)} "
        f"FROM ({rows_from_json(connection.dialect.name, _COLUMNS)}) AS r WHERE true "
        "ON CONFLICT DO NOTHING"
    )
    ask = text(
        f"SELECT n, target, platform, chat_id FROM {members} WHERE n > :last "
        "ORDER BY n LIMIT :limit"
    )
    last = 0
    while True:
        values = {"value": value, "name": name, "last": last, "limit": CHUNK}
        rows = connection.execute(
            ask, {k: v for k, v in values.items() if f":{k}" in ask.text}
        ).all()
        if not rows:
            return
        persons = {
            person
            for _, target, platform, chat in rows
            for person in _persons(resolver, target, platform, chat)
        }
        found = (link for person in sorted(persons) for link in resolver.links_for(person))
        connection.execute(insert, {"rows": _packed(found)})
        last = rows[-1].n


def _persons(
    resolver: IdentityResolverProtocol, target: str, platform: str | None, chat: str | None
) -> list[str]:
    """Give whom a member may mean: who has the account, and who has the name."""
    found = []
    if platform is not None and chat is not None:
        person = resolver.resolve(platform, chat)
        if person != unlinked(platform, chat):
            found.append(person)
    if target.startswith(f"{USER}:"):
        found.append(target.removeprefix(f"{USER}:"))
    return found


def _packed(links: Iterable[IdentityLink]) -> str:
    return orjson.dumps(
        [
            {
                "platform": link.platform,
                "platform_user_id": link.platform_user_id,
                "unified_user_id": link.unified_user_id,
                "created_ms": int(link.created_at.timestamp() * 1000) if link.created_at else 0,
            }
            for link in links
        ]
    ).decode()
