"""What every platform's table leaves open has the same class everywhere."""

import orjson
import pytest

from worker.platforms import platforms
from worker.platforms.base import Response
from worker.taxonomy import CONSEQUENCES, Again, ErrorKind, Failure

NAMES = [name for name in platforms() if name != "console"]
#: An answer of each platform's own shape with a code and words that no table has.
NEW = {
    "telegram": {"ok": False, "description": "Bad Request: NOBODY_HAS_SEEN_THIS"},
    "discord": {"code": 987_654, "message": "nobody has seen this"},
    "slack": {"ok": False, "error": "nobody_has_seen_this"},
    "matrix": {"errcode": "ORG.NEW", "error": "nobody has seen this"},
    "webhook": {"error": "nobody has seen this"},
}
DATES = {
    "retry-after": "Tue, 24 Nov 2026 12:01:30 GMT",
    "date": "Tue, 24 Nov 2026 12:00:00 GMT",
}


def failed(name: str, status: int, content: bytes = b"", **headers: str) -> Failure:
    named = {header.replace("_", "-"): value for header, value in headers.items()}
    outcome = platforms()[name].outcome(Response(status, named, content))
    assert isinstance(outcome, Failure)
    return outcome


@pytest.mark.parametrize("status", [400, 403, 405, 409, 418, 422, 425, 451])
@pytest.mark.parametrize("name", NAMES)
def test_what_no_table_knows_is_tried_again_and_kills_nothing(name: str, status: int) -> None:
    for content in (orjson.dumps(NEW[name]), b"<html>", b""):
        failure = failed(name, status, content)
        assert failure.kind is ErrorKind.UNKNOWN_ERROR
        follows = CONSEQUENCES[failure.kind]
        assert follows.again is Again.BY_SCHEDULE
        assert not follows.target_dead
        assert not follows.credential_dead


@pytest.mark.parametrize("status", [500, 502, 503, 504, 520, 521, 522, 523, 524, 599])
@pytest.mark.parametrize("name", NAMES)
def test_a_5xx_may_have_been_taken(name: str, status: int) -> None:
    for content in (orjson.dumps(NEW[name]), b"<html>", b""):
        assert failed(name, status, content).kind is ErrorKind.AMBIGUOUS


@pytest.mark.parametrize("name", NAMES)
def test_no_redirect_is_followed_or_taken_for_a_receipt(name: str) -> None:
    for status in (301, 302, 303, 307, 308):
        assert failed(name, status).kind in {ErrorKind.UNKNOWN_ERROR, ErrorKind.INVALID}


@pytest.mark.parametrize("name", NAMES)
def test_a_429_is_a_limit_and_its_date_is_read(name: str) -> None:
    for content in (orjson.dumps(NEW[name]), b"<html>", b""):
        failure = failed(name, 429, content, **DATES)
        assert (failure.kind, failure.retry_after_s) == (ErrorKind.RATE_LIMITED, 90.0)


@pytest.mark.parametrize("name", NAMES)
def test_a_503_that_says_when_to_come_again_was_not_taken(name: str) -> None:
    failure = failed(name, 503, **DATES)
    assert (failure.kind, failure.retry_after_s) == (ErrorKind.TRANSIENT, 90.0)
