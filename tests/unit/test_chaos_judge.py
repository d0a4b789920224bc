"""The judge of the chaos bench sees what is wrong, and only that."""

from dataclasses import replace

from tests.chaos.judge import Arrived, Row, arrivals, judge
from tests.chaos.load import Asked, Way

_TELEGRAM = Asked(
    1, Way.ENQUEUE, "telegram", "7", "telegram:7", "one", "k1", 0.0, "reply", ordered=True
)
_NEXT = replace(_TELEGRAM, n=2, text="two", key="k2")
_MATRIX = Asked(3, Way.TASK, "matrix", "!r:x", "matrix:!r:x", "three", "k3", 0.0)


def _row(asked: Asked, **changed: object) -> Row:
    sent = Row(
        id=f"id{asked.n}",
        key=asked.key,
        target=asked.target,
        text=asked.text,
        state="sent",
        seq=asked.n,
        policy=asked.policy,
        attempts_used=1,
        maybe_duplicate=False,
        receipt=("1",),
        mirror="done",
        ambiguous=0,
        mirrors=1,
    )
    return replace(sent, **changed)  # type: ignore[arg-type]  # the fields of a row


def _arrived(asked: Asked) -> Arrived:
    return Arrived(asked.platform, asked.chat, asked.text, "1")


def _kinds(asked: list[Asked], rows: list[Row], arrived: list[Arrived]) -> list[str]:
    return list(judge(asked, rows, arrived).wrong)


def test_all_is_right_when_each_arrived_once() -> None:
    asked = [_TELEGRAM, _NEXT, _MATRIX]
    assert _kinds(asked, [_row(a) for a in asked], [_arrived(a) for a in asked]) == []


def test_what_has_no_row_is_lost() -> None:
    assert _kinds([_TELEGRAM], [], []) == ["lost"]


def test_what_is_sent_and_did_not_arrive_is_lost() -> None:
    assert _kinds([_TELEGRAM], [_row(_TELEGRAM)], []) == ["lost"]


def test_what_failed_is_lost() -> None:
    assert _kinds([_MATRIX], [_row(_MATRIX, state="failed", mirrors=0)], []) == ["lost"]


def test_what_has_not_ended_is_stuck() -> None:
    assert _kinds([_MATRIX], [_row(_MATRIX, state="held", mirrors=0)], []) == ["stuck"]


def test_a_second_copy_where_the_platform_could_have_known_is_one_too_many() -> None:
    doubtful = _row(_MATRIX, ambiguous=1, maybe_duplicate=True)
    assert _kinds([_MATRIX], [doubtful], [_arrived(_MATRIX)] * 2) == ["doubled"]


def test_a_second_copy_elsewhere_has_to_be_marked() -> None:
    twice = [_arrived(_TELEGRAM)] * 2
    assert _kinds([_TELEGRAM], [_row(_TELEGRAM, ambiguous=1)], twice) == ["unmarked"]
    marked = _row(_TELEGRAM, ambiguous=1, maybe_duplicate=True)
    assert judge([_TELEGRAM], [marked], twice).marked == 1
    assert _kinds([_TELEGRAM], [marked], twice) == []


def test_more_copies_than_doubtful_attempts_are_too_many() -> None:
    marked = _row(_TELEGRAM, ambiguous=1, maybe_duplicate=True)
    assert _kinds([_TELEGRAM], [marked], [_arrived(_TELEGRAM)] * 3) == ["doubled"]


def test_at_most_once_is_never_twice() -> None:
    held = replace(_TELEGRAM, policy="hold")
    row = _row(held, ambiguous=1, maybe_duplicate=True)
    assert _kinds([held], [row], [_arrived(held)] * 2) == ["doubled"]


def test_an_unknown_end_is_right_for_at_most_once_only() -> None:
    held = replace(_TELEGRAM, policy="hold")
    unknown = {"state": "unknown", "ambiguous": 1, "mirrors": 0}
    assert _kinds([held], [_row(held, **unknown)], []) == []
    assert _kinds([_TELEGRAM], [_row(_TELEGRAM, **unknown)], []) == ["lost"]


def test_one_that_overtook_is_out_of_order() -> None:
    asked = [_TELEGRAM, _NEXT]
    rows = [_row(a) for a in asked]
    assert _kinds(asked, rows, [_arrived(_NEXT), _arrived(_TELEGRAM)]) == ["order"]


def test_a_mirror_belongs_to_what_was_sent() -> None:
    assert _kinds([_MATRIX], [_row(_MATRIX, mirrors=0)], [_arrived(_MATRIX)]) == ["mirror"]
    held = replace(_TELEGRAM, policy="hold")
    unknown = _row(held, state="unknown", ambiguous=1, mirrors=1)
    assert _kinds([held], [unknown], []) == ["mirror"]


def test_what_nobody_asked_for_is_seen() -> None:
    assert _kinds([], [], [_arrived(_MATRIX)]) == ["unasked"]
    assert _kinds([], [_row(_MATRIX)], []) == ["unasked"]


def test_a_receiver_of_webhooks_knows_the_ids_it_has_seen() -> None:
    first = {"chat": "h", "text": "t", "id": "1", "nonce": "d1"}
    found = arrivals({"webhook": [first, {**first, "id": "2"}]}, [])
    assert [a.id for a in found] == ["1"]


def test_what_was_right_must_not_be_refused() -> None:
    verdict = judge([_MATRIX], [_row(_MATRIX)], [_arrived(_MATRIX)], ["at lies in the past"])
    assert list(verdict.wrong) == ["refused"]
