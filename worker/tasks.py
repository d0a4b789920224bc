"""The Celery tasks: `mirrorpost.deliver` for producers, `mirrorpost.send` for ids.

Tasks are thin: they check, commit and hand ids to the drain of their process.
"""

import json
import os
import re
import time
from pathlib import Path

import orjson
import structlog
from celery import Task, shared_task
from celery.exceptions import Reject
from sqlalchemy import text
from sqlalchemy.exc import DataError, InterfaceError, OperationalError

from worker import outbox
from worker.errors import Refused
from worker.failpoints import reach
from worker.intake import NewDelivery, check
from worker.process import runtime
from worker.settings import settings

_log = structlog.get_logger(__name__)

#: Milliseconds that a message may have waited at the broker past its own `at`, while the
#: workers were away: it is late then, and not refused.
_AT_BROKER_MS = 24 * 3_600_000
#: Seconds that a task waits until its rows are claimed; the drain goes on with the rest.
_WAIT_S = 100.0
#: Seconds before a message goes back to the broker because the database cannot take it.
_DATABASE_RETRY_S = 1.0
#: An escaped NUL or half of a surrogate pair, with the backslashes before it that are no escape.
_UNSTORABLE = re.compile(r"(?<!\\)((?:\\\\)*)\\u(?:0000|d[89a-f][0-9a-f]{2})")
_ID = re.compile(r"[0-9a-f]{32}", re.ASCII)
#: The fields of `mirrorpost.deliver`.
_FIELDS = frozenset(
    {
        "to",
        "text",
        "key",
        "source",
        "topic",
        "lane",
        "at",
        "expires",
        "metadata",
        "thread",
        "reply_to",
        "silent",
        "policy",
        "order",
        "order_key",
    }
)


@shared_task(name="mirrorpost.deliver", bind=True)
def deliver(self: Task, /, *arguments: object, **fields: object) -> None:
    """Take a delivery from a producer that has nothing but the broker.

    Acknowledged after its row is committed; while the database cannot take it, it goes back to
    the broker. The task's id is the key where none is given, so that a message which the broker
    gives out twice is one delivery.
    """
    try:
        _take_in(str(self.request.id), arguments, fields)
    except (OperationalError, InterfaceError) as error:
        _log.warning("intake_waits_for_database", error=str(error.orig).partition("\n")[0])
        time.sleep(_DATABASE_RETRY_S)
        raise Reject(requeue=True) from None


def _take_in(task_id: str, arguments: tuple[object, ...], fields: dict[str, object]) -> None:
    try:
        if arguments:
            raise Refused("arguments must be named: to=, text=, ...")
        if unknown := sorted(fields.keys() - _FIELDS):
            known = ", ".join(sorted(_FIELDS))
            raise Refused(f"unknown field {', '.join(unknown)}; known are {known}")
        if missing := sorted({"to", "text"} - fields.keys()):
            raise Refused(f"{' and '.join(missing)} must be given")
        key = fields.pop("key", None) or f"task:{task_id}"
        new = check(key=key, late_ms=_AT_BROKER_MS, **fields)  # type: ignore[arg-type]  # check refuses wrong types
        accepted = runtime().undisturbed(_store, new)
    except (Refused, DataError) as refused:
        payload = {"arguments": arguments, **fields}
        runtime().undisturbed(_reject, task_id, _reason(refused), payload)
        return
    reach("after_commit")
    if accepted.due_now:
        _deliver([accepted.id])


def _store(new: NewDelivery) -> outbox.Accepted:
    with runtime().engine.begin() as connection:
        accepted = outbox.insert(connection, [new])[0]
        reach("after_insert")
    return accepted


def _reason(refused: Exception) -> str:
    if isinstance(refused, DataError):
        return f"the database cannot keep it: {refused.orig}".partition("\n")[0]
    return str(refused)


def _reject(task_id: str, reason: str, payload: dict[str, object]) -> None:
    """Keep what was refused, with the reason, where a person can see it."""
    _log.warning("intake_refused", task=task_id, reason=reason)
    with runtime().engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO rejected (received_ms, task_id, reason, payload) "
                "VALUES (:received_ms, :task_id, :reason, :payload)"
            ),
            {
                "received_ms": time.time_ns() // 1_000_000,
                "task_id": task_id,
                "reason": reason.replace("\0", ""),
                "payload": _packed(payload),
            },
        )


def _packed(payload: dict[str, object]) -> str:
    """Give JSON that both databases take; what they cannot keep is shown as U+FFFD."""
    try:
        packed = orjson.dumps(payload, default=str).decode()
    except orjson.JSONEncodeError:
        # Lone surrogates, and numbers over 64 bits.
        packed = json.dumps(payload, default=str)
    return _UNSTORABLE.sub(r"\1\\ufffd", packed)


@shared_task(name="mirrorpost.send")
def send(ids: list[str]) -> None:
    """Deliver queued rows: one id for a reply or a fire, up to some hundred for bulk."""
    if not isinstance(ids, list) or not all(isinstance(i, str) and _ID.fullmatch(i) for i in ids):
        _log.warning("send_refused", reason="ids must be a list of deliveries' ids")
        return
    _deliver(ids)


def _deliver(ids: list[str]) -> None:
    try:
        runtime().deliver(ids, _WAIT_S)
    except TimeoutError:
        _log.warning("send_goes_on_without_its_task", deliveries=len(ids))
    reach("before_ack")


@shared_task(name="mirrorpost.heartbeat")
def heartbeat() -> None:
    """Show that this worker consumes: being alive is not enough after a lost connection."""
    beat: Path = settings().data_dir / "worker.heartbeat"
    beat.write_text(f"{os.getpid()} {time.time():.3f}\n")
