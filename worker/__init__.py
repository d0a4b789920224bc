"""HOW a delivery happens: outbox, pipeline, platforms, history and mirror.

`celery -A worker worker` finds its application in `worker.celery`.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from worker.sessions import SessionManager, mirror_to_session

__all__ = ["SessionManager", "mirror_to_session"]


def __getattr__(name: str) -> object:
    # Imported when asked for, so that a forked child and a bare import stay light.
    if name in __all__:
        from worker import sessions

        return getattr(sessions, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
