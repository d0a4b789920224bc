"""Bots: the credentials with which a process sends, and what platforms said of them.

Made once a process; called by the pipeline on its threads and by `worker.send` on its loop.
"""

import time
from dataclasses import replace

from worker.log import redact
from worker.platforms import platform, platforms
from worker.platforms.base import Bot
from worker.resolve import Stop
from worker.settings import credential_print, credentials, secrets
from worker.states import State
from worker.taxonomy import Failure


class Bots:
    """The credentials of this process, read once."""

    def __init__(self) -> None:
        self._bots: dict[tuple[str, str], tuple[Bot | None, str]] = {}
        self._refused: dict[tuple[str, str], tuple[Stop, float]] = {}
        self._secrets = secrets(platforms())

    def get(self, name: str, account: str = "") -> tuple[Bot | None, str]:
        """Give a bot and its credential's fingerprint; `None` while a variable is missing."""
        found = self._bots.get((name, account))
        if found is None:
            bot = credentials(platform(name), account)
            found = self._bots[name, account] = (bot, credential_print(bot))
        return found

    def refuse(self, name: str, account: str, failure: Failure) -> None:
        """Remember that a platform refused a credential, for what is claimed already."""
        stop = Stop(State.HELD, failure, self.get(name, account)[1])
        self._refused[name, account] = (stop, time.monotonic())

    def refused(self, name: str, account: str, read_s: float) -> Stop | None:
        """Give what becomes of a bot's delivery if its credential was refused after `read_s`.

        What was noted before was read with the claim, and may be taken back since.
        """
        stop, since_s = self._refused.get((name, account), (None, 0.0))
        return stop if since_s > read_s else None

    def hide(self, failure: Failure) -> Failure:
        """Give a failure whose words have no secret in them and fit a column."""
        text = redact(failure.text, self._secrets).replace("\0", "")[:500]
        # Some platforms' codes are words, which may repeat what they were told.
        code = failure.code and redact(failure.code, self._secrets).replace("\0", "")[:500]
        if (text, code) == (failure.text, failure.code):
            return failure
        return replace(failure, text=text, code=code)
