"""WHEN a delivery is due: the producer API, the clock over the schedule table, the relay."""

from scheduler.producer import broadcast, enqueue
from scheduler.schedules import schedule

__all__ = ["broadcast", "enqueue", "schedule"]
