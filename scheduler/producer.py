"""The producer API: commit a delivery, then tell the workers."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from functools import cache

from sqlalchemy import Engine, event
from sqlalchemy.orm import SessionTransaction
from sqlmodel import Session

from scheduler.publish import publish
from worker import outbox
from worker.database import ready
from worker.failpoints import reach
from worker.intake import Order, Policy, check
from worker.lanes import Lane
from worker.outbox import Accepted
from worker.settings import settings

#: Rows of one statement.
_BATCH = 500
#: What a session has to publish after its commit, in its `info`.
_WAITING = "mirrorpost_waiting"


@cache
def _engine() -> Engine:
    return ready(settings())


def enqueue(
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
    session: Session | None = None,
) -> Accepted:
    """Commit one delivery, then publish it.

    With `session` the delivery joins the caller's own transaction and is published after its
    commit; when that rolls back, there is no delivery. When the broker is down this returns
    all the same, and the relay publishes later.

    Args:
        to: `platform:chat`, `platform:chat#thread`, `platform@account:chat` or `user:name`.
        key: The occasion. The same key and body again is the same delivery; the same key and
            another body is a `KeyConflict`.
        topic: What it is about; nobody who opted out of that gets it.
        at: Due time, aware; a string is ISO 8601.
        expires: After this it is not sent any more.
        order: `strict`, the default for replies and reminders: after whatever was committed
            for the same `order_key` before. `none`: in any order.
        order_key: What is in order with each other; the chat where not given.

    Raises:
        Refused: Bad input; nothing was stored.

    """
    new = check(
        to=to,
        text=text,
        key=key,
        source=source,
        topic=topic,
        lane=lane,
        at=at,
        expires=expires,
        metadata=metadata,
        thread=thread,
        reply_to=reply_to,
        silent=silent,
        policy=policy,
        order=order,
        order_key=order_key,
    )
    if session is None:
        with _engine().begin() as connection:
            accepted = outbox.insert(connection, [new])[0]
            reach("after_insert")
        reach("after_commit")
        if accepted.due_now:
            publish(_engine(), [accepted])
        return accepted
    accepted = outbox.insert(session.connection(), [new])[0]
    if accepted.due_now:
        _publish_after_commit(session, accepted)
    return accepted


def _publish_after_commit(session: Session, accepted: Accepted) -> None:
    waiting: list[Accepted] | None = session.info.get(_WAITING)
    if waiting is None:
        session.info[_WAITING] = [accepted]
        event.listen(session, "after_commit", _committed)
        event.listen(session, "after_soft_rollback", _rolled_back)
    else:
        waiting.append(accepted)


def _committed(session: Session) -> None:
    # SQLAlchemy calls this at the release of a savepoint too, which is no commit: a worker
    # that is told now finds no row.
    if session.in_nested_transaction():
        return
    waiting: list[Accepted] = session.info[_WAITING]
    ready, waiting[:] = list(waiting), []
    if ready:
        bind = session.get_bind()
        publish(bind if isinstance(bind, Engine) else bind.engine, ready)


def _rolled_back(session: Session, previous: SessionTransaction) -> None:
    # What a savepoint takes back stays listed: telling a worker of an id that has no row is
    # harmless, and which ones it took back is not to be known here.
    if not previous.nested:
        session.info[_WAITING].clear()


def broadcast(
    *,
    to: Iterable[str],
    text: str,
    id: str,  # noqa: A002 - the name of the field that users know
    source: str = "broadcast",
    metadata: Mapping[str, object] | None = None,
    silent: bool = False,
) -> list[Accepted]:
    """Commit one message for many targets, then publish it in bulk.

    The key of each delivery is the broadcast's id and the target, so calling it again after a
    crash sends to nobody twice. All targets are checked before anything is stored.

    Raises:
        Refused: A target or the text is not acceptable; nothing was stored.

    """
    new = [
        check(
            to=target,
            text=text,
            key=f"broadcast:{id}:{target}",
            source=source,
            lane=Lane.BROADCAST,
            metadata=metadata,
            silent=silent,
        )
        for target in dict.fromkeys(to)
    ]
    accepted: list[Accepted] = []
    for at in range(0, len(new), _BATCH):
        with _engine().begin() as connection:
            batch = outbox.insert(connection, new[at : at + _BATCH])
            reach("after_insert")
        reach("after_commit")
        publish(_engine(), [each for each in batch if each.due_now])
        accepted += batch
    return accepted
