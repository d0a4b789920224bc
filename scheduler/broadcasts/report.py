"""Report: what a preflight found, as it is stored with the broadcast and shown to a person."""

from collections.abc import Sequence
from typing import Any

from jinja2 import Template
from sqlalchemy import Connection, text

from scheduler.broadcasts.attributes import Lack, values_for
from scheduler.broadcasts.draw import Ways
from scheduler.broadcasts.pace import seconds_for
from scheduler.broadcasts.template import fill

#: Rendered messages that a report shows.
_SAMPLE = 3
#: Direct chats that a Discord bot may open at once before it is taken for a spammer.
_NEW_CHATS = 50

_PLACES = text(
    "SELECT platform, account, count(*) AS recipients FROM drawn WHERE excluded IS NULL "
    "GROUP BY platform, account ORDER BY recipients DESC, platform, account"
)
_RECIPIENTS = text("SELECT count(*) FROM drawn WHERE excluded IS NULL")
_LEFT_OUT = text(
    "SELECT excluded, count(*) AS people FROM drawn WHERE excluded IS NOT NULL "
    "GROUP BY excluded ORDER BY people DESC, excluded"
)
_WITHOUT_ZONE = text(
    "SELECT count(*) FROM drawn d LEFT JOIN person p ON p.unified_user = d.person "
    "WHERE d.excluded IS NULL AND p.timezone IS NULL"
)
#: Whoever wrote to the bot, or was written to, has a direct chat with it.
_NEW = text(
    "SELECT count(*) FROM drawn d WHERE d.excluded IS NULL AND d.platform = 'discord' "
    "AND d.target LIKE 'user:%' AND NOT EXISTS (SELECT 1 FROM message m "
    "WHERE m.session_key = d.person AND m.platform = 'discord')"
)
_FIRST = text(
    "SELECT n, person, target, platform, CAST(attributes AS text) AS attributes FROM recipient "
    "WHERE broadcast_id = :id AND n <= :limit ORDER BY n"
)


def recipients(connection: Connection) -> int:
    """Count who was drawn and is not left out, in the temporary table `drawn`."""
    count: int = connection.execute(_RECIPIENTS).scalar_one()
    return count


def summary(
    connection: Connection, by: Ways, *, duplicates: int, lacking: int, lacks: Sequence[Lack]
) -> dict[str, Any]:
    """Give what was drawn in numbers, from the temporary table `drawn`."""
    places = [
        {
            "platform": row.platform,
            "account": row.account,
            "recipients": row.recipients,
            "seconds": seconds_for(row.platform, row.account, row.recipients),
        }
        for row in connection.execute(_PLACES)
    ]
    return {
        "recipients": sum(place["recipients"] for place in places),
        "platforms": places,
        "left_out": {row.excluded: row.people for row in connection.execute(_LEFT_OUT)},
        "duplicates_merged": duplicates,
        "seconds": max((place["seconds"] or 0 for place in places), default=0),
        "without_time_zone": connection.execute(_WITHOUT_ZONE).scalar_one(),
        "missing_attributes": [{"person": lack.person, "why": lack.why} for lack in lacks],
        "warnings": _warnings(connection, places, by, lacking),
    }


def sample(
    connection: Connection, broadcast_id: str, body: str, template: Template | None
) -> list[dict[str, str]]:
    """Give the first messages as they will be sent."""
    return [
        {
            "person": row.person,
            "target": row.target,
            "text": fill(template, values_for(row.person, row.platform, row.attributes))
            if template
            else body,
        }
        for row in connection.execute(_FIRST, {"id": broadcast_id, "limit": _SAMPLE})
    ]


def _warnings(
    connection: Connection, places: Sequence[dict[str, Any]], by: Ways, lacking: int
) -> list[str]:
    found = [
        f"{place['platform']} has no usable credential here: "
        f"{place['recipients']} messages would be held until it has one"
        for place in places
        if place["platform"] in set(by.by_user_id) - set(by.ready) and not place["account"]
    ]
    if any(place["platform"] == "discord" for place in places):
        new = connection.execute(_NEW).scalar_one()
        if new > _NEW_CHATS:
            found.append(
                f"{new} Discord recipients have no direct chat with the bot yet: Discord "
                "quarantines a bot that opens many, start with --canary or those who wrote to it"
            )
    if lacking:
        found.append(f"{lacking} are left out because the template has no text for them")
    return found
