"""`python -m tests.chaos`: many runs, each under one kind of fault, and their verdicts.

    --runs N --seed S            the runs go through the faults and databases in turn
    --fault NAME                 only this one; may be given again
    --database sqlite|postgresql|both
    --deliveries N               of each run
    --full                       the long versions of the faults
    --keep                       every run's folder, not only where something is wrong
    --json                       one object instead of the table
    --list                       the faults

Exit 1 when anything was lost, doubled, out of order or stuck; the command that repeats such a
run is printed and its folder is kept.
"""

import argparse
import random
import sys

import orjson
from rich.console import Console

from tests.bench.machine import describe
from tests.chaos.bench import Outcome, carry_out
from tests.chaos.faults import BOTH, FAULTS
from tests.chaos.report import as_object, progress, table
from tests.chaos.services import Services
from tests.isolation import forget_foreign_variables

#: Columns of the terminal that the table needs.
_WIDTH = 200


def main() -> int:
    """Carry out the runs; 1 when one has failed."""
    given = _arguments()
    out, err = Console(), Console(stderr=True)
    # So many columns do not fit into the 80 that a pipe is taken for.
    out.width = max(out.width, _WIDTH)
    if given.list:
        for name, fault in FAULTS.items():
            out.print(name, *fault.databases)
        return 0
    forget_foreign_variables()
    databases = BOTH if given.database == "both" else (given.database,)
    kinds = [
        (name, database)
        for name in given.fault or FAULTS
        for database in databases
        if database in FAULTS[name].databases
    ]
    for name in sorted({name for name, _ in kinds}):
        if (missing := FAULTS[name].missing()) is not None:
            err.print(f"{name} is left out, it needs {missing}")
            kinds = [kind for kind in kinds if kind[0] != name]
    seed = random.SystemRandom().randrange(10**6) if given.seed is None else given.seed
    err.print(f"seed {seed}")
    services = Services(postgres=any(database == "postgresql" for _, database in kinds))
    outcomes: list[Outcome] = []
    try:
        services.start()
        for n in range(given.runs):
            name, database = kinds[n % len(kinds)]
            outcome = carry_out(
                services,
                name,
                database,
                seed + n // len(kinds),
                deliveries=given.deliveries,
                full=given.full,
                keep=given.keep,
            )
            outcomes.append(outcome)
            progress(err, n + 1, given.runs, outcome)
    finally:
        services.close()
    machine = describe([])
    if given.json:
        sys.stdout.buffer.write(orjson.dumps(as_object(machine, seed, outcomes)) + b"\n")
    else:
        table(out, machine, seed, outcomes)
    return int(any(outcome.failed for outcome in outcomes))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--fault", action="append", choices=sorted(FAULTS))
    parser.add_argument("--database", choices=(*BOTH, "both"), default="both")
    parser.add_argument("--deliveries", type=int, default=500)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--list", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
