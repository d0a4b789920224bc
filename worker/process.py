"""The life of a worker process: what Celery's signals begin and end."""

import gc
import logging
import signal
import sys
import threading
from typing import TYPE_CHECKING

import structlog

from worker.database import MIGRATION_WITHIN_S, await_schema, engine
from worker.errors import MirrorpostError
from worker.log import configure_logging
from worker.settings import settings

if TYPE_CHECKING:
    from worker.runtime import Runtime

_log = structlog.get_logger(__name__)

_runtime: "Runtime | None" = None


def begin_logging(**_: object) -> None:
    """Log Celery's own lines plainly and ours as events; no task arguments in either."""
    configure_logging()
    level = logging.getLevelNamesMapping().get(settings().log_level.upper(), logging.INFO)
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("alembic").setLevel(logging.WARNING)


def prepare(**_: object) -> None:
    """Refuse, in the parent and before anything is forked, what no child could work with.

    Raises:
        SystemExit: One line says what is wrong and what would be right.
    """
    # Imported here: whoever only publishes imports the application too.
    from worker.limiter import check_limits

    try:
        check_limits()
        database = engine(settings().database)
        await_schema(database, MIGRATION_WITHIN_S)
        # Nothing of it may be inherited by the children.
        database.dispose()
    except MirrorpostError as error:
        raise SystemExit(f"mirrorpost: {error}") from None


def begin(**_: object) -> None:
    """Start the runtime of a forked child."""
    global _runtime  # noqa: PLW0603 - one a process, made after the fork
    # Imported here: whoever only publishes imports the application too.
    from worker.runtime import Runtime

    _runtime = Runtime()
    # What is there now stays for good: to look it through again and again took 0.1 s each time.
    gc.freeze()


def end_once(**_: object) -> None:
    """Let one SIGTERM end this child in order, and no further one in the middle of that.

    Celery ends a child whose task is under way with several at once; its own handler leaves
    the default after the first, which kills, and messages under way would be in doubt. That
    handler is put in place after the child's start, so this one is before a task.
    """

    def leave(number: int, _frame: object) -> None:
        signal.signal(number, signal.SIG_IGN)
        sys.exit(0)

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, leave)


def end(**_: object) -> None:
    """Stop the runtime: finish what is under way, give back the rest."""
    global _runtime
    if _runtime is not None:
        stopping, _runtime = _runtime, None
        stopping.stop()


def runtime() -> "Runtime":
    """Give this process's runtime, made at once where no signal announced the process."""
    if _runtime is None:
        begin()
    assert _runtime is not None  # noqa: S101 - begin has set it
    return _runtime
