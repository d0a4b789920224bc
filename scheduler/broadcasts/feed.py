"""Feed: lets go, bot by bot, as many deliveries of running broadcasts as it can send soon.

One pass; ticked by the clock. What is let go is some seconds' worth: so a pause or a cancel
acts at once, broadcasts share a bot, and workers are never flooded. It goes by how many are
under way, never by how many it has let go, so a pass too many does no harm.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, Engine, text

from scheduler.broadcasts.pace import pace_of
from scheduler.broadcasts.shares import Demand, to_let_go
from scheduler.publish import publish
from worker import by_broadcast
from worker.by_broadcast import Bot, UnderWay
from worker.database import reading
from worker.due import ToPublish
from worker.failpoints import reach

#: Seconds of a bot's pace that are let go: enough that no worker waits for the next pass, few
#: enough that a pause or another broadcast does not wait for them.
AHEAD_S = 4.0
#: Deliveries of a bot that only its chats limit.
_UNLIMITED = 2_000
#: Messages a second of people whose platform is chosen at the send: about what Discord takes,
#: the platform on which a chat has to be opened first.
_PACE_OF_PEOPLE = 48.0
#: So many times what a bot is sent ahead may wait for another attempt. Some that fail must not
#: stop the others; a platform that is down must not be tried with a whole audience.
_RETRYING = 10
#: The PostgreSQL advisory lock of a pass; any constant will do.
_LOCK = 0x66656564
_NOTHING = UnderWay(0, 0)


@dataclass(frozen=True, slots=True)
class _Running:
    id: str
    tenant: str


def feed(engine: Engine) -> int:
    """Let go and publish what running broadcasts may send soon; give how many run."""
    with reading(engine) as connection:
        if not _running(connection, ""):
            return 0
    with engine.begin() as connection:
        sqlite = connection.dialect.name == "sqlite"
        if not sqlite and not _is_alone(connection):
            return 1
        # Whoever pauses or cancels one waits for this, or this for him; who fans out does not.
        running = _running(connection, "" if sqlite else "FOR KEY SHARE")
        fed = [
            row
            for bot, asking in _by_bot(connection, running).items()
            for row in _feed_bot(connection, bot, asking)
        ]
    if fed:
        reach("in_feed")
        publish(engine, fed)
    return len(running)


def _running(connection: Connection, lock: str) -> list[_Running]:
    rows = connection.execute(
        text(f"SELECT id, tenant FROM broadcast WHERE state = 'running' ORDER BY id {lock}")
    )
    return [_Running(row.id, row.tenant) for row in rows]


def _is_alone(connection: Connection) -> bool:
    query = text("SELECT pg_try_advisory_xact_lock(:lock)")
    return bool(connection.execute(query, {"lock": _LOCK}).scalar_one())


@dataclass(frozen=True, slots=True)
class _Asking:
    """A broadcast that has something to send by one bot."""

    broadcast: _Running
    under_way: UnderWay


def _by_bot(connection: Connection, running: Sequence[_Running]) -> dict[Bot, list[_Asking]]:
    found: defaultdict[Bot, list[_Asking]] = defaultdict(list)
    waited_for = by_broadcast.bots_waited_for(connection, [each.id for each in running])
    for each in running:
        bots = waited_for[each.id]
        if not bots:
            continue
        counts = by_broadcast.under_way(connection, each.id, within_ms=int(AHEAD_S * 1000))
        for bot in bots:
            found[bot].append(_Asking(each, counts.get(bot, _NOTHING)))
    return found


def _feed_bot(connection: Connection, bot: Bot, asking: Sequence[_Asking]) -> list[ToPublish]:
    room = room_of(bot)
    ids = {
        each.broadcast.id: by_broadcast.first_waiting(
            connection, each.broadcast.id, bot, limit=max(1, room)
        )
        for each in asking
        if each.under_way.later < room * _RETRYING
    }
    demands = {
        each.broadcast.id: Demand(
            each.broadcast.tenant, each.under_way.soon, len(ids.get(each.broadcast.id, ()))
        )
        for each in asking
    }
    return [
        row
        for name, count in to_let_go(demands, room).items()
        for row in by_broadcast.let_go(connection, ids.get(name, [])[:count])
    ]


def room_of(bot: Bot) -> int:
    """Give how many deliveries of broadcasts may be under way on a bot."""
    pace = _PACE_OF_PEOPLE if bot.platform is None else pace_of(bot.platform, bot.account)
    return _UNLIMITED if pace is None else math.ceil(pace * AHEAD_S)
