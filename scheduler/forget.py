"""Forget: a person's links, history and the texts of their deliveries are removed.

What is left of a delivery is that there was one: when, in which state, to which platform.
"""

from dataclasses import dataclass

from sqlalchemy import Connection, Engine, text

from resolvers import IdentityResolverProtocol
from resolvers.protocol import IdentityLink
from worker.by_hand import CANCELLABLE
from worker.by_hand import cancel as cancel_deliveries

#: What stands where a text was.
FORGOTTEN = "[forgotten]"

_THEIRS = (
    "(unified_user = :user OR target = :target OR (platform = :platform AND chat_id = :account))"
)


@dataclass(frozen=True, slots=True)
class Forgotten:
    """How much of a person was there, or is gone."""

    links: int
    messages: int
    deliveries: int
    attempts: int
    rejected: int
    cancelled: int


def forget(
    engine: Engine, resolver: IdentityResolverProtocol, user: str, *, dry_run: bool = False
) -> Forgotten:
    """Remove a person, named as one or by an account (`platform:id`); give how much it was.

    Deliveries to them that have not ended are cancelled; one under way ends by itself and keeps
    no text. Run twice it finds nothing the second time.
    """
    links = resolver.links_for(user)
    with engine.begin() as connection:
        found = _Found(connection, user, links)
        counts = found.forget(dry_run=dry_run)
        if dry_run:
            connection.rollback()
    if not dry_run:
        for link in links:
            resolver.unlink(link.platform, link.platform_user_id)
    return counts


class _Found:
    """What is stored of a person, in one transaction."""

    def __init__(self, connection: Connection, user: str, links: list[IdentityLink]) -> None:
        self._connection = connection
        self._links = links
        accounts = {(link.platform, link.platform_user_id) for link in links}
        if ":" in user:
            platform, _, account = user.partition(":")
            accounts.add((platform, account))
        self._keys = [user, *sorted(f"{p}:{a}" for p, a in accounts if f"{p}:{a}" != user)]
        self._values = [
            {"user": user, "target": f"user:{user}", "platform": p, "account": a}
            for p, a in sorted(accounts) or [("", "")]
        ]

    def forget(self, *, dry_run: bool) -> Forgotten:
        if not dry_run:
            self._each(
                "DELETE FROM dead_target WHERE platform = :platform AND chat_id = :account",
                [{"platform": v["platform"], "account": v["account"]} for v in self._values],
            )
        ids = sorted({id_ for values in self._values for id_ in self._deliveries(values)})
        cancelled = [] if dry_run else cancel_deliveries(self._connection, ids)
        if dry_run:
            states = ", ".join(f"'{state}'" for state in CANCELLABLE)
            cancelled = self._select(f"state IN ({states}) AND id = :id", ids)
        return Forgotten(
            links=len(self._links),
            messages=self._each(
                "DELETE FROM message WHERE session_key = :key", [{"key": k} for k in self._keys]
            ),
            deliveries=self._each(
                f"UPDATE delivery SET text = '{FORGOTTEN}', metadata = NULL, reply_to = NULL, "
                "error_text = NULL, mirror = CASE WHEN mirror = 'failed' THEN NULL ELSE mirror END "
                f"WHERE id = :id AND text <> '{FORGOTTEN}'",
                [{"id": id_} for id_ in ids],
            ),
            attempts=self._each(
                "UPDATE attempt SET text = NULL WHERE delivery_id = :id AND text IS NOT NULL",
                [{"id": id_} for id_ in ids],
            ),
            rejected=self._each(
                "DELETE FROM rejected WHERE " + self._payload("= :target"),
                [{"target": f"user:{k}"} for k in self._keys] + [{"target": k} for k in self._keys],
            ),
            cancelled=len(cancelled),
        )

    def _payload(self, comparison: str) -> str:
        if self._connection.dialect.name == "sqlite":
            return f"json_extract(payload, '$.to') {comparison}"
        return f"payload ->> 'to' {comparison}"

    def _deliveries(self, values: dict[str, str]) -> list[str]:
        return list(
            self._connection.execute(
                text(f"SELECT id FROM delivery WHERE {_THEIRS}"), values
            ).scalars()
        )

    def _select(self, where: str, ids: list[str]) -> list[str]:
        query = text(f"SELECT id FROM delivery WHERE {where}")
        return [i for i in ids if self._connection.execute(query, {"id": i}).first()]

    def _each(self, statement: str, values: list[dict[str, str]]) -> int:
        return sum(self._connection.execute(text(statement), each).rowcount for each in values)
