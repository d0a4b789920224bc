"""One conversation per person: its history, and the mirrors of what was sent.

`table` is what is stored, `append` the pipeline's way in, `history` everybody else's; `mirror`
writes into any manager of the same shape.
"""

from worker.sessions.append import Mirror, insert_mirrors
from worker.sessions.carry import SessionManagerLike
from worker.sessions.history import SessionManager, StoredMessage
from worker.sessions.mirror import mirror_to_session, mirror_to_session_async
from worker.sessions.table import MESSAGE, MessageRow
from worker.sessions.writers import flush_mirrors

__all__ = [
    "MESSAGE",
    "MessageRow",
    "Mirror",
    "SessionManager",
    "SessionManagerLike",
    "StoredMessage",
    "flush_mirrors",
    "insert_mirrors",
    "mirror_to_session",
    "mirror_to_session_async",
]
