"""Lanes: the priority classes of deliveries, and the Celery queue of each.

The names sort in reverse alphabetical order of their priority, so SQL can order by them.
"""

from enum import StrEnum


class Lane(StrEnum):
    """Who goes first, highest priority first."""

    REPLY = "reply"
    REMINDER = "reminder"
    CRON = "cron"
    BROADCAST = "broadcast"

    @property
    def queue(self) -> str:
        """Give the Celery queue of the lane."""
        return f"{INTAKE_QUEUE}.{self.value}"


#: The queue on which any producer may put `mirrorpost.deliver`.
INTAKE_QUEUE = "mirrorpost"
