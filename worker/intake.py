"""The door: what is asked for, checked; nothing passes that could not be sent.

Called by every way in (Python, Celery, command line, schedules). Stores nothing.
"""

import hashlib
import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

import orjson
import uuid_utils

from worker.errors import Refused
from worker.lanes import Lane
from worker.platforms import platform
from worker.platforms.addresses import check_host_literal
from worker.settings import settings
from worker.targets import Target, check_thread, parse_target

#: Characters that a key, a source or an id may have.
_MAX_NAME = 500
#: Bytes of JSON that metadata may have.
_MAX_METADATA = 64_000
#: Characters that a text may have which is split, or whose platform is not known yet.
_MAX_TEXT = 100_000
#: Milliseconds by which `at` may lie in the past: the way from the producer to this door.
_SKEW_MS = 1_000
#: An escaped NUL, and before it any number of escaped backslashes that are not its own.
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")


class Policy(StrEnum):
    """What to do when nobody can know whether a message was sent."""

    RESEND = "resend"
    HOLD = "hold"


class Order(StrEnum):
    """Whether a delivery waits for those of its chat that were stored before it."""

    STRICT = "strict"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class NewDelivery:
    """A checked delivery, not stored yet; times in epoch milliseconds."""

    id: str
    key: str | None
    body_hash: str
    target: Target
    text: str
    metadata: Mapping[str, object] | None
    reply_to: str | None
    silent: bool
    source: str
    topic: str
    lane: Lane
    order_key: str | None
    policy: Policy
    at_ms: int | None
    expires_ms: int | None


def new_id() -> str:
    """Give a time-ordered id (UUID version 7, 32 hexadecimal digits)."""
    return str(uuid_utils.uuid7().hex)


def check(
    *,
    to: str,
    text: str,
    key: str | None = None,
    source: str = "",
    topic: str = "",
    lane: Lane | str | None = None,
    at: datetime | str | None = None,
    expires: datetime | str | None = None,
    metadata: Mapping[str, object] | None = None,
    thread: str | None = None,
    reply_to: str | None = None,
    silent: bool = False,
    policy: Policy | str = Policy.RESEND,
    order: Order | str | None = None,
    order_key: str | None = None,
    late_ms: int = _SKEW_MS,
) -> NewDelivery:
    """Check one delivery.

    Args:
        topic: What it is about; nobody who opted out of that gets it.
        at: Due time; a string is ISO 8601, UTC unless it names an offset.
        expires: After this it is not sent any more.
        order: `strict` for one after the other with all others of the same `order_key`; the
            default for replies and reminders. `none` for any order.
        order_key: What is in order with each other; the chat or person where not given.
        late_ms: Milliseconds by which `at` may lie in the past, for what waited on its way here.

    Raises:
        Refused: One line that says what is wrong and what would be right.

    """
    target = _target(_string("to", to), thread)
    check_text(target, _string("text", text))
    packed = _metadata(metadata)
    if not isinstance(silent, bool):
        raise Refused(f"silent must be true or false, not {silent!r}")
    at_ms, expires_ms = _moment("at", at), _moment("expires", expires)
    now = time.time_ns() // 1_000_000
    if at_ms is not None and at_ms < now - late_ms:
        raise Refused(f"at lies in the past ({at}): name a later time, or none to send now")
    if expires_ms is not None and expires_ms <= max(now, at_ms or 0):
        raise Refused(f"expires ({expires}) must lie after the time at which it is due")
    answered = _name("reply_to", reply_to)
    chosen = _lane(lane, later=at_ms is not None)
    return NewDelivery(
        id=new_id(),
        key=_name("key", key),
        body_hash=body_hash(str(target), text, answered, silent=silent, metadata=metadata),
        target=target,
        text=text,
        metadata=packed,
        reply_to=answered,
        silent=silent,
        source=_name("source", source or None) or "",
        topic=check_topic(topic),
        lane=chosen,
        order_key=_order_key(target, chosen, order, _name("order_key", order_key)),
        policy=_policy(policy),
        at_ms=at_ms,
        expires_ms=expires_ms,
    )


def body_hash(
    target: str,
    text: str,
    reply_to: str | None = None,
    *,
    silent: bool = False,
    metadata: Mapping[str, object] | None = None,
) -> str:
    """Give what tells one body from another under the same key."""
    body = orjson.dumps(
        [target, text, reply_to, silent, metadata and dict(metadata)],
        option=orjson.OPT_SORT_KEYS,
    )
    return hashlib.sha256(body).hexdigest()


def check_topic(topic: object) -> str:
    """Give a topic, the empty one for none; raise `Refused` for what cannot be one."""
    return _name("topic", topic or None) or ""


def _string(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise Refused(f"{name} must be a string, not {type(value).__name__}")
    return value


def _name(field: str, value: object) -> str | None:
    if value is None:
        return None
    text = _string(field, value)
    if not 0 < len(text) <= _MAX_NAME or not text.isprintable():
        raise Refused(f"{field} must have 1 to {_MAX_NAME} printable characters")
    return text


def _target(text: str, thread: str | None) -> Target:
    target = parse_target(text)
    if target.platform == "webhook" and not settings().webhook_allow_private:
        wrong = check_host_literal(target.chat_id)
        if wrong:
            raise Refused(f"{text!r}: {wrong}")
    named = _name("thread", thread)
    if named is None:
        return target
    if target.is_person or not platform(target.platform).capability.threads:
        raise Refused(f"{target.platform} targets have no threads: leave thread away")
    if target.thread not in (None, named):
        raise Refused(f"the target names thread {target.thread!r} and thread= {named!r}: name one")
    check_thread(target.platform, named)
    return Target(target.platform, target.chat_id, target.account, named)


def check_words(text: str) -> None:
    """Demand a text that can be shown and stored.

    Raises:
        Refused: One line that says what is wrong and what would be right.
    """
    if not text.strip():
        raise Refused("text is empty: give at least one visible character")
    if "\0" in text:
        raise Refused("text has a NUL character: leave it away")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Refused("text has half of a surrogate pair: send valid Unicode") from None


def check_text(target: Target, text: str) -> None:
    """Refuse a text that could not be sent to a target.

    Raises:
        Refused: Says what would be right.
    """
    check_words(text)
    capability = None if target.is_person else platform(target.platform).capability
    if capability is None or capability.splits:
        length, limit = len(text), _MAX_TEXT
    else:
        length, limit = capability.measure(text), capability.max_length
    if length > limit:
        raise Refused(f"text is too long for {target.platform}: {length}, at most {limit}")


def _metadata(metadata: object) -> Mapping[str, object] | None:
    if metadata is None:
        return None
    if not isinstance(metadata, Mapping) or not all(isinstance(k, str) for k in metadata):
        raise Refused("metadata must be a JSON object with string keys")
    try:
        packed = orjson.dumps(dict(metadata))
        # Stricter: orjson writes NaN as null and dates as text, which is not what was given.
        json.dumps(dict(metadata), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise Refused(f"metadata is not JSON: {error}") from None
    if len(packed) > _MAX_METADATA:
        raise Refused(f"metadata is too large: {len(packed)} bytes, at most {_MAX_METADATA}")
    if _NUL.search(packed):
        raise Refused("metadata has a NUL character: leave it away")
    loaded: dict[str, object] = orjson.loads(packed)
    return loaded


def _moment(name: str, value: object) -> int | None:
    if value is None:
        return None
    moment = value
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            raise Refused(
                f"{name} {value!r} is not a time: write 2030-01-31T09:00:00+00:00"
            ) from None
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
    if not isinstance(moment, datetime):
        raise Refused(f"{name} must be a time, not {type(value).__name__}")
    if moment.tzinfo is None:
        raise Refused(f"{name} has no time zone: give an aware datetime")
    return int(moment.timestamp() * 1000)


def _lane(lane: object, *, later: bool) -> Lane:
    if lane is None:
        return Lane.REMINDER if later else Lane.REPLY
    try:
        return Lane(_string("lane", lane))
    except ValueError:
        raise Refused(f"lane {lane!r} is not known: {', '.join(Lane)}") from None


def _order_key(target: Target, lane: Lane, order: object, key: str | None) -> str | None:
    if order is None:
        order = Order.STRICT if key or lane in (Lane.REPLY, Lane.REMINDER) else Order.NONE
    try:
        chosen = Order(_string("order", order))
    except ValueError:
        raise Refused(f"order {order!r} is not known: {', '.join(Order)}") from None
    if chosen is Order.NONE:
        if key is not None:
            raise Refused("order_key needs order='strict': leave one of them away")
        return None
    return key or f"{target.platform}@{target.account}:{target.chat_id}"


def _policy(policy: object) -> Policy:
    try:
        return Policy(_string("policy", policy))
    except ValueError:
        raise Refused(f"policy {policy!r} is not known: {', '.join(Policy)}") from None
