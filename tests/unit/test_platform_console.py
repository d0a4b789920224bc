import orjson

from worker.platforms.base import Bot, Message, Response
from worker.platforms.console import Console
from worker.taxonomy import ErrorKind, Failure, Receipt

CONSOLE = Console()


def test_a_request_is_what_the_transport_prints() -> None:
    request = CONSOLE.request(Message("d1", "my room/1", "hello", 1), Bot("console", "", {}))
    assert (request.method, request.url) == ("POST", "console:///my%20room%2F1")
    assert orjson.loads(request.content) == {"id": "d1", "text": "hello", "chat": "my room/1"}


def test_it_needs_no_credential() -> None:
    assert CONSOLE.variables == ()


def test_any_printable_label_is_a_chat() -> None:
    for label in ("me", "a:b#c", "café 9"):
        assert CONSOLE.check_chat(label) is None, label
    for label in ("", " ", "a\nb", "\x1b[2J", "x" * 201):
        assert CONSOLE.check_chat(label) is not None, label


def test_the_transports_id_is_the_receipt() -> None:
    assert CONSOLE.outcome(Response(200, {}, b'{"id":"d1"}')) == Receipt(("d1",))


def test_an_answer_without_an_id_is_no_receipt() -> None:
    outcome = CONSOLE.outcome(Response(200, {}, b"{}"))
    assert isinstance(outcome, Failure)
    assert outcome.kind is ErrorKind.AMBIGUOUS
