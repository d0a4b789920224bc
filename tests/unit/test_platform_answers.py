import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.platforms import platforms
from worker.platforms.answers import failure
from worker.platforms.base import Response
from worker.taxonomy import ErrorKind, Failure, Receipt

JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**53), 2**53), st.text()),
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(), inner)),
    max_leaves=8,
)
NAMES = """ok result error_code description parameters retry_after message code errors global
    error ts id event_id errcode retry_after_ms message_id migrate_to_chat_id"""
KEYS = st.sampled_from(NAMES.split())


@given(st.integers(min_value=100, max_value=999), st.binary())
@pytest.mark.parametrize("name", list(platforms()))
def test_no_bytes_make_an_adapter_raise(name: str, status: int, content: bytes) -> None:
    outcome = platforms()[name].outcome(Response(status, {}, content))
    assert isinstance(outcome, Receipt | Failure)


@given(st.integers(min_value=100, max_value=999), st.dictionaries(KEYS, JSON))
@pytest.mark.parametrize("name", list(platforms()))
def test_no_json_makes_an_adapter_raise(name: str, status: int, body: dict[str, object]) -> None:
    outcome = platforms()[name].outcome(Response(status, {}, orjson.dumps(body)))
    if isinstance(outcome, Receipt):
        assert outcome.message_ids
        assert all(outcome.message_ids)
    else:
        assert outcome.http_status == status
        assert 0 < len(outcome.text) <= 500
        assert outcome.retry_after_s is None or outcome.retry_after_s >= 0


@pytest.mark.parametrize(
    "token",
    [
        "123456:AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw",
        "xoxb-17653672481-19874698323-pdFZKVeTuE8sk7oOcHrzqqgy",
        "MTk4NjIyNDgzNDcxOTI1MjQ4.Cl2FMQ.ZnCjm1XVW7vRze4b7Cq4se7kKWs",
        "syt_Ym90_abcdefghijklmnop_0aBcDe",
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    ],
)
def test_every_shape_of_credential_is_redacted(token: str) -> None:
    made = failure(Response(400, {}, b""), ErrorKind.INVALID, f"echo of {token} end")
    assert token not in made.text
    assert made.text.startswith("echo of ")
