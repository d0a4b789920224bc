"""Draw: whom a broadcast goes to and where, found set by set inside the database.

Works in temporary tables of one connection (see `scheduler.broadcasts.staging`): `wanted` has
each person of the audience once, `drawn` the one place at which they are reached or the reason
why they are left out. Called by the preflight alone.

A person's place is chosen as `resolvers.routes.rank_routes` and `worker.resolve` do it for one.
"""

from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import Connection, Text, TextClause, bindparam, text

from resolvers import IdentityResolverProtocol, SqlIdentityResolver
from scheduler.broadcasts.audiences import Audience, Kind
from scheduler.broadcasts.staged_links import TABLE as STAGED_LINKS
from scheduler.broadcasts.staged_links import stage_links
from worker import dead
from worker.platforms import platforms
from worker.platforms.base import OpensChats
from worker.settings import credential_print, credentials


class Excluded(StrEnum):
    """Why somebody of the audience is left out."""

    OPTED_OUT = "opted_out"
    DEAD = "dead"
    NO_ROUTE = "no_route"
    UNKNOWN_PLATFORM = "unknown_platform"
    MISSING_ATTRIBUTE = "missing_attribute"


@dataclass(frozen=True, slots=True)
class Ways:
    """How people can be written to from here, as lists of platforms.

    Attributes:
        by_user_id: By their user id.
        ready: Of those, with a credential that was not refused.
        opens: Of those, whose direct chats have to be opened first.
    """

    known: tuple[str, ...]
    by_user_id: tuple[str, ...]
    ready: tuple[str, ...]
    opens: tuple[str, ...]


def ways(connection: Connection) -> Ways:
    """Give the ways that the installed platforms and the environment's credentials make."""
    by_user_id = {n: p for n, p in platforms().items() if p.capability.dm_by_user_id}
    prints = {n: credential_print(credentials(p)) for n, p in by_user_id.items()}
    refused = {
        (row.platform, row.credential_print)
        for row in connection.execute(
            text("SELECT platform, credential_print FROM dead_credential WHERE account = ''")
        )
    }
    return Ways(
        known=tuple(platforms()),
        by_user_id=tuple(by_user_id),
        ready=tuple(n for n, p in prints.items() if p and (n, p) not in refused),
        opens=tuple(n for n, p in by_user_id.items() if isinstance(p, OpensChats)),
    )


#: SQL for what stands before and after the first `:` of an expression, by database.
_BEFORE = {
    "sqlite": "substr({0}, 1, instr({0}, ':') - 1)",
    "postgresql": "substr({0}, 1, GREATEST(strpos({0}, ':') - 1, 0))",
}
_AFTER = {
    "sqlite": "substr({0}, instr({0}, ':') + 1)",
    "postgresql": "substr({0}, strpos({0}, ':') + 1)",
}

_JSON = {"sqlite": "TEXT", "postgresql": "JSON"}
_TABLES = (
    """
    CREATE TEMPORARY TABLE wanted (person TEXT PRIMARY KEY, target TEXT, platform TEXT,
        account TEXT, chat_id TEXT, thread_id TEXT, own INTEGER, attributes {json})
    """,
    """
    CREATE TEMPORARY TABLE drawn (person TEXT PRIMARY KEY, target TEXT, platform TEXT,
        account TEXT, chat_id TEXT, thread_id TEXT, excluded TEXT, attributes {json})
    """,
)


def draw(
    connection: Connection,
    audience: Audience,
    topic: str,
    by: Ways,
    resolver: IdentityResolverProtocol,
) -> int:
    """Fill `wanted` and `drawn`; give how many duplicates were merged.

    A generator's members are in `staged` already.
    """
    links = "identity_link"
    if not isinstance(resolver, SqlIdentityResolver):
        members = _members(connection.dialect.name, audience.kind)
        stage_links(connection, resolver, members, audience.value, audience.name)
        links = STAGED_LINKS
    dialect = connection.dialect.name
    for table in _TABLES:
        connection.execute(text(table.format(json=_JSON[dialect])))
    asked = _ask(connection, audience, links)
    _analyze(connection, "wanted")
    connection.execute(
        _draw(dialect, links, any_dead=dead.is_any_noted(connection)),
        {
            "topic": topic,
            "only": audience.value if audience.kind is Kind.PLATFORM else None,
            "by_user_id": by.by_user_id,
            "ready": by.ready,
            "opens": by.opens,
            "known": by.known,
        },
    )
    _analyze(connection, "drawn")
    persons: int = connection.execute(text("SELECT count(*) FROM wanted")).scalar_one()
    return asked - persons


def _analyze(connection: Connection, table: str) -> None:
    # PostgreSQL knows nothing of a temporary table that nobody tells it.
    if connection.dialect.name == "postgresql":
        connection.execute(text(f"ANALYZE {table}"))


def _ask(connection: Connection, audience: Audience, links: str) -> int:
    """Fill `wanted` with the audience's people; give from how many accounts or lines."""
    values = {"value": audience.value, "name": audience.name}
    if audience.kind in (Kind.EVERYBODY, Kind.PLATFORM):
        where = "WHERE platform = :value" if audience.kind is Kind.PLATFORM else ""
        connection.execute(
            text(
                "INSERT INTO wanted (person, own) "
                f"SELECT DISTINCT unified_user_id, 0 FROM {links} {where}"
            ),
            values,
        )
        count = f"SELECT count(*) FROM {links} {where}"
    else:
        members = _members(connection.dialect.name, audience.kind)
        connection.execute(_from_members(members, links), values)
        count = f"SELECT count(*) FROM {members}"
    asked: int = connection.execute(text(count), values).scalar_one()
    return asked


def _members(dialect: str, kind: Kind) -> str:
    match kind:
        case Kind.LIST:
            return "(SELECT * FROM audience_member WHERE audience = :name) AS m"
        case Kind.GENERATOR:
            return "staged AS m"
    user = "t.unified_user"
    # A tag may have been given to an account that was linked to somebody since.
    return f"""
        (SELECT row_number() OVER (ORDER BY {user}) AS n, 'user:' || {user} AS target,
            {_BEFORE[dialect].format(user)} AS platform, '' AS account,
            {_AFTER[dialect].format(user)} AS chat_id, NULL AS thread_id,
            CAST(NULL AS {_JSON[dialect]}) AS attributes
         FROM person_tag t WHERE t.tag = :value) AS m
        """


def _from_members(members: str, links: str) -> TextClause:
    """Give SQL that takes each person's first line.

    A line's own place comes first where it names a bot or a thread or nobody is linked to it
    (`own` is 1), and else after everything that is known of the person.
    """
    # Whoever writes to two bots is one person; a thread is a place of its own.
    name = """CASE WHEN m.target LIKE 'user:%' THEN substr(m.target, 6)
        WHEN m.account <> '' AND m.thread_id IS NULL THEN m.platform || ':' || m.chat_id
        ELSE m.target END"""
    return text(
        f"""
        INSERT INTO wanted
        SELECT person, target, platform, account, chat_id, thread_id, own, attributes
        FROM (
            SELECT q.*, row_number() OVER (PARTITION BY person ORDER BY n, person) AS nth
            FROM (
                SELECT m.n, COALESCE(l.unified_user_id, {name}) AS person,
                    CASE WHEN m.target LIKE 'user:%' THEN NULL ELSE m.target END AS target,
                    m.platform, m.account, m.chat_id, m.thread_id,
                    CASE WHEN l.unified_user_id IS NULL OR m.account <> ''
                        OR m.thread_id IS NOT NULL THEN 1 ELSE 0 END AS own,
                    m.attributes
                FROM {members} LEFT JOIN {links} l
                    ON l.platform = m.platform AND l.platform_user_id = m.chat_id) AS q) AS p
        WHERE nth = 1
        """
    )


#: Where the person last wrote, asked for only where there is a choice.
_HEARD = """CASE WHEN r.routes > 1 AND r.platform = (
        SELECT m.platform FROM message m WHERE m.session_key = r.person AND m.role = 'user'
        AND m.platform IS NOT NULL ORDER BY m.timestamp_ms DESC, m.id DESC LIMIT 1)
    THEN 0 ELSE 1 END"""
_DEAD = """CASE WHEN EXISTS (
        SELECT 1 FROM dead_target d WHERE d.platform = r.platform AND d.account = r.account
        AND d.chat_id = COALESCE((SELECT v.moved_to FROM dead_target v
            WHERE v.platform = r.platform AND v.account = r.account AND v.chat_id = r.chat_id
            AND v.thread_id = '' AND v.moved_to IS NOT NULL), r.chat_id)
        AND d.thread_id IN ('', COALESCE(r.thread_id, '')) AND d.moved_to IS NULL)
    THEN 1 ELSE 0 END"""


def _draw(dialect: str, links: str, *, any_dead: bool) -> TextClause:
    before, after = _BEFORE[dialect], _AFTER[dialect]
    gone = _DEAD if any_dead else "0"
    statement = f"""
        INSERT INTO drawn (person, target, platform, account, chat_id, thread_id, excluded,
            attributes)
        WITH opted AS MATERIALIZED (
            SELECT unified_user AS who FROM opt_out WHERE topic IN ('', :topic)
            UNION SELECT l.unified_user_id FROM opt_out o JOIN {links} l
                ON l.platform = {before.format("o.unified_user")}
                AND l.platform_user_id = {after.format("o.unified_user")}
            WHERE o.topic IN ('', :topic)),
        -- 0 and 2 are the line's own place, 1 and 3 links, 4 the account that is a person's name.
        route AS (
            SELECT w.person, NULL AS target, l.platform, '' AS account,
                l.platform_user_id AS chat_id, NULL AS thread_id, l.created_ms,
                CASE WHEN l.platform IN :ready THEN 1 ELSE 3 END AS tier
            FROM wanted w JOIN {links} l ON l.unified_user_id = w.person
            WHERE l.platform IN :by_user_id
                AND l.platform = COALESCE(CAST(:only AS text), l.platform)
            UNION ALL
            SELECT person, target, platform, account, chat_id, thread_id, 0,
                CASE own WHEN 1 THEN 0 ELSE 2 END
            FROM wanted WHERE target IS NOT NULL
            UNION ALL
            SELECT person, NULL, {before.format("person")}, '', {after.format("person")}, NULL, 0, 4
            FROM wanted WHERE target IS NULL AND {before.format("person")} IN :by_user_id
                AND {after.format("person")} <> ''),
        counted AS (SELECT *, count(*) OVER (PARTITION BY person) AS routes FROM route),
        judged AS (SELECT r.*, {gone} AS dead, {_HEARD} AS heard FROM counted r),
        ranked AS (
            SELECT *, row_number() OVER (PARTITION BY person ORDER BY
                CASE WHEN tier <= 2 THEN 0 ELSE tier END, dead, tier, heard, created_ms, platform,
                chat_id) AS place
            FROM judged)
        SELECT w.person,
            CASE WHEN r.target IS NOT NULL THEN r.target
                WHEN r.platform IS NULL THEN 'user:' || w.person
                WHEN r.platform NOT IN :opens THEN r.platform || ':' || r.chat_id
                WHEN r.tier = 4 OR CAST(:only AS text) IS NOT NULL
                    THEN 'user:' || r.platform || ':' || r.chat_id
                ELSE 'user:' || w.person END,
            r.platform, COALESCE(r.account, ''),
            CASE WHEN r.target IS NULL AND r.platform IN :opens THEN NULL ELSE r.chat_id END,
            r.thread_id,
            CASE WHEN w.person IN (SELECT who FROM opted)
                    OR r.platform || ':' || r.chat_id IN (SELECT who FROM opted)
                    THEN '{Excluded.OPTED_OUT}'
                WHEN r.platform NOT IN :known THEN '{Excluded.UNKNOWN_PLATFORM}'
                WHEN r.platform IS NOT NULL THEN
                    CASE r.dead WHEN 1 THEN '{Excluded.DEAD}' END
                WHEN EXISTS (SELECT 1 FROM {links} l WHERE l.unified_user_id = w.person
                    AND l.platform NOT IN :known) THEN '{Excluded.UNKNOWN_PLATFORM}'
                ELSE '{Excluded.NO_ROUTE}' END,
            w.attributes
        FROM wanted w LEFT JOIN ranked r ON r.person = w.person AND r.place = 1
        """
    lists = ("ready", "by_user_id", "opens", "known")
    return text(statement).bindparams(
        *(bindparam(name, type_=Text, expanding=True) for name in lists)
    )
