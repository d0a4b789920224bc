"""Carry out one run and judge it; the same arguments are the same run again.

Called by `python -m tests.chaos` and by the short version in the suite.
"""

import random
import time
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.faults import FAULTS, Fault
from tests.chaos.harness import LOAD_S, Run
from tests.chaos.judge import Verdict, arrivals, judge, refusals, rows
from tests.chaos.load import plan
from tests.chaos.services import Services, new_folder, new_site
from tests.processes import remove_folder
from worker.sandbox.faults import PLATFORMS


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one run.

    Attributes:
        folder: Logs and plans, kept where something is wrong.
    """

    fault: str
    database: str
    seed: int
    deliveries: int
    verdict: Verdict
    killed: int
    repeated: int
    quiet: bool
    took_s: float
    note: str
    folder: Path | None

    @property
    def failed(self) -> bool:
        """Tell whether anything is wrong."""
        return not self.quiet or bool(self.verdict.wrong)

    @property
    def command(self) -> str:
        """Give the command that repeats just this run."""
        return (
            f"python -m tests.chaos --runs 1 --seed {self.seed} --fault {self.fault} "
            f"--database {self.database} --deliveries {self.deliveries}"
        )


def carry_out(
    services: Services,
    fault_name: str,
    database: str,
    seed: int,
    *,
    deliveries: int,
    full: bool = False,
    keep: bool = False,
) -> Outcome:
    """Do one run; `full` takes the long version of the fault, `keep` its folder in any case."""
    fault, rng = FAULTS[fault_name], random.Random(f"{seed} {fault_name} {database}")
    begun = time.monotonic()
    folder = new_folder()
    with new_site(services, database, folder) as site:
        webhooks = f"{site.sandbox.url}/webhook"
        asked = fault.changes(rng, plan(rng, deliveries, webhooks=webhooks, over_s=LOAD_S))
        run = Run(services, site, asked, database=database, rng=rng, full=full)
        try:
            quiet = _under(fault, run)
            run.supervisor.close()
            accepted = {name: site.sandbox.accepted(name) for name in PLATFORMS}
            seen = arrivals(accepted, list(services.homeserver.taken))
            verdict = judge(asked, rows(site.engine), seen, refusals(site.engine))
        finally:
            run.supervisor.close()
            run.clean_up()
    outcome = Outcome(
        fault=fault_name,
        database=database,
        seed=seed,
        deliveries=deliveries,
        verdict=verdict,
        killed=run.supervisor.killed,
        repeated=run.repeated,
        quiet=quiet,
        took_s=time.monotonic() - begun,
        note=run.note,
        folder=folder,
    )
    if not outcome.failed and not keep:
        remove_folder(folder)
    return outcome


def _under(fault: Fault, run: Run) -> bool:
    try:
        fault.prepare(run)
        run.start()
        run.begin_load()
        fault.act(run)
    except AssertionError as error:
        # Something that must come did not; what there is, is judged all the same.
        run.note = str(error)[:2000]
        return False
    finally:
        run.heal()
    return run.becomes_quiet()
