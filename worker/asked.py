"""Asked: what tasks ask a worker process for and wait to see claimed; on the drain's loop."""

import asyncio
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

#: So many tasks within so many seconds are a stream: there is more behind it, and what is not
#: claimed waits for its task behind those of everybody else.
_STREAM = 8
_STREAM_S = 0.25


@dataclass(slots=True)
class _Task:
    """What one task waits for."""

    left: int
    done: asyncio.Event


class Asked:
    """The ids that were asked for, oldest first, and who waits for each."""

    def __init__(self) -> None:
        self._tasks: dict[str, _Task] = {}
        self._came: deque[float] = deque(maxlen=_STREAM)

    def __len__(self) -> int:
        return len(self._tasks)

    def __contains__(self, id_: str) -> bool:
        return id_ in self._tasks

    @property
    def is_stream(self) -> bool:
        """Tell whether tasks come so fast that more is queued than they name yet."""
        return len(self._came) == _STREAM and self._came[-1] - self._came[0] < _STREAM_S

    def add(self, ids: Sequence[str]) -> asyncio.Event:
        """Ask for these, of which none is asked for yet; the event comes when none is any more."""
        self._came.append(time.monotonic())
        task = _Task(len(ids), asyncio.Event())
        self._tasks.update(dict.fromkeys(ids, task))
        return task.done

    def first(self, count: int) -> list[str]:
        """Give the oldest ids."""
        return list(islice(self._tasks, count))

    def forget(self, ids: Iterable[str]) -> None:
        """Ask for these no longer."""
        for id_ in ids:
            task = self._tasks.pop(id_, None)
            if task is not None:
                task.left -= 1
                if task.left == 0:
                    task.done.set()
