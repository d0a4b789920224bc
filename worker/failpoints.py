"""Fail-points: named steps of the pipeline at which a chaos test lets a process die.

Called by the steps themselves, as `reach("after_claim")`. Off, and then a function that does
nothing, unless `MIRRORPOST_FAILPOINT` is set when the process starts; no user ever sets it.

    MIRRORPOST_FAILPOINT=after_claim:kill:7    every 7th time that a process gets there
    MIRRORPOST_FAILPOINT=before_send:kill:~x   whenever what is at hand contains an "x"
    MIRRORPOST_FAILPOINT_TOKENS=/folder        each time costs one of this folder's files

The tokens bound what happens over all processes, and without them nothing happens any more.

    in a producer     after_insert, after_commit, after_publish
    in an intake task after_insert, after_commit, before_ack
    in a worker       after_claim, after_permit, before_send, in_request, request_written,
                      after_answer, in_settle, in_mirror, after_settle
    in a scheduler    in_fire, after_fire, in_relay, in_feed, after_publish, in_fan_out,
                      after_fan_out
    in a preflight    in_preflight
"""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

#: What stands in for an outage at that point.
_SLEEP_S = 3.0


class FailpointError(Exception):
    """Raised at a fail-point whose action is `raise`."""


def _ignore(_name: str, _subject: str = "") -> None:
    """Do nothing: this is no chaos test."""


def _armed(setting: str, tokens: Path) -> Callable[..., None]:
    """Give the `reach` of a process in a chaos test."""
    wanted, action, when = setting.split(":", 2)
    reached = 0

    def reach(name: str, subject: str = "") -> None:
        nonlocal reached
        if name != wanted:
            return
        if when.startswith("~"):
            hit = when[1:] in subject
        else:
            reached += 1
            hit = reached % int(when) == 0
        if hit and _take_one(tokens):
            _act(action)

    return reach


def _take_one(tokens: Path) -> bool:
    """Use up a token; whoever removes the file has it."""
    try:
        for token in tokens.iterdir():
            try:
                token.unlink()
            except FileNotFoundError:
                continue
            return True
    except FileNotFoundError:
        pass
    return False


def _act(action: str) -> None:
    match action:
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "sleep":
            time.sleep(_SLEEP_S)
        case _:
            raise FailpointError


_setting = os.environ.get("MIRRORPOST_FAILPOINT")
#: Whether this process is one of a chaos test.
ARMED = bool(_setting)
reach: Callable[..., None] = (
    _armed(_setting, Path(os.environ["MIRRORPOST_FAILPOINT_TOKENS"])) if _setting else _ignore
)
