"""The clock of a scheduler process: APScheduler ticks, the passes do the work.

One job, ticked at least once a second, so that another process's rows are seen within one,
and exactly when a pass says that something is due. APScheduler keeps no schedules: its job
stores lose, double or pickle them. A pass that fails is tried again; the clock never stops
for it.
"""

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import structlog
from apscheduler.events import EVENT_SCHEDULER_STARTED
from apscheduler.executors.debug import DebugExecutor
from apscheduler.schedulers.blocking import BlockingScheduler
from apscheduler.triggers.base import BaseTrigger
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from resolvers import IdentityResolverProtocol
from scheduler.broadcasts.fanout import fan_out, waiting
from scheduler.broadcasts.feed import feed
from scheduler.broadcasts.oversee import Overseer
from scheduler.fire import fire_due
from scheduler.mirror_repair import MirrorRepair
from scheduler.moves import follow_moves
from scheduler.order_sweep import sweep_order
from scheduler.relay import relay
from scheduler.republish import republish
from scheduler.retention import Retention
from scheduler.steps import Steps

_log = structlog.get_logger(__name__)

#: Seconds between ticks when nothing is due. Below one, so that a row that another process
#: wrote is planned within a second.
TICK_S = 0.9
#: Seconds before a pass is tried again that is due and did not get it done: another process
#: has the rows, or the broker is away.
_AGAIN_S = 0.1
#: Seconds between looks for mirrors that are missing.
_REPAIR_S = 5.0
#: Seconds between looks for chats that have moved.
_FOLLOW_S = 3.0
#: Seconds between looks for what the broker lost.
_REPUBLISH_S = 2.0
#: Seconds between looks for what is held in order without reason.
_SWEEP_S = 5.0
#: Seconds of one tick in which broadcasts are fanned out, so that the others have their turn.
_FAN_OUT_S = 0.4
#: Seconds until the next tick while broadcasts are being fanned out.
_SOON_S = 0.005
#: Seconds between two feeds while a broadcast runs: a fraction of what a feed lets go.
_FEED_S = 0.5
#: Batches of due schedules in one tick, so that the relay has its turn.
_BATCHES = 20


@dataclass(frozen=True, slots=True)
class Pass:
    """One duty of the clock.

    Attributes:
        run: Does it; gives in how many seconds it is due again, `None` when not known.
        every_s: Seconds from one run to the next at least; it is run in a tick after that.
    """

    name: str
    run: Callable[[], float | None]
    every_s: float = 0.0


class WhenDue(BaseTrigger):  # type: ignore[misc]  # APScheduler has no types
    """Fires at an instant that the last tick set; never in the past."""

    def __init__(self) -> None:
        self.at = datetime.now(UTC)

    def get_next_fire_time(self, _previous: datetime | None, now: datetime) -> datetime:
        """Give the next tick; later than `now`, which APScheduler took before the tick."""
        return max(self.at, now + timedelta(microseconds=1))


class SteadyScheduler(BlockingScheduler):  # type: ignore[misc]  # APScheduler has no types
    """Ticks on when the wall clock, by which APScheduler goes, is set back.

    It would wait until the old time comes again, two hours after a step of two hours.
    """

    def _process_jobs(self) -> float:
        now = datetime.now(UTC)
        for job in self.get_jobs():
            if job.next_run_time > now + timedelta(seconds=TICK_S):
                self.modify_job(job.id, next_run_time=now)
        wait_s: float | None = super()._process_jobs()
        return TICK_S if wait_s is None else min(wait_s, TICK_S)


class Clock:
    """Runs passes until it is stopped; `run` blocks."""

    def __init__(self, passes: Sequence[Pass]) -> None:
        self._passes = passes
        self._trigger = WhenDue()
        self._failing: dict[str, str] = {}
        self._again: dict[str, float] = {}
        self._scheduler = SteadyScheduler(timezone=UTC, executors={"default": DebugExecutor()})
        self._scheduler.add_job(
            self.tick,
            self._trigger,
            coalesce=True,
            max_instances=1,
            # Late is never too late: what is due is in the database.
            misfire_grace_time=None,
        )

    def run(self, *, stop_on_signals: bool = True) -> None:
        """Tick until `stop`, or a SIGTERM or SIGINT in the main thread."""
        # APScheduler logs every tick.
        logging.getLogger("apscheduler").setLevel(logging.WARNING)
        if stop_on_signals:
            self._scheduler.add_listener(self._listen_to_signals, EVENT_SCHEDULER_STARTED)
        self._scheduler.start()

    def stop(self) -> None:
        """End `run` after the pass that is under way; from any thread but a signal handler."""
        self._scheduler.shutdown(wait=False)

    def _listen_to_signals(self, _event: object) -> None:
        def stop(_number: int, _frame: object) -> None:
            # In a thread: the handler may interrupt the very code whose lock this takes.
            threading.Thread(target=self._stop_once, name="stop").start()

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stop)

    def _stop_once(self) -> None:
        if self._scheduler.running:
            _log.info("clock_stopping")
            self.stop()

    def tick(self) -> None:
        """Run every pass, and set the time of the next tick."""
        wait_s = TICK_S
        for each in self._passes:
            if time.monotonic() < self._again.get(each.name, 0.0):
                continue
            self._again[each.name] = time.monotonic() + each.every_s
            due_s = self._attempt(each)
            if due_s is not None:
                wait_s = min(wait_s, due_s if due_s > 0 else _AGAIN_S)
        self._trigger.at = datetime.now(UTC) + timedelta(seconds=wait_s)

    def _attempt(self, each: Pass) -> float | None:
        try:
            due_s = each.run()
        except Exception as error:  # noqa: BLE001 - whatever a pass meets, the clock goes on
            reason = f"{type(error).__name__}: {getattr(error, 'orig', error)}"
            if self._failing.get(each.name) != reason:
                # What the database says is enough; anything else is a defect of ours.
                _log.error(
                    "pass_failed",
                    duty=each.name,
                    error=reason,
                    exc_info=not isinstance(error, SQLAlchemyError),
                )
                self._failing[each.name] = reason
            return None
        if self._failing.pop(each.name, None):
            _log.info("pass_recovered", duty=each.name)
        return due_s


def process_name() -> str:
    """Name this process for the record."""
    return f"{socket.gethostname()}:{os.getpid()}"


class DatabaseClock:
    """How far the database's clock is from ours, as of the last fire pass."""

    def __init__(self) -> None:
        self._ahead_s = 0.0

    def set(self, now_ms: int) -> None:
        """Note the database's time of this moment."""
        self._ahead_s = now_ms / 1000 - time.time()

    def seconds_until(self, due_ms: int | None) -> float | None:
        """Give the seconds until a time by the database's clock."""
        return None if due_ms is None else due_ms / 1000 - time.time() - self._ahead_s


def firing(engine: Engine, clock: DatabaseClock) -> Pass:
    """Give the pass that fires due schedules."""
    name = process_name()

    def run() -> float | None:
        for _ in range(_BATCHES):
            done = fire_due(engine, by=name)
            if not done.taken or done.next_due_ms is None or done.next_due_ms > done.now_ms:
                break
        clock.set(done.now_ms)
        return clock.seconds_until(done.next_due_ms)

    return Pass("fire", run)


def relaying(engine: Engine, clock: DatabaseClock) -> Pass:
    """Give the pass that publishes what is due, lost or unpublished."""
    steps = Steps()
    return Pass("relay", lambda: clock.seconds_until(relay(engine, steps)))


def fanning_out(engine: Engine) -> Pass:
    """Give the pass that makes the deliveries of running broadcasts, in turns."""

    def run() -> float | None:
        until = time.monotonic() + _FAN_OUT_S
        found = waiting(engine)
        while found:
            for id_ in found:
                if time.monotonic() > until:
                    return _SOON_S
                if not fan_out(engine, id_):
                    # It has no more, or another process is at it.
                    found = [each for each in found if each != id_]
        return None

    return Pass("fan_out", run)


def feeding(engine: Engine) -> Pass:
    """Give the pass that lets go what running broadcasts may send."""
    return Pass("feed", lambda: _FEED_S if feed(engine) else None)


def overseeing(engine: Engine) -> Pass:
    """Give the pass that ends and halts broadcasts."""
    overseer = Overseer(engine)
    return Pass("oversee", lambda: _FEED_S if overseer.run() else None)


def repairing(engine: Engine, resolver: IdentityResolverProtocol) -> Pass:
    """Give the pass that writes missing mirrors."""
    return _now_and_then("repair_mirrors", MirrorRepair(engine, resolver).run, _REPAIR_S)


def following(engine: Engine, resolver: IdentityResolverProtocol) -> Pass:
    """Give the pass that lets links and schedules follow chats that have moved."""
    return _now_and_then("follow_moves", lambda: follow_moves(engine, resolver), _FOLLOW_S)


def republishing(engine: Engine) -> Pass:
    """Give the pass that publishes again what the broker lost."""
    return _now_and_then("republish", lambda: republish(engine), _REPUBLISH_S)


def sweeping(engine: Engine) -> Pass:
    """Give the pass that frees what is held in order and has nothing before it."""
    return _now_and_then("sweep_order", lambda: sweep_order(engine), _SWEEP_S)


def retaining(retention: Retention) -> Pass:
    """Give the pass that deletes what ended long ago."""
    return _now_and_then("retention", retention.run, 0.0)


def _now_and_then(name: str, duty: Callable[[], object], seconds: float) -> Pass:
    """Give the pass of a duty that does not say when it is due again."""

    def run() -> None:
        duty()

    return Pass(name, run, every_s=seconds)
