"""The outbox: the rows of deliveries, and the only code that writes their state.

In the order of a row's life: `store` (or `amend`), `claim`, `settle`, `marks`; with `worker.due`
for what the relay asks, `worker.order` for who comes first, and `worker.states` for what is legal.
Each function is one statement, or a few in the caller's transaction. Hot statements take
their rows as one JSON array; the query plans are pinned by tests.
"""

from worker.outbox.amend import NewAmendment, insert_amendments
from worker.outbox.claim import Claimed, Taken, claim, give_back, renew
from worker.outbox.marks import held_accounts, mark_mirror_failed, mark_mirrored, release_held
from worker.outbox.settle import settle
from worker.outbox.store import Accepted, insert

__all__ = [
    "Accepted",
    "Claimed",
    "NewAmendment",
    "Taken",
    "claim",
    "give_back",
    "held_accounts",
    "insert",
    "insert_amendments",
    "mark_mirror_failed",
    "mark_mirrored",
    "release_held",
    "renew",
    "settle",
]
