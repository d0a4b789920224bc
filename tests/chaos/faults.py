"""The faults by name, each with what it needs.

A fault is a function that does harm to a run under load and takes it back; it may also
prepare a run before anything has started. What it chooses, it chooses by the run's own
random numbers, so the seed repeats it.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.chaos import kills, outages, repeats
from tests.chaos.harness import Run
from tests.chaos.load import Asked, with_broadcast, with_poison

BOTH = ("sqlite", "postgresql")
#: Gives another load, by the run's random numbers.
Changes = Callable[[random.Random, Sequence[Asked]], Sequence[Asked]]


def _nothing(_run: Run) -> None:
    """Prepare nothing."""


def _same(_rng: random.Random, asked: Sequence[Asked]) -> Sequence[Asked]:
    return asked


@dataclass(frozen=True, slots=True)
class Fault:
    """One kind of fault.

    Attributes:
        act: Does it while the load is asked for; comes back when it is over.
        prepare: Changes the run before its processes start.
        changes: Changes the load.
        missing: Gives what this machine lacks for it, `None` for nothing.
    """

    name: str
    act: Callable[[Run], None]
    prepare: Callable[[Run], None] = _nothing
    changes: Changes = _same
    missing: Callable[[], str | None] = lambda: None
    databases: Sequence[str] = BOTH


def _at(name: str, role: str, *, most: int, changes: Changes = _same) -> Fault:
    act, prepare = kills.at(name, role, most=most)
    return Fault(f"kill-{role}-{name.replace('_', '-')}", act, prepare, changes)


def _under_load(run: Run) -> None:
    """Do no harm: what goes wrong now goes wrong without any fault."""
    run.pause(1.0)


FAULTS: dict[str, Fault] = {
    fault.name: fault
    for fault in (
        Fault("none", _under_load),
        Fault("kill-worker", kills.kill_workers),
        Fault("kill-pool-child", kills.kill_pool_children),
        Fault("kill-scheduler", kills.kill_schedulers),
        _at("after_insert", "producer", most=20),
        _at("after_commit", "producer", most=20),
        _at("after_publish", "producer", most=20),
        _at("after_insert", "worker", most=20),
        _at("after_commit", "worker", most=20),
        _at("before_ack", "worker", most=20),
        _at("after_claim", "worker", most=6),
        _at("after_permit", "worker", most=6),
        _at("before_send", "worker", most=40),
        _at("in_request", "worker", most=40),
        _at("request_written", "worker", most=40),
        _at("after_answer", "worker", most=40),
        _at("in_settle", "worker", most=6),
        _at("in_mirror", "worker", most=6),
        _at("after_settle", "worker", most=6),
        _at("in_fire", "scheduler", most=2),
        _at("after_fire", "scheduler", most=2),
        _at("in_relay", "scheduler", most=2),
        _at("after_publish", "scheduler", most=2),
        _at("in_feed", "scheduler", most=2, changes=with_broadcast),
        Fault(
            "kill-worker-in-broadcast",
            kills.kill_workers,
            kills.feed_slowly,
            with_broadcast,
        ),
        Fault(
            "poison",
            kills.poison,
            kills.poison_prepare,
            lambda rng, asked: with_poison(rng, asked, 1),
        ),
        Fault("rolling-restart", kills.restart_in_turn),
        Fault("worker-frozen", kills.freeze_worker),
        Fault("redis-restarted-empty", outages.restart_redis),
        Fault("redis-flushed", outages.flush_redis),
        Fault("redis-frozen", outages.freeze_redis),
        Fault("redis-connections-cut", outages.cut_redis),
        Fault("postgres-restarted", outages.restart_postgres, databases=("postgresql",)),
        Fault("postgres-connections-cut", outages.cut_postgres, databases=("postgresql",)),
        Fault(
            "disk-full",
            outages.fill_disk,
            outages.small_disk,
            missing=outages.needs_mount,
            databases=("sqlite",),
        ),
        Fault("accept-then-cut", outages.platforms("drop", 2.0)),
        Fault("accept-then-hang", outages.platforms("hang", 2.0, seconds=10)),
        Fault("platform-500", outages.platforms("500", 3.0)),
        Fault("platform-429", outages.platforms("429", 3.0, retry_after=1)),
        Fault("platform-silent", outages.platforms_away),
        Fault(
            "clock-stepped", repeats.step_clock, repeats.own_clock, missing=repeats.needs_faketime
        ),
        Fault("task-ten-times", repeats.publish_again),
        Fault("one-key-from-20-processes", repeats.same_key_at_once),
    )
}
