"""Every failure has its consequence, and the consequences are those of the table."""

import re

import pytest

from worker import taxonomy
from worker.taxonomy import CONSEQUENCES, Again, Consequence, ErrorKind

WHEN = {
    "when told": Again.WHEN_TOLD,
    "by the schedule": Again.BY_SCHEDULE,
    "by capability": Again.BY_CAPABILITY,
    "at once": Again.AT_ONCE,
    "never": Again.NEVER,
    "when it is there": Again.WHEN_CREDENTIAL_CHANGES,
}


def test_every_error_kind_has_a_consequence() -> None:
    assert set(CONSEQUENCES) == set(ErrorKind)


@pytest.mark.parametrize("kind", ErrorKind)
def test_the_table_in_the_text_says_what_the_code_does(kind: ErrorKind) -> None:
    words = "|".join(WHEN)
    row = re.search(
        rf"^{kind} +({words}) +(yes|no) +(yes|no) +(yes|no)$", taxonomy.__doc__ or "", re.MULTILINE
    )
    assert row is not None
    costs, target, credential = (answer == "yes" for answer in row.groups()[1:])
    assert CONSEQUENCES[kind] == Consequence(WHEN[row[1]], costs, target, credential)


def test_waiting_for_a_limit_or_a_credential_costs_nothing() -> None:
    free = {kind for kind, follows in CONSEQUENCES.items() if not follows.costs_attempt}
    assert free == {ErrorKind.RATE_LIMITED, ErrorKind.AUTH}


def test_only_a_chat_that_is_gone_or_closed_is_dead() -> None:
    dead = {kind for kind, follows in CONSEQUENCES.items() if follows.target_dead}
    assert dead == {ErrorKind.TARGET_GONE, ErrorKind.FORBIDDEN}
