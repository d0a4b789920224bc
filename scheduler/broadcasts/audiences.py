"""Audiences: whom a broadcast is for, under a name; made, listed, removed.

A query (everybody, a tag, a platform, a generator) is asked anew by each preflight; a list is
read once from its file and kept.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import orjson
from sqlalchemy import Connection, Engine, text

from resolvers import IdentityResolverProtocol, SqlIdentityResolver
from scheduler.broadcasts.members import Broken, generator, read_file
from scheduler.broadcasts.staging import stage, staging, writing
from worker.database import NOW_MS, reading
from worker.errors import NotFound, Refused
from worker.platforms import platform

#: Characters that a name may have.
_MAX_NAME = 200
#: Broken lines that an error names.
NAMED = 3


class Kind(StrEnum):
    """What an audience is."""

    EVERYBODY = "everybody"
    TAG = "tag"
    PLATFORM = "platform"
    LIST = "list"
    GENERATOR = "generator"


@dataclass(frozen=True, slots=True)
class Audience:
    """A saved query or list.

    Attributes:
        value: The tag, the platform, the file's name or the generator.
        members: Lines of a list; `None` for a query.
    """

    name: str
    kind: Kind
    value: str
    created_ms: int
    members: int | None


@dataclass(frozen=True, slots=True)
class Loaded:
    """What became of the lines of a file; `shown` has the first broken ones."""

    used: int
    unusable: int
    shown: tuple[Broken, ...]


class BrokenLines(Refused):
    """Lines of a file cannot be used; nothing was stored."""

    def __init__(self, path: Path, loaded: Loaded) -> None:
        named = "; ".join(f"line {b.line}: {b.why}" for b in loaded.shown[:NAMED])
        total = loaded.used + loaded.unusable
        mend = "mend them, or take the rest with --skip-bad" if loaded.used else "mend them"
        super().__init__(
            f"{loaded.unusable} of {total} lines of {path.name} cannot be used ({named}): {mend}"
        )
        self.loaded = loaded


def check_name(what: str, name: str) -> None:
    """Refuse a name that could not be typed or shown.

    Raises:
        Refused: Says what would be right.
    """
    if not 0 < len(name) <= _MAX_NAME or not name.isprintable() or name != name.strip():
        raise Refused(f"{what} must have 1 to {_MAX_NAME} printable characters")


def check_links(resolver: IdentityResolverProtocol) -> None:
    """Refuse a query over links that are not in this database.

    Raises:
        Refused: Says what to use in their place.
    """
    if not isinstance(resolver, SqlIdentityResolver):
        raise Refused(
            f"the identity links are kept by {type(resolver).__name__}, which cannot be asked "
            "for all people: use --file, or MIRRORPOST_RESOLVER=sql"
        )


def create_query(
    engine: Engine, resolver: IdentityResolverProtocol, name: str, kind: Kind, value: str = ""
) -> Audience:
    """Save a query: everybody, a tag, a platform or a generator.

    Raises:
        Refused: It could not be asked, or the name is taken.
    """
    check_name("the audience's name", name)
    match kind:
        case Kind.EVERYBODY:
            check_links(resolver)
        case Kind.PLATFORM:
            check_links(resolver)
            if not platform(value).capability.dm_by_user_id:
                raise Refused(f"{value} has no way to write to a person by their user id")
        case Kind.TAG:
            check_name("the tag", value)
        case Kind.GENERATOR:
            generator(value)
        case Kind.LIST:
            raise AssertionError("a list comes from a file")
    with engine.begin() as connection:
        _insert(connection, name, kind, value)
    return get(engine, name)


def create_list(
    engine: Engine, name: str, path: Path, *, skip_bad: bool, advance: Callable[[int], None]
) -> tuple[Audience, Loaded]:
    """Keep the members that a file lists; of broken lines only with `skip_bad` the others.

    Args:
        advance: Is told the bytes that were read, now and then.

    Raises:
        BrokenLines: Some cannot be used; nothing was stored.
        Refused: It is no such file, it has no line, or the name is taken.
    """
    check_name("the audience's name", name)
    with reading(engine) as connection:
        _check_free(connection, name)
    with staging(engine) as connection:
        used, unusable, shown = stage(connection, read_file(path, advance), lambda _: None)
        loaded = Loaded(used, unusable, tuple(shown))
        if not used and not unusable:
            raise Refused(f"{path.name} is empty: write one target a line under a header")
        if not used or (unusable and not skip_bad):
            raise BrokenLines(path, loaded)
        with writing(connection):
            _insert(connection, name, Kind.LIST, path.name)
            connection.execute(
                text(
                    "INSERT INTO audience_member (audience, n, target, platform, account, chat_id, "
                    "thread_id, attributes) SELECT :name, n, target, platform, account, chat_id, "
                    "thread_id, attributes FROM staged"
                ),
                {"name": name},
            )
    return get(engine, name), loaded


def _check_free(connection: Connection, name: str) -> None:
    if _rows(connection, "WHERE a.name = :name", name):
        raise Refused(
            f"there is an audience {name!r} already: name this one otherwise, "
            f"or mirrorpost audience remove {name}"
        )


def _insert(connection: Connection, name: str, kind: Kind, value: str) -> None:
    now = NOW_MS[connection.dialect.name]
    inserted = connection.execute(
        text(
            f"INSERT INTO audience (name, kind, value, created_ms) "
            f"VALUES (:name, :kind, :value, {now}) ON CONFLICT (name) DO NOTHING"
        ),
        {"name": name, "kind": kind, "value": value},
    ).rowcount
    if not inserted:
        _check_free(connection, name)


def _rows(connection: Connection, where: str = "", name: str = "") -> list[Audience]:
    rows = connection.execute(
        text(
            "SELECT a.name, a.kind, a.value, a.created_ms, CASE WHEN a.kind = 'list' THEN "
            "COALESCE((SELECT max(m.n) FROM audience_member m WHERE m.audience = a.name), 0) END "
            f"AS members FROM audience a {where} ORDER BY a.name"
        ),
        {"name": name} if where else {},
    )
    return [Audience(r.name, Kind(r.kind), r.value, r.created_ms, r.members) for r in rows]


def list_(engine: Engine) -> list[Audience]:
    """Give all audiences by name."""
    with reading(engine) as connection:
        return _rows(connection)


def get(engine: Engine, name: str) -> Audience:
    """Give one audience.

    Raises:
        NotFound: There is none of that name.
    """
    with reading(engine) as connection:
        return lookup(connection, name)


def lookup(connection: Connection, name: str) -> Audience:
    """Give one audience in the caller's transaction; raise `NotFound` without one."""
    found = _rows(connection, "WHERE a.name = :name", name)
    if not found:
        raise NotFound(f"there is no audience {name!r}: mirrorpost audience list")
    return found[0]


def first_members(engine: Engine, name: str, limit: int) -> list[tuple[str, dict[str, object]]]:
    """Give targets and attributes of a list's first members."""
    with reading(engine) as connection:
        rows = connection.execute(
            text(
                "SELECT target, CAST(attributes AS text) AS attributes FROM audience_member "
                "WHERE audience = :name ORDER BY n LIMIT :limit"
            ),
            {"name": name, "limit": limit},
        )
        return [(r.target, orjson.loads(r.attributes) if r.attributes else {}) for r in rows]


def remove(engine: Engine, name: str) -> None:
    """Remove an audience; what was checked already goes on with its recipients.

    Raises:
        NotFound: There is none of that name.
        Refused: A draft is for it.
    """
    with engine.begin() as connection:
        lookup(connection, name)
        draft = connection.execute(
            text("SELECT name FROM broadcast WHERE audience = :name AND state = 'draft' LIMIT 1"),
            {"name": name},
        ).scalar()
        if draft is not None:
            raise Refused(
                f"the broadcast {draft!r} is for it and not checked yet: "
                f"mirrorpost broadcast cancel {draft} first"
            )
        connection.execute(text("DELETE FROM audience_member WHERE audience = :n"), {"n": name})
        connection.execute(text("DELETE FROM audience WHERE name = :n"), {"n": name})
