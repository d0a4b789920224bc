"""Remirror: what was sent and is in no history any more is written there from its row again.

For a history that was lost. Deliveries keep their texts as long as the retention keeps them.
"""

from collections.abc import Iterator
from datetime import datetime
from functools import cache

from sqlalchemy import Engine, TextClause, text

from resolvers import IdentityResolverProtocol
from scheduler.deliveries import first_id
from scheduler.mirror_repair import repair_mirrors

_BATCH = 500


@cache
def _missing(dialect: str) -> TextClause:
    lock = "" if dialect == "sqlite" else "FOR UPDATE OF delivery SKIP LOCKED"
    return text(
        "SELECT id FROM delivery WHERE id >= :first AND id > :after AND state = 'sent' "
        "AND NOT EXISTS (SELECT 1 FROM message m WHERE m.delivery_id = delivery.id) "
        f"ORDER BY id LIMIT :limit {lock}"
    )


def mark(engine: Engine, *, since: datetime, dry_run: bool = False) -> Iterator[int]:
    """Mark what was asked for since then, was sent and has no mirror; give how many, in batches."""
    values = {"first": first_id(since), "after": "", "limit": _BATCH}
    while True:
        with engine.begin() as connection:
            ids = connection.execute(_missing(engine.dialect.name), values).scalars().all()
            if ids and not dry_run:
                connection.execute(
                    text("UPDATE delivery SET mirror = 'failed' WHERE id = :id"),
                    [{"id": id_} for id_ in ids],
                )
        if not ids:
            return
        values["after"] = ids[-1]
        yield len(ids)


def write(engine: Engine, resolver: IdentityResolverProtocol) -> Iterator[int]:
    """Write what is marked, at its right place in time; give how many, in batches."""
    while written := repair_mirrors(engine, resolver):
        yield written
