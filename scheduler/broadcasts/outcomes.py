"""Outcomes: what has come of a broadcast so far, and whether that is a reason to halt it.

`judge` is pure. What had come of it when a person let it go on is forgiven: see
`BroadcastRow.forgiven`.
"""

from dataclasses import asdict, dataclass, fields
from typing import Self

from sqlalchemy import Connection, text

from worker.database import NOW_MS

#: Share of what ended that may be `failed` or `unknown`: more is the bot's or the text's fault,
#: and nobody's after him will be better.
MAX_FAILED = 0.10
#: Share of what ended that may be blocked or gone: more is an audience that never wanted it,
#: for which platforms punish the bot.
MAX_BLOCKED = 0.30
#: Share of those who got it who may opt out because of it: it is not wanted.
MAX_OPTED_OUT = 0.10
#: Share of the attempts of the last minute that may be told to slow down: going on makes the
#: ban longer.
MAX_LIMITED = 0.05
#: Outcomes before which a share says nothing.
AT_LEAST = 20
#: Attempts before which their share says nothing: two that bunch up at a start are no ban.
AT_LEAST_ATTEMPTS = 100
#: Milliseconds over which answers that say to slow down are counted.
_LATELY_MS = 60_000

_ENDED = text(
    "SELECT state, count(*) AS n FROM delivery WHERE broadcast_id = :id AND state IN "
    "('sent', 'failed', 'unknown', 'suppressed') GROUP BY state"
)
_BLOCKED = text(
    "SELECT state, count(*) AS n FROM delivery WHERE broadcast_id = :id "
    "AND state IN ('failed', 'suppressed') AND error_kind IN ('target_gone', 'forbidden') "
    "GROUP BY state"
)
_OPTED_OUT = text(
    "SELECT count(*) FROM opt_out o JOIN broadcast b ON b.id = :id "
    "WHERE o.since_ms >= b.started_ms AND o.topic IN ('', b.topic) "
    "AND EXISTS (SELECT 1 FROM recipient r WHERE r.broadcast_id = b.id "
    "AND r.person = o.unified_user AND r.n IS NOT NULL)"
)


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Deliveries of a broadcast by what came of them.

    Attributes:
        failed: Without those whose chat is blocked or gone.
        blocked: Chats that are gone or closed to the bot.
        suppressed: For any other reason.
        opted_out: People who have opted out since it was started.
    """

    sent: int = 0
    failed: int = 0
    unknown: int = 0
    blocked: int = 0
    suppressed: int = 0
    opted_out: int = 0

    @property
    def ended(self) -> int:
        """Count what has ended."""
        return self.sent + self.failed + self.unknown + self.blocked + self.suppressed

    def since(self, forgiven: dict[str, int] | None) -> Self:
        """Give what came after an earlier count."""
        before = forgiven or {}
        return type(self)(
            **{f.name: max(0, getattr(self, f.name) - before.get(f.name, 0)) for f in fields(self)}
        )

    def as_object(self) -> dict[str, int]:
        """Give the counts by name."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Attempts:
    """Attempts of the last minute, and how many of them were told to slow down."""

    made: int = 0
    limited: int = 0


def outcomes(connection: Connection, broadcast_id: str) -> Outcomes:
    """Count what has come of a broadcast; of a million in some tenths of a second."""
    which = {"id": broadcast_id}
    ended = {row.state: row.n for row in connection.execute(_ENDED, which)}
    blocked = {row.state: row.n for row in connection.execute(_BLOCKED, which)}
    return Outcomes(
        sent=ended.get("sent", 0),
        failed=ended.get("failed", 0) - blocked.get("failed", 0),
        unknown=ended.get("unknown", 0),
        blocked=sum(blocked.values()),
        suppressed=ended.get("suppressed", 0) - blocked.get("suppressed", 0),
        opted_out=connection.execute(_OPTED_OUT, which).scalar_one(),
    )


def lately(connection: Connection, broadcast_id: str, *, since_ms: int = 0) -> Attempts:
    """Count a broadcast's attempts of the last minute, and not before a time."""
    now = NOW_MS[connection.dialect.name]
    begin = connection.execute(text(f"SELECT {now} - {_LATELY_MS}")).scalar_one()
    row = connection.execute(
        text(
            "SELECT count(*) AS made, COALESCE(sum(CASE WHEN a.outcome = 'rate_limited' "
            "THEN 1 ELSE 0 END), 0) AS limited FROM (SELECT id FROM delivery "
            "WHERE broadcast_id = :id AND ended_ms IS NOT NULL AND ended_ms >= :since "
            "UNION ALL SELECT id FROM delivery WHERE broadcast_id = :id "
            "AND state IN ('queued', 'sending', 'retrying')) AS d "
            "JOIN attempt a ON a.delivery_id = d.id WHERE a.started_ms >= :since"
        ),
        {"id": broadcast_id, "since": max(begin, since_ms)},
    ).one()
    return Attempts(row.made, row.limited)


def judge(found: Outcomes, attempts: Attempts, *, at_least: int = AT_LEAST) -> str | None:
    """Give the reason to halt a broadcast in words, `None` when it may go on.

    Args:
        at_least: Outcomes before which a share says nothing.
    """
    bad = found.failed + found.unknown
    enough = max(1, at_least)
    for count, of, least, most, words in (
        (bad, found.ended, enough, MAX_FAILED, "failed"),
        (found.blocked, found.ended, enough, MAX_BLOCKED, "have blocked the bot or are gone"),
        (found.opted_out, found.sent, enough, MAX_OPTED_OUT, "opted out"),
        (
            attempts.limited,
            attempts.made,
            AT_LEAST_ATTEMPTS,
            MAX_LIMITED,
            "attempts were told to slow down",
        ),
    ):
        if of >= least and count > of * most:
            return f"{count} of {of} {words}, {count / of:.0%}: over {most:.0%}"
    return None
