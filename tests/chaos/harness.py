"""One run: a site of real processes, its load, and the waiting until all is quiet.

`Services` are kept from run to run, a `Run` has its own database, sandbox and processes.
Faults act on a `Run`, which starts again whatever has died, as a supervisor does.
"""

import random
import time
from collections.abc import Callable, Mapping, Sequence

import orjson
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from tests.chaos.load import Asked, Way, steps
from tests.chaos.services import Services
from tests.chaos.supervisor import Supervisor
from tests.waiting import wait_until
from tests.workers import Site
from worker.database import reading
from worker.states import ENDS

#: Seconds over which a load is asked for.
LOAD_S = 4.0
#: Seconds that a platform takes at least to accept, and between which the most lies: so
#: there is always something under way.
_LEAST_LATENCY_S = 0.005
_LATENCY_S = (0.05, 0.8)
#: Seconds within which everything must have ended after the fault is healed.
QUIET_WITHIN_S = 90.0
#: Seconds after which a producer that has only the broker asks again for what has no row.
_ASK_AGAIN_S = 5.0
_TICK_S = 0.05
_WORKERS = _SCHEDULERS = 2


class Run:
    """One run under way.

    Attributes:
        supervisor: Its processes.
        rng: For whatever a fault chooses.
        full: Take the long version of a fault.
        repeated: Bare Celery messages that were asked for again, because no row was there.
        note: What a fault has to say about itself.
    """

    def __init__(
        self,
        services: Services,
        site: Site,
        asked: Sequence[Asked],
        *,
        database: str,
        rng: random.Random,
        full: bool = False,
    ) -> None:
        self.services = services
        self.site = site
        self.asked = asked
        self.database = database
        self.rng = rng
        self.full = full
        self.repeated = 0
        self.note = ""
        self.folder = site.folder
        self.tokens = site.folder / "tokens"
        self.tokens.mkdir()
        self.supervisor = Supervisor(site.folder, site.cwd)
        self._variables: dict[str, dict[str, str]] = {}
        self._begun = 0.0
        self._latency_s = rng.uniform(*_LATENCY_S)
        self._plans = 0
        self._undo: list[Callable[[], object]] = []

    def set_variables(self, role: str, variables: Mapping[str, str]) -> None:
        """Set variables for the processes of a role (`worker`, `scheduler`, `producer`)."""
        self._variables.setdefault(role, {}).update(variables)

    # What runs.

    def start(self) -> None:
        """Start workers and schedulers; come back when they work."""
        self.no_faults()
        for n in range(_WORKERS):
            self._start(
                f"worker{n}",
                [
                    *("-m", "celery", "-A", "worker", "worker", "-n", f"w{n}@%h", "-c", "2"),
                    *("--loglevel=INFO", "--without-gossip", "--without-mingle"),
                ],
            )
        for n in range(_SCHEDULERS):
            self._start(f"scheduler{n}", ["-m", "scheduler"])
        for n in range(_WORKERS):
            self.supervisor.awaits(f"worker{n}", " ready.")

    def begin_load(self) -> None:
        """Start the producer; come back when the first message has arrived."""
        self._begun = time.time()
        self.produce("load", steps(self.asked, self._begun))
        self.until(lambda: bool(self.services.homeserver.taken) or self._any_accepted(), 30.0)

    def produce(self, name: str, wanted: Sequence[Mapping[str, object]]) -> None:
        """Start a further producer with steps of its own."""
        plan = self.folder / f"{name}.json"
        plan.write_bytes(orjson.dumps(list(wanted)))
        self._start(
            f"producer-{name}",
            ["-m", "tests.chaos.producer", str(plan), f"{plan}.done", str(self._begun)],
        )

    def pause(self, seconds: float) -> None:
        """Let time pass, looking after the processes."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            time.sleep(min(_TICK_S, left))
            self.supervisor.look()

    def until(self, condition: Callable[[], object], within_s: float) -> None:
        """Wait for something, looking after the processes."""

        def looked() -> object:
            self.supervisor.look()
            return condition()

        wait_until(looked, within_s, poll_s=_TICK_S)

    def disarm(self) -> None:
        """Let nobody die at a fail-point any more."""
        for token in self.tokens.iterdir():
            token.unlink(missing_ok=True)

    def at_end(self, undo: Callable[[], object]) -> None:
        """Note what has to be undone when the run has been judged."""
        self._undo.append(undo)

    def clean_up(self) -> None:
        """Undo what faults have changed outside of the run."""
        self.site.engine.dispose()
        while self._undo:
            self._undo.pop()()

    def _start(self, name: str, command: Sequence[str]) -> None:
        role = name.rstrip("0123456789").partition("-")[0]
        env = {**self.site.env, **self._variables.get(role, {})}
        self.supervisor.start(name, command, env, once=role == "producer")

    # What goes on at the platforms.

    def fault(self, fault: str, *platforms: str, **more: object) -> None:
        """Switch a fault on at platforms."""
        self.site.sandbox.no_faults()
        for platform in platforms:
            if platform == "matrix":
                self.services.homeserver.fault = fault
            else:
                self.site.sandbox.fault(platform, None, fault, **more)

    def no_faults(self) -> None:
        """Let every platform work again, each as fast as it is in this run."""
        self.services.homeserver.fault = None
        self.services.homeserver.answers_in_s = self._latency_s
        self.site.sandbox.no_faults()
        for platform in ("telegram", "slack", "discord", "webhook"):
            # Without the spread whatever is sent at once would arrive in order by itself.
            self.site.sandbox.fault(
                platform, None, "slow", seconds=_LEAST_LATENCY_S, jitter=self._latency_s
            )

    def _any_accepted(self) -> bool:
        return any(self.site.sandbox.accepted(p) for p in ("telegram", "slack", "discord"))

    # The end of it.

    def heal(self) -> None:
        """Let everything work again, whatever the fault has left."""
        self.no_faults()
        self.supervisor.look()

    def becomes_quiet(self) -> bool:
        """Wait until all that was asked for has ended; tell whether it did in time."""
        deadline = time.monotonic() + QUIET_WITHIN_S
        ask_again = time.monotonic() + _ASK_AGAIN_S
        while time.monotonic() < deadline:
            self.pause(0.25)
            if not self.supervisor.have_ended("producer"):
                ask_again = time.monotonic() + _ASK_AGAIN_S
                continue
            try:
                if time.monotonic() > ask_again and self._ask_again():
                    ask_again = time.monotonic() + _ASK_AGAIN_S
                if self._is_quiet():
                    return True
            except OperationalError:
                continue
        return False

    def _ask_again(self) -> bool:
        """Ask again for bare messages without a row; tell whether there were any."""
        with reading(self.site.engine) as connection:
            stored = set(connection.execute(text("SELECT key FROM delivery")).scalars())
        lost = [a for a in self.asked if a.way is Way.TASK and a.key not in stored]
        if lost:
            self.repeated += len(lost)
            self._plans += 1
            self.produce(f"again{self._plans}", steps(lost, self._begun))
        return bool(lost)

    def _is_quiet(self) -> bool:
        with self.site.engine.begin() as connection:
            # What waits for its next attempt has waited long enough.
            connection.execute(text("UPDATE delivery SET due_ms = 0 WHERE state = 'retrying'"))
            ends = ", ".join(f"'{state}'" for state in ENDS)
            open_rows, stored, unmirrored, unfired, running = connection.execute(
                text(
                    f"SELECT (SELECT count(*) FROM delivery WHERE state NOT IN ({ends})), "
                    "(SELECT count(*) FROM delivery), "
                    "(SELECT count(*) FROM delivery WHERE mirror = 'failed'), "
                    "(SELECT count(*) FROM schedule WHERE state = 'active'), "
                    "(SELECT count(*) FROM broadcast WHERE state <> 'done')"
                )
            ).one()
        unfinished = open_rows or unmirrored or unfired or running
        return not unfinished and stored >= len(self.asked)
