"""One scheduler process: `python -m scheduler`. Any number of them may run."""

import sys
from datetime import timedelta

from scheduler.clock import (
    Clock,
    DatabaseClock,
    fanning_out,
    feeding,
    firing,
    following,
    overseeing,
    relaying,
    repairing,
    republishing,
    retaining,
    sweeping,
)
from scheduler.retention import Retention
from worker.database import MIGRATION_WITHIN_S, await_schema, engine
from worker.errors import MirrorpostError
from worker.limiter import check_rates
from worker.log import configure_logging
from worker.runtime import resolver_of
from worker.settings import settings


def main() -> int:
    """Run the clock on the database that the settings name, until SIGTERM or SIGINT."""
    try:
        configure_logging()
        check_rates()
        database = engine(settings().database)
        await_schema(database, MIGRATION_WITHIN_S)
        resolver = resolver_of(settings(), database)
    except MirrorpostError as error:
        print(error, file=sys.stderr)  # noqa: T201 - the line for whoever started it
        return 1
    clock = DatabaseClock()
    passes = [
        firing(database, clock),
        relaying(database, clock),
        fanning_out(database),
        republishing(database),
        feeding(database),
        overseeing(database),
        repairing(database, resolver),
        following(database, resolver),
        sweeping(database),
        retaining(
            Retention(
                database,
                deliveries=timedelta(days=settings().retention_days),
                attempts=timedelta(days=settings().attempt_retention_days),
            )
        ),
    ]
    Clock(passes).run()
    database.dispose()
    return 0


if __name__ == "__main__":
    sys.exit(main())
