"""WHEN a delivery is due: the producer API, the clock over the schedule table, the relay."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scheduler.producer import broadcast, enqueue
    from scheduler.schedules import schedule

__all__ = ["broadcast", "enqueue", "schedule"]


def __getattr__(name: str) -> object:
    # Imported when asked for, so that the command line starts at once.
    if name in {"broadcast", "enqueue"}:
        from scheduler import producer

        return getattr(producer, name)
    if name == "schedule":
        from scheduler.schedules import schedule

        return schedule
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
