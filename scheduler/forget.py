"""Forget: a person's links, history and the texts of their deliveries are removed.

What is left of a delivery is that there was one: when, in which state, to whom. It never goes
out any more and is never mirrored again.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields

import orjson
from sqlalchemy import Connection, Engine, TextClause, bindparam, text

from resolvers import IdentityResolverProtocol
from resolvers.protocol import Account
from worker.by_hand import cancel
from worker.database import NOW_MS, reading
from worker.people import store as people

#: What stands where a text was.
FORGOTTEN = "[forgotten]"
#: Deliveries of one transaction, so that senders hardly wait.
_BATCH = 500
#: What a message is for.
_TO = {
    "sqlite": "json_extract({column}, '$.to')",
    "postgresql": "{column} ->> 'to'",
}


@dataclass(frozen=True, slots=True)
class Person:
    """Whom to forget.

    Attributes:
        name: The unified user.
        accounts: Their platforms and user ids.
    """

    name: str
    accounts: Sequence[Account]

    @property
    def sessions(self) -> list[str]:
        """Give the keys of their histories, also of the time before they were linked."""
        return sorted({self.name, *(f"{platform}:{id_}" for platform, id_ in self.accounts)})

    @property
    def targets(self) -> list[str]:
        """Give the targets that are they alone."""
        return [f"user:{self.name}", *self.sessions]


@dataclass(frozen=True, slots=True)
class Forgotten:
    """How much of a person was there, or is gone.

    Attributes:
        attributes: Names under which attributes or a time zone were known.
        lists: Lines of audiences' lists, and places among the recipients of broadcasts.
        cancelled: Deliveries that had not ended.
        under_way: Deliveries that a worker is sending: what comes of them is there afterwards.
    """

    links: int = 0
    messages: int = 0
    deliveries: int = 0
    attempts: int = 0
    rejected: int = 0
    attributes: int = 0
    tags: int = 0
    opt_outs: int = 0
    lists: int = 0
    cancelled: int = 0
    under_way: int = 0

    def __add__(self, other: "Forgotten") -> "Forgotten":
        """Add up."""
        return Forgotten(
            *(getattr(self, each.name) + getattr(other, each.name) for each in fields(self))
        )


def person(resolver: IdentityResolverProtocol, name: str) -> Person:
    """Find a person by their name or by one of their accounts (`platform:id`)."""
    platform, _, account = name.partition(":")
    named = [(platform, account)] if platform and account else []
    user = resolver.resolve(platform, account) if named else name
    links = [(link.platform, link.platform_user_id) for link in resolver.links_for(user)]
    return Person(user, sorted({*links, *named}))


def forget(
    engine: Engine, resolver: IdentityResolverProtocol, whom: Person, *, dry_run: bool = False
) -> Forgotten:
    """Remove a person; give how much it was.

    Deliveries to them that have not ended are cancelled. Interrupted or run again, it removes
    what is left. Reads all deliveries once, and keeps nobody waiting meanwhile.
    """
    links = resolver.links_for(whom.name)
    counts = Forgotten(links=len(links))
    ids = _deliveries(engine, whom)
    for at in range(0, len(ids), _BATCH):
        with _transaction(engine, dry_run=dry_run) as connection:
            counts += _blank(connection, ids[at : at + _BATCH])
    with _transaction(engine, dry_run=dry_run) as connection:
        counts += _remove(connection, whom)
    if not dry_run:
        for link in links:
            resolver.unlink(link.platform, link.platform_user_id)
    return counts


def schedules_for(engine: Engine, whom: Person) -> list[str]:
    """Give the names of the schedules that go on writing to a person."""
    to = _TO[engine.dialect.name].format(column="message")
    query = _with_list(f"SELECT name FROM schedule WHERE {to} IN :targets ORDER BY name", "targets")
    with reading(engine) as connection:
        return list(connection.execute(query, {"targets": whom.targets}).scalars())


@contextmanager
def _transaction(engine: Engine, *, dry_run: bool) -> Iterator[Connection]:
    """Give a transaction of which a dry run keeps nothing."""
    with engine.begin() as connection:
        yield connection
        if dry_run:
            connection.rollback()


def _deliveries(engine: Engine, whom: Person) -> list[str]:
    theirs = ["unified_user = :user", "target IN :targets"]
    values: dict[str, object] = {"user": whom.name, "targets": whom.targets}
    for number, (platform, account) in enumerate(whom.accounts):
        theirs.append(f"(platform = :p{number} AND chat_id = :a{number})")
        values |= {f"p{number}": platform, f"a{number}": account}
    # What changed their messages has their texts as well, wherever it went.
    query = (
        f"WITH theirs AS (SELECT id FROM delivery WHERE {' OR '.join(theirs)}) "
        "SELECT id FROM theirs UNION SELECT id FROM delivery "
        "WHERE refers_to IS NOT NULL AND refers_to IN (SELECT id FROM theirs) ORDER BY id"
    )
    with reading(engine) as connection:
        return list(connection.execute(_with_list(query, "targets"), values).scalars())


def _blank(connection: Connection, ids: Sequence[str]) -> Forgotten:
    """End deliveries and take their words away.

    What was not sent expires: nobody is sent the mark itself, neither when an attempt that is
    under way fails nor when somebody retries dead letters.
    """
    under_way = _with_list(
        "SELECT count(*) FROM delivery WHERE id IN :ids AND state = 'sending'", "ids"
    )
    rows = _with_list(
        f"UPDATE delivery SET text = '{FORGOTTEN}', metadata = NULL, reply_to = NULL, "
        "error_text = NULL, mirror = CASE WHEN mirror = 'failed' THEN NULL ELSE mirror END, "
        "expires_ms = CASE WHEN state = 'sent' THEN expires_ms ELSE "
        f"{NOW_MS[connection.dialect.name]} END WHERE id IN :ids AND text <> '{FORGOTTEN}'",
        "ids",
    )
    attempts = _with_list(
        "UPDATE attempt SET text = NULL WHERE delivery_id IN :ids AND text IS NOT NULL", "ids"
    )
    values = {"ids": ids}
    return Forgotten(
        under_way=connection.execute(under_way, values).scalar_one(),
        cancelled=len(cancel(connection, ids)),
        deliveries=connection.execute(rows, values).rowcount,
        attempts=connection.execute(attempts, values).rowcount,
    )


def _remove(connection: Connection, whom: Person) -> Forgotten:
    """Delete what is theirs and no delivery: history, attributes, notes about chats, and so on."""
    for platform, account in whom.accounts:
        connection.execute(
            text("DELETE FROM dead_target WHERE platform = :platform AND chat_id = :account"),
            {"platform": platform, "account": account},
        )
    messages = _with_list("DELETE FROM message WHERE session_key IN :keys", "keys")
    to = _TO[connection.dialect.name].format(column="payload")
    rejected = _with_list(f"DELETE FROM rejected WHERE {to} IN :targets", "targets")
    # A broadcast goes on without them: its recipients may have gaps.
    lists = 0
    for table, name in (("audience_member", "target"), ("recipient", "person")):
        # Also by another bot, or in a thread.
        theirs = [f"{name} IN :targets", "target IN :targets"]
        values: dict[str, object] = {"targets": whom.targets}
        for number, (platform, account) in enumerate(whom.accounts):
            theirs.append(f"(platform = :p{number} AND chat_id = :a{number})")
            values |= {f"p{number}": platform, f"a{number}": account}
        query = f"DELETE FROM {table} WHERE {' OR '.join(theirs)}"
        lists += connection.execute(_with_list(query, "targets"), values).rowcount
    _take_out_of_reports(connection, whom)
    attributes, tags, opt_outs = people.remove(connection, whom.sessions)
    return Forgotten(
        attributes=attributes,
        tags=tags,
        opt_outs=opt_outs,
        lists=lists,
        messages=connection.execute(messages, {"keys": whom.sessions}).rowcount,
        rejected=connection.execute(rejected, {"targets": whom.targets}).rowcount,
    )


def _take_out_of_reports(connection: Connection, whom: Person) -> None:
    """Take them out of what preflights found: a report shows some texts with their people."""
    as_json = connection.dialect.name == "postgresql"
    change = text(
        f"UPDATE broadcast SET report = {'CAST(:report AS json)' if as_json else ':report'} "
        "WHERE id = :id"
    )
    rows = connection.execute(
        text("SELECT id, CAST(report AS text) AS report FROM broadcast WHERE report IS NOT NULL")
    ).all()
    theirs, places = set(whom.targets), whom.accounts
    for row in rows:
        report = orjson.loads(row.report)
        kept = {
            name: [each for each in report.get(name, ()) if not _names(each, theirs, places)]
            for name in ("sample", "missing_attributes")
        }
        if any(len(kept[name]) < len(report.get(name, ())) for name in kept):
            packed = orjson.dumps({**report, **kept}).decode()
            connection.execute(change, {"id": row.id, "report": packed})


def _names(shown: dict[str, str], theirs: set[str], accounts: Sequence[Account]) -> bool:
    if not theirs.isdisjoint({shown["person"], shown.get("target", "")}):
        return True
    # Of somebody whom no link names, the person is the target: by any bot, in any thread.
    head, _, chat = shown["person"].partition(":")
    return (head.partition("@")[0], chat.partition("#")[0]) in accounts


def _with_list(statement: str, name: str) -> TextClause:
    return text(statement).bindparams(bindparam(name, expanding=True))
