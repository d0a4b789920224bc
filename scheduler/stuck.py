"""What stands still or went wrong, counted for the doctor.

What grows with the number of deliveries is only looked at as far back as a week: ids are
ordered by time, so that is the end of a primary key.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection, text

from scheduler.deliveries import first_id
from worker.tables import HELD_OTHERWISE

_LATELY = timedelta(days=7)
#: Kinds of unknown answers that are shown.
_MOST_ANSWERS = 10

_COUNTS = {
    "held": f"SELECT count(*) FROM delivery WHERE {HELD_OTHERWISE} "
    "AND COALESCE(error_kind, '') <> 'order'",
    "waiting_in_order": f"SELECT count(*) FROM delivery WHERE {HELD_OTHERWISE} "
    "AND error_kind = 'order'",
    "failed": "SELECT count(*) FROM delivery WHERE state = 'failed'",
    "unknown": "SELECT count(*) FROM delivery WHERE state = 'unknown'",
    "unmirrored": "SELECT count(*) FROM delivery WHERE mirror = 'failed'",
    "unknown_error": "SELECT count(*) FROM attempt WHERE delivery_id >= :lately "
    "AND outcome = 'unknown_error'",
    "fenced": "SELECT count(*) FROM attempt WHERE delivery_id >= :lately AND fenced",
    "suppressed": "SELECT count(*) FROM delivery WHERE id >= :lately AND state = 'suppressed'",
    "rejected": "SELECT count(*) FROM rejected WHERE delivery_id IS NULL",
    "dead_targets": "SELECT count(*) FROM dead_target WHERE moved_to IS NULL",
    "broken_schedules": "SELECT count(*) FROM schedule WHERE state = 'broken'",
}
#: What to do about each, or what it is.
SEE = {
    "held": "mirrorpost deliveries list --status held",
    "waiting_in_order": "for an earlier delivery of the same chat",
    "failed": "mirrorpost deliveries list --status failed, then retry",
    "unknown": "mirrorpost deliveries list --status unknown, then resolve",
    "unmirrored": "a scheduler repairs their histories",
    "unknown_error": "answers that the platform's table does not know",
    "fenced": "attempts whose worker came back after its lease had ended",
    "suppressed": "mirrorpost deliveries list --status suppressed",
    "rejected": "messages from the broker that were refused: mirrorpost rejected list",
    "dead_targets": "chats that are gone or closed to the bot; each is tried once an hour",
    "dead_credentials": "set another token and start the workers anew, or try the same one: "
    "mirrorpost deliveries retry --status held",
    "broken_schedules": "mirrorpost schedule list",
}
_UNKNOWN = text(
    "SELECT d.platform, a.code, a.http_status, max(a.text) AS example, count(*) AS n "
    "FROM attempt a JOIN delivery d ON d.id = a.delivery_id "
    "WHERE a.delivery_id >= :lately AND a.outcome = 'unknown_error' "
    "GROUP BY d.platform, a.code, a.http_status ORDER BY n DESC LIMIT :limit"
)


@dataclass(frozen=True, slots=True)
class UnknownAnswer:
    """An answer that a platform's table does not know, and should."""

    platform: str
    code: str | None
    http_status: int | None
    example: str | None
    count: int

    def said(self) -> str:
        """Give the answer in words."""
        parts = (f"HTTP {self.http_status}" if self.http_status else None, self.code, self.example)
        return ", ".join(part for part in parts if part)


def counts(connection: Connection) -> dict[str, int]:
    """Count what stands still, and what went wrong lately."""
    return {
        name: int(
            connection.execute(text(query), _lately() if ":lately" in query else {}).scalar_one()
        )
        for name, query in _COUNTS.items()
    }


def unknown_answers(connection: Connection) -> list[UnknownAnswer]:
    """Give the commonest answers of late that the platforms' tables do not know."""
    rows = connection.execute(_UNKNOWN, _lately() | {"limit": _MOST_ANSWERS})
    return [UnknownAnswer(*row) for row in rows]


def _lately() -> dict[str, object]:
    return {"lately": first_id(datetime.now(UTC) - _LATELY)}
