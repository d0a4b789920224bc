"""A platform that somebody else adds gets its line from what it declares and can do."""

from dataclasses import replace

from scheduler.guarantees import Guarantee, guarantees
from worker.platforms.base import Capability, Dedup
from worker.platforms.console import Console
from worker.platforms.slack import Slack


class Carrier(Console):
    name = "carrier"

    def __init__(self, **fields: object) -> None:
        self.capability = replace(Capability(max_length=1), **fields)  # type: ignore[arg-type]


def line(**fields: object) -> Guarantee:
    [found] = guarantees({"carrier": Carrier(**fields)})
    return found


def test_without_a_word_nothing_is_promised() -> None:
    found = line()
    assert (found.resend, found.hold) == ("at least once, marked", "at most once, held")


def test_a_key_that_holds_for_good_is_once_whatever_the_policy() -> None:
    found = line(dedup=Dedup.KEY)
    assert (found.resend, found.hold) == ("exactly once", "exactly once")


def test_a_key_for_a_day_is_followed_by_the_policy() -> None:
    found = line(dedup=Dedup.KEY, dedup_window_s=86_400.0)
    assert found.ambiguous == "sent again under the same key within 86400 s, then by policy"
    assert found.hold == "exactly once within 86400 s, then at most once, held"


def test_what_a_key_depends_on_is_said() -> None:
    found = line(dedup=Dedup.KEY, dedup_if="the moon is full")
    assert found.hold == "exactly once if the moon is full, else at least once"


def test_who_can_neither_edit_nor_retract_says_so_and_who_can_do_one_which() -> None:
    class Retracting(Carrier):
        def retracting(self, *_: object) -> None: ...
        def retracted(self, *_: object) -> None: ...

    assert line().amend == "no"
    [found] = guarantees({"carrier": Retracting()})
    assert found.amend == "retract only"


def test_who_says_it_can_be_asked_and_cannot_is_not_believed() -> None:
    assert line(dedup=Dedup.ASK).ambiguous == line().ambiguous
    [slack] = guarantees({"slack": Slack()})
    assert "asked for" in slack.ambiguous
