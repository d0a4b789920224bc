"""What a broadcast changes: deliveries let go, taken back, cancelled.

Part of the outbox: writes the state by `worker.states`. Deliveries of a broadcast have no
order key, so nothing waits behind them. What is `sending`, and what is sent in part, goes out
whatever becomes of its broadcast.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import orjson
from sqlalchemy import Connection, text

from worker.database import NOW_MS
from worker.due import ToPublish
from worker.lanes import Lane
from worker.order import WAITS_FOR_BROADCAST
from worker.tables import WAITS_FOR_ITS_BROADCAST

#: Deliveries that are cancelled in one transaction.
BATCH = 5_000
#: What can be taken back: let go, and not with a worker. What has parts out is finished.
_LET_GO = "state IN ('scheduled', 'queued', 'retrying') AND receipt IS NULL"
_OPEN = ("scheduled", "queued", "sending", "retrying", "held")
_IDS = {
    "sqlite": "(SELECT value FROM json_each(:ids))",
    "postgresql": "(SELECT json_array_elements_text(CAST(:ids AS json)))",
}
#: Whoever has a row has it for a moment; the next pass of the feed finds what is left.
_LOCK = {"sqlite": "", "postgresql": "FOR UPDATE SKIP LOCKED"}


@dataclass(frozen=True, slots=True)
class Bot:
    """Who sends; `platform` is `None` for people whose route is chosen at the send."""

    platform: str | None
    account: str


@dataclass(frozen=True, slots=True)
class UnderWay:
    """What a broadcast has let go on one bot and has not ended.

    Attributes:
        soon: Those that want to be sent within the time asked for.
        later: Those that wait longer for their next attempt.
    """

    soon: int
    later: int


def bots_waited_for(connection: Connection, broadcasts: Sequence[str]) -> dict[str, list[Bot]]:
    """Give the bots for which deliveries of broadcasts wait, by broadcast.

    One statement for all; of each bot it looks into an index once.
    """
    wanted = _IDS[connection.dialect.name]
    ids = {"ids": orjson.dumps(list(broadcasts)).decode()}
    found: dict[str, list[Bot]] = {each: [] for each in broadcasts}
    nowhere = connection.execute(
        text(
            f"SELECT id FROM broadcast b WHERE id IN {wanted} AND EXISTS (SELECT 1 FROM delivery "
            f"WHERE broadcast_id = b.id AND {WAITS_FOR_ITS_BROADCAST} AND platform IS NULL)"
        ),
        ids,
    )
    for name in nowhere.scalars():
        found[name].append(Bot(None, ""))
    first_after = (
        f"SELECT id FROM delivery WHERE broadcast_id = {{id}} AND {WAITS_FOR_ITS_BROADCAST} "
        "AND (platform, account) > ({platform}, {account}) ORDER BY platform, account LIMIT 1"
    )
    begin = first_after.format(id="b.id", platform="''", account="''")
    next_ = first_after.format(id="c.broadcast_id", platform="c.platform", account="c.account")
    rows = connection.execute(
        text(
            f"WITH RECURSIVE step(id) AS (SELECT ({begin}) FROM broadcast b WHERE b.id IN {wanted} "
            f"UNION ALL SELECT ({next_}) FROM step JOIN delivery c ON c.id = step.id) "
            "SELECT d.broadcast_id, d.platform, d.account FROM step JOIN delivery d "
            "ON d.id = step.id ORDER BY d.platform, d.account"
        ),
        ids,
    )
    for row in rows:
        found[row.broadcast_id].append(Bot(row.platform, row.account))
    return found


def first_waiting(connection: Connection, broadcast_id: str, bot: Bot, *, limit: int) -> list[str]:
    """Give the ids of the first deliveries that wait for a bot."""
    place = (
        "platform IS NULL"
        if bot.platform is None
        else "(platform, account) >= (:platform, :account) "
        "AND (platform, account) <= (:platform, :account)"
    )
    # Equal and by id alone, PostgreSQL would go through all deliveries that there are by id.
    rows = connection.execute(
        text(
            f"SELECT id FROM delivery WHERE broadcast_id = :id AND {WAITS_FOR_ITS_BROADCAST} "
            f"AND {place} ORDER BY platform, account, id LIMIT :limit"
        ),
        {"id": broadcast_id, "limit": limit}
        | ({} if bot.platform is None else {"platform": bot.platform, "account": bot.account}),
    )
    return list(rows.scalars())


def under_way(connection: Connection, broadcast_id: str, *, within_ms: int) -> dict[Bot, UnderWay]:
    """Count what was let go and has not ended, by bot."""
    now = NOW_MS[connection.dialect.name]
    rows = connection.execute(
        text(
            "SELECT platform, account, count(*) AS n, "
            f"sum(CASE WHEN state IN ('scheduled', 'retrying') AND due_ms > {now} + :within_ms "
            "THEN 1 ELSE 0 END) AS later FROM delivery WHERE broadcast_id = :id "
            "AND state IN ('scheduled', 'queued', 'sending', 'retrying') "
            "GROUP BY platform, account"
        ),
        {"id": broadcast_id, "within_ms": within_ms},
    )
    return {Bot(r.platform, r.account): UnderWay(r.n - r.later, r.later) for r in rows}


def let_go(connection: Connection, ids: Sequence[str]) -> list[ToPublish]:
    """Queue those of these that still wait, due now; give them for publishing.

    Due now, because workers take what is due first: a broadcast that began earlier would
    always come before the others.
    """
    if not ids:
        return []
    dialect = connection.dialect.name
    now = NOW_MS[dialect]
    rows = connection.execute(
        text(
            f"UPDATE delivery SET state = 'queued', due_ms = {now}, published_ms = {now}, "
            "error_kind = NULL, error_text = NULL WHERE id IN (SELECT id FROM delivery WHERE id "
            f"IN {_IDS[dialect]} AND state || '' = 'held' "
            f"AND error_kind = '{WAITS_FOR_BROADCAST}' {_LOCK[dialect]}) RETURNING id, lane"
        ),
        {"ids": orjson.dumps(list(ids)).decode()},
    ).all()
    return sorted((ToPublish(row.id, Lane(row.lane)) for row in rows), key=lambda row: row.id)


def any_let_go(connection: Connection, broadcast_id: str) -> bool:
    """Tell whether there is anything to take back."""
    query = f"SELECT 1 FROM delivery WHERE broadcast_id = :id AND {_LET_GO} LIMIT 1"
    return connection.execute(text(query), {"id": broadcast_id}).first() is not None


def take_back(connection: Connection, broadcast_id: str) -> int:
    """Hold again what was let go and is not with a worker; give how many."""
    dialect = connection.dialect.name
    return connection.execute(
        text(
            f"UPDATE delivery SET state = 'held', error_kind = '{WAITS_FOR_BROADCAST}', "
            "error_text = NULL WHERE id IN (SELECT id FROM delivery WHERE broadcast_id = :id "
            f"AND {_LET_GO} {_LOCK[dialect]})"
        ),
        {"id": broadcast_id},
    ).rowcount


def cancel_let_go(connection: Connection, broadcast_id: str) -> int:
    """End what was let go and is not with a worker; give how many."""
    return len(_cancel(connection, broadcast_id, _LET_GO, {}))


def cancel_held(connection: Connection, broadcast_id: str, *, after: str = "") -> list[str]:
    """End the next batch of what is held; give its ids, none when none is left.

    Args:
        after: The last id of the batch before.
    """
    # Not `=`, for the reason above.
    which = "(state, id) > ('held', :after) AND state <= 'held' ORDER BY state, id LIMIT :limit"
    return _cancel(connection, broadcast_id, which, {"after": after, "limit": BATCH})


def _cancel(
    connection: Connection, broadcast_id: str, which: str, values: dict[str, object]
) -> list[str]:
    dialect = connection.dialect.name
    rows = connection.execute(
        text(
            f"UPDATE delivery SET state = 'cancelled', ended_ms = {NOW_MS[dialect]}, "
            "doubt_ms = NULL WHERE id IN (SELECT id FROM delivery WHERE broadcast_id = :id "
            f"AND {which} {_LOCK[dialect]}) RETURNING id"
        ),
        {"id": broadcast_id, **values},
    )
    return list(rows.scalars())


def over(connection: Connection, broadcasts: Sequence[str]) -> list[str]:
    """Give those of these broadcasts of which every delivery that there is has ended."""
    looks = " OR ".join(
        f"EXISTS (SELECT 1 FROM delivery WHERE broadcast_id = b.id AND state = '{state}')"
        for state in _OPEN
    )
    wanted = _IDS[connection.dialect.name]
    rows = connection.execute(
        text(f"SELECT id FROM broadcast b WHERE id IN {wanted} AND NOT ({looks})"),
        {"ids": orjson.dumps(list(broadcasts)).decode()},
    )
    return list(rows.scalars())
