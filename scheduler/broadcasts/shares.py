"""Shares: how many deliveries of each broadcast are under way on one bot.

Pure. Tenants share a bot evenly, and the broadcasts of a tenant share its part; what one does
not need is the others'.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Demand:
    """What one broadcast has on one bot.

    Attributes:
        under_way: Deliveries that were let go and have not ended.
        waiting: Deliveries that could be let go.
    """

    tenant: str
    under_way: int
    waiting: int


def to_let_go(demands: Mapping[str, Demand], room: int) -> dict[str, int]:
    """Give how many deliveries of each broadcast should be let go now.

    Args:
        room: How many may be under way at once; with more broadcasts than that, one of each.
    """
    tenants = sorted({demand.tenant for demand in demands.values()})
    of_tenant = {t: sorted(b for b, d in demands.items() if d.tenant == t) for t in tenants}
    shares = even_shares(
        max(room, len(demands)),
        [sum(_most(demands[b]) for b in of_tenant[tenant]) for tenant in tenants],
    )
    found: dict[str, int] = {}
    for tenant, share in zip(tenants, shares, strict=True):
        names = of_tenant[tenant]
        targets = even_shares(max(share, len(names)), [_most(demands[b]) for b in names])
        for name, target in zip(names, targets, strict=True):
            found[name] = max(0, target - demands[name].under_way)
    return found


def even_shares(total: int, wanted: Sequence[int]) -> list[int]:
    """Divide a total as evenly as can be, nobody getting more than is wanted."""
    shares = [0] * len(wanted)
    left = total
    ascending = sorted(range(len(wanted)), key=lambda n: wanted[n])
    for done, n in enumerate(ascending):
        shares[n] = min(wanted[n], left // (len(wanted) - done))
        left -= shares[n]
    return shares


def _most(demand: Demand) -> int:
    return demand.under_way + demand.waiting
