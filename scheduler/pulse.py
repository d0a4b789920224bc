"""The pulse: whether the worker of `mirrorpost up` consumes, which is more than being alive.

After a lost connection a Celery worker can stay up and deaf. So pings go to it the way
deliveries go, as tasks through the broker, on a queue that only this worker consumes: on a
shared one, the worker of another machine would answer for it.
"""

import hashlib
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

from kombu.exceptions import KombuError
from redis.exceptions import RedisError

from worker.settings import settings

#: Seconds after which a ping that nobody took is worth nothing any more.
_EXPIRES_S = 30


def ping_queue() -> str:
    """Give the queue of this machine and data directory."""
    place = f"{socket.gethostname()}:{settings().data_dir}"
    return f"mirrorpost.heartbeat.{hashlib.sha256(place.encode()).hexdigest()[:12]}"


def publish_ping() -> None:
    """Publish one ping.

    Raises:
        KombuError, RedisError, OSError: The broker is away.
    """
    # Imported late: the setting of its signals must not reach whoever only reads this module.
    from worker.celery import app

    app.send_task("mirrorpost.heartbeat", queue=ping_queue(), expires=_EXPIRES_S)


class Pulse:
    """Ping now and then from a thread of its own, and look for the answer in a file.

    A frozen broker may hold a ping for as long as its timeouts say; hence the thread.
    """

    def __init__(
        self,
        beat: Path,
        *,
        every_s: float,
        ping: Callable[[], None] = publish_ping,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._beat = beat
        self._every_s = every_s
        self._ping = ping
        self._clock = clock
        self._seen_ns = self._beat_ns()
        self._unanswered_since_s: float | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pulse", daemon=True)

    def start(self) -> None:
        """Begin to ping."""
        self._thread.start()

    def stop(self) -> None:
        """Ping no more."""
        self._stop.set()

    def unanswered_s(self, since_s: float) -> float:
        """Give for how many seconds the broker took pings and no beat came; never before `since_s`.

        0 while the broker is away: then it is not the worker that is deaf.
        """
        beat_ns = self._beat_ns()
        if beat_ns != self._seen_ns:
            self._seen_ns = beat_ns
            self._unanswered_since_s = None
        first = self._unanswered_since_s
        return 0.0 if first is None else self._clock() - max(first, since_s)

    def ping(self) -> None:
        """Ping once."""
        try:
            self._ping()
        except (KombuError, RedisError, OSError):
            self._unanswered_since_s = None
            return
        if self._unanswered_since_s is None:
            self._unanswered_since_s = self._clock()

    def _run(self) -> None:
        while not self._stop.wait(self._every_s):
            self.ping()

    def _beat_ns(self) -> int:
        try:
            return self._beat.stat().st_mtime_ns
        except FileNotFoundError:
            return 0
