"""Order sweep: what is held for an earlier delivery of its chat that is not there any more.

One pass; ticked by the clock. Whatever ends a delivery frees the next of its chat at once;
this finds what two transactions could not see of each other.
"""

import structlog
from sqlalchemy import Engine

from worker.order import sweep

_log = structlog.get_logger(__name__)


def sweep_order(engine: Engine) -> int:
    """Queue what nothing holds back; give how many deliveries. The relay publishes them."""
    with engine.begin() as connection:
        freed = sweep(connection)
    if freed:
        _log.info("order_freed", deliveries=freed)
    return freed
