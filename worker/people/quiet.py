"""Quiet hours: a window of the day in which a person is left alone. Pure."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from enum import StrEnum
from zoneinfo import ZoneInfo

_WINDOW = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)", re.ASCII)
_MINUTE = timedelta(minutes=1)
_DAY = timedelta(days=1)


class Quiet(StrEnum):
    """What becomes of a message in quiet hours."""

    #: It waits for the end of the window.
    HOLD = "hold"
    #: It goes out without a notification, where the platform has that.
    SILENT = "silent"


@dataclass(frozen=True, slots=True)
class QuietHours:
    """From `begin` until before `end` by a person's own clock, over midnight where it is later."""

    begin: time
    end: time

    def until(self, now: datetime, zone: ZoneInfo) -> datetime | None:
        """Give the UTC instant at which a window ends that `now` is in, `None` outside.

        The window is what the clock on the wall shows: on a night with a change it is an hour
        shorter or longer, and it ends at the change where its end is skipped.
        """
        local = now.astimezone(zone)
        if not self._holds(local):
            return None
        day = local.date() + (_DAY if local.time() >= self.end else timedelta())
        ends = datetime.combine(day, self.end, tzinfo=zone)
        # Where the clock is set back, an end in that hour comes twice.
        first, second = (ends.replace(fold=fold).astimezone(UTC) for fold in (0, 1))
        instant = first if first > now else second
        # Where it is set forward over the end, the end is at the change.
        while instant - _MINUTE > now and not self._holds((instant - _MINUTE).astimezone(zone)):
            instant -= _MINUTE
        return instant

    def _holds(self, local: datetime) -> bool:
        shown = local.time()
        if self.begin < self.end:
            return self.begin <= shown < self.end
        return shown >= self.begin or shown < self.end


def parse_window(text: str) -> QuietHours | None:
    """Read `22:00-08:00`; the empty text is no quiet hours.

    Raises:
        ValueError: It is something else; says what would be right.
    """
    if not text.strip():
        return None
    found = _WINDOW.fullmatch(text.strip())
    if found is None or found.group(1, 2) == found.group(3, 4):
        raise ValueError(f"{text!r} is no window of the day: write two times, such as 22:00-08:00")
    hour, minute, end_hour, end_minute = map(int, found.groups())
    return QuietHours(time(hour, minute), time(end_hour, end_minute))
