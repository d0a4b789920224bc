"""What the JSON columns of a schedule row say; any process may have written them.

Called at the door, which refuses what cannot be read, and by the fire pass, which parks it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache

import orjson

from scheduler.occurrences import At, Spec, parse_spec
from scheduler.tables import Misfire
from worker.errors import Refused
from worker.intake import NewDelivery, check
from worker.lanes import Lane

#: Seconds for which an occurrence counts as on time.
_GRACE_S = 60
_MESSAGE_FIELDS = frozenset(
    {
        "to",
        "text",
        "lane",
        "source",
        "topic",
        "metadata",
        "thread",
        "reply_to",
        "silent",
        "policy",
    }
)


@dataclass(frozen=True, slots=True)
class MisfirePolicy:
    """What to do about occurrences that passed while no clock ran.

    Attributes:
        grace: For so long an occurrence is on time, if the next one is not due yet.
    """

    misfire: Misfire = Misfire.LATEST
    grace: timedelta = timedelta(seconds=_GRACE_S)


def loads(column: str, text: str) -> object:
    """Read a JSON column.

    Raises:
        Refused: It is not JSON, which SQLite accepts in any column.
    """
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise Refused(f"{column} is not JSON: {error}") from None


@lru_cache(maxsize=4096)
def read_spec(text: str) -> Spec:
    """Read the `spec` column."""
    return parse_spec(loads("spec", text))


@lru_cache(maxsize=256)
def read_policy(text: str) -> MisfirePolicy:
    """Read the `policy` column; what it leaves out has its default.

    Raises:
        Refused: It says something unknown.
    """
    match loads("policy", text):
        case dict() as document if document.keys() <= {"misfire", "grace_s"}:
            grace_s = document.get("grace_s", _GRACE_S)
            if (
                type(grace_s) not in (int, float)
                or not 0 <= grace_s <= timedelta.max.total_seconds()
            ):
                raise Refused(f"grace_s {grace_s!r} cannot be: write seconds, 0 or more")
            return MisfirePolicy(
                read_misfire(document.get("misfire", Misfire.LATEST)), timedelta(seconds=grace_s)
            )
    raise Refused('the policy is not of the form {"misfire": "latest", "grace_s": 60}')


def read_misfire(value: object) -> Misfire:
    """Read the name of a misfire policy."""
    try:
        return Misfire(str(value))
    except ValueError:
        raise Refused(f"misfire {value!r} is not known: {', '.join(Misfire)}") from None


def delivery_for(message: object, spec: Spec, *, name: str, key: str) -> NewDelivery:
    """Make the delivery of one occurrence from the `message` column's document.

    Raises:
        Refused: It could not be sent.
    """
    if not isinstance(message, Mapping) or not {"to", "text"} <= message.keys():
        raise Refused('the message is not of the form {"to": ..., "text": ...}')
    if unknown := message.keys() - _MESSAGE_FIELDS:
        raise Refused(
            f"the message has unknown fields {', '.join(sorted(map(repr, unknown)))}: "
            f"known are {', '.join(sorted(_MESSAGE_FIELDS))}"
        )
    given = {field: value for field, value in message.items() if value is not None}
    defaults = {"source": f"schedule:{name}", "lane": default_lane(spec)}
    return check(**{**defaults, **given}, key=key)


def default_lane(spec: Spec) -> Lane:
    """Give the lane of a schedule that names none."""
    return Lane.REMINDER if isinstance(spec, At) else Lane.CRON
