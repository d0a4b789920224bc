"""People as a person or a file names them: by unified user, or by an account as `telegram:4711`.

Called by the command line. An account that is linked stands for its unified user.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

from sqlalchemy import Engine

from resolvers import IdentityResolverProtocol
from resolvers.protocol import resolve_many
from scheduler.forget import person
from scheduler.people_file import Line, check_attributes
from worker.database import reading
from worker.people import store
from worker.people.store import OptOut
from worker.people.views import PersonView, view

#: People of one transaction, so that senders hardly wait.
_BATCH = 500
#: Bad lines that are named.
_NAMED = 20


@dataclass(slots=True)
class Checked:
    """What a file has: good lines, bad ones, and what is wrong with the first of these."""

    good: int = 0
    bad: int = 0
    first: list[Line] = field(default_factory=list)


def check_lines(lines: Iterable[Line]) -> Checked:
    """Count good and bad lines."""
    checked = Checked()
    for line in lines:
        if line.person is not None:
            checked.good += 1
            continue
        checked.bad += 1
        if len(checked.first) < _NAMED:
            checked.first.append(line)
    return checked


def save_lines(
    engine: Engine, resolver: IdentityResolverProtocol, lines: Iterable[Line]
) -> Iterator[int]:
    """Store the good lines of a file, and give after each batch how many it was.

    Interrupted or run again, it stores the rest: the same line twice changes nothing.
    """
    good = (line for line in lines if line.person is not None)
    while batch := list(islice(good, _BATCH)):
        people = [line.person for line in batch if line.person is not None]
        users = _unified(resolver, [each.unified_user for each in people])
        named = [replace(p, unified_user=u) for p, u in zip(people, users, strict=True)]
        tags = [(u, tag) for u, line in zip(users, batch, strict=True) for tag in line.tags]
        with engine.begin() as connection:
            store.save_many(connection, named)
            store.tag_many(connection, tags)
        yield len(batch)


def save(
    engine: Engine,
    resolver: IdentityResolverProtocol,
    user: str,
    *,
    attributes: Mapping[str, Any],
    zone: str | None,
) -> PersonView:
    """Add attributes to a person's own and set their zone; give what is known then."""
    check_attributes(attributes)
    whom = person(resolver, user).name
    with engine.begin() as connection:
        store.save(connection, whom, attributes=attributes, zone=zone)
    return show(engine, resolver, whom)


def show(engine: Engine, resolver: IdentityResolverProtocol, user: str) -> PersonView:
    """Give what is known of a person, their opt-outs under every name of theirs.

    Nothing is no error: whoever can be written to is a person.
    """
    whom = person(resolver, user)
    with reading(engine) as connection:
        known = view(connection, whom.name)
        topics = store.list_opt_outs(connection, whom.sessions, limit=1000)
    opted_out = sorted({each.topic for each in topics})
    return replace(known or PersonView(whom.name, {}, None, (), ()), opted_out=opted_out)


def tag(engine: Engine, resolver: IdentityResolverProtocol, user: str, tag: str) -> str:
    """Give a person a tag; give their name."""
    whom = person(resolver, user).name
    with engine.begin() as connection:
        store.tag_many(connection, [(whom, tag)])
    return whom


def untag(engine: Engine, resolver: IdentityResolverProtocol, user: str, tag: str) -> bool:
    """Take a tag from a person, under every name of theirs; give whether it was there."""
    with engine.begin() as connection:
        return store.untag(connection, person(resolver, user).sessions, tag)


def opt_out(engine: Engine, resolver: IdentityResolverProtocol, user: str, topic: str) -> str:
    """Note that a person wants nothing more of a topic, `""` for anything; give their name."""
    whom = person(resolver, user).name
    with engine.begin() as connection:
        store.opt_out(connection, whom, topic)
    return whom


def opt_in(engine: Engine, resolver: IdentityResolverProtocol, user: str, topic: str) -> bool:
    """Take an opt-out back, under every name of a person; give whether there was one."""
    with engine.begin() as connection:
        return store.opt_in(connection, person(resolver, user).sessions, topic)


def opt_outs(
    engine: Engine, resolver: IdentityResolverProtocol, user: str | None, *, limit: int
) -> list[OptOut]:
    """Give opt-outs of one person or of all."""
    names = None if user is None else person(resolver, user).sessions
    with reading(engine) as connection:
        return store.list_opt_outs(connection, names, limit=limit)


def _unified(resolver: IdentityResolverProtocol, names: Sequence[str]) -> list[str]:
    accounts = {name: name.partition(":")[::2] for name in names if ":" in name.strip(":")}
    found = dict(zip(accounts, resolve_many(resolver, list(accounts.values())), strict=True))
    return [found.get(name, name) for name in names]
