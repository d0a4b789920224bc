"""Faults of processes: killed at random, killed at a fail-point, frozen, replaced."""

from collections.abc import Callable
from contextlib import suppress

import psutil

from tests.chaos.harness import Run
from tests.chaos.load import POISON
from tests.chaos.services import LEASE_S

Act = Callable[[Run], None]

#: How often a process dies in one run.
DEATHS = 3


def kill_workers(run: Run) -> None:
    for _ in range(DEATHS):
        run.pause(run.rng.uniform(0.2, 1.2))
        run.supervisor.kill(run.rng.choice(run.supervisor.named("worker")))


def kill_pool_children(run: Run) -> None:
    for _ in range(2 * DEATHS):
        run.pause(run.rng.uniform(0.1, 0.7))
        children = run.supervisor.children(run.rng.choice(run.supervisor.named("worker")))
        if children:
            with suppress(psutil.NoSuchProcess):
                run.supervisor.kill_one(run.rng.choice(children))


def kill_schedulers(run: Run) -> None:
    for _ in range(DEATHS):
        run.pause(run.rng.uniform(0.3, 1.5))
        run.supervisor.kill(run.rng.choice(run.supervisor.named("scheduler")))


def restart_in_turn(run: Run) -> None:
    for name in [*run.supervisor.named("worker"), *run.supervisor.named("scheduler")]:
        run.pause(run.rng.uniform(0.1, 0.5))
        run.supervisor.stop_and_start(name)


def freeze_worker(run: Run) -> None:
    run.pause(run.rng.uniform(0.1, 0.8))
    name = run.rng.choice(run.supervisor.named("worker"))
    run.supervisor.freeze(name)
    # Past the lease, so that the relay gives its rows to the other one.
    run.pause(LEASE_S * 3 if run.full else LEASE_S + 2.0)
    run.supervisor.thaw(name)


def feed_slowly(run: Run) -> None:
    """Let a broadcast be fed in turns: only who feeds goes by a pace, no sender waits for one."""
    run.set_variables("scheduler", {"MIRRORPOST_LIMIT_TELEGRAM": "15/s"})


def at(name: str, role: str, *, most: int) -> tuple[Act, Act]:
    """Give how processes of a role are killed at one fail-point, and how that is prepared."""

    def prepare(run: Run) -> None:
        if name == "in_feed":
            feed_slowly(run)
        every = run.rng.randint(1, most)
        run.set_variables(role, {"MIRRORPOST_FAILPOINT": f"{name}:kill:{every}"})
        run.note = f"(every {every} times)"

    def act(run: Run) -> None:
        for n in range(DEATHS):
            (run.tokens / f"{n}").touch()
            run.pause(run.rng.uniform(0.3, 1.5))
        with suppress(AssertionError):
            run.until(lambda: not any(run.tokens.iterdir()), 6.0)
        left = len(list(run.tokens.iterdir()))
        run.supervisor.killed += DEATHS - left
        run.disarm()

    return act, prepare


def poison_prepare(run: Run) -> None:
    run.set_variables(
        "worker",
        {
            "MIRRORPOST_FAILPOINT": f"before_send:kill:~{POISON}",
            # It has to die as often as there are attempts, each time for a lease.
            "MIRRORPOST_LEASE_S": "2",
            "MIRRORPOST_HTTP_TIMEOUT_S": "1",
        },
    )
    # And time is made to pass for it: no delivery of a run gets as old as one that may fail.
    run.set_variables("scheduler", {"MIRRORPOST_DEAD_LETTER_AGE_H": "0"})
    for n in range(100):
        (run.tokens / f"{n}").touch()


def poison(run: Run) -> None:
    run.pause(2.0)
    # The rest of its attempts is taken while the run waits for quiet.
    run.supervisor.killed = sum(a.is_poison for a in run.asked)
