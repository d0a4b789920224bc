"""The limiter: when each of a batch may go, over all workers.

`Limiter.permit` asks once for a whole batch and `Limiter.pause` stops a scope for everybody.
What a platform takes stands with its adapter; `scopes` turns it into keys, `ask.lua` decides
in Redis and `share` in this process, by the same rule, while Redis is away.
"""

from worker.limiter.limiter import Limiter, Permit
from worker.limiter.scopes import Ask, Rates, broadcast_pace, check_rates, rates

__all__ = ["Ask", "Limiter", "Permit", "Rates", "broadcast_pace", "check_rates", "rates"]
