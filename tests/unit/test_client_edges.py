"""The client at its edges: answers that cannot be read, addresses that lead elsewhere."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, closing, suppress

import pytest
import structlog
from aiohttp import ThreadedResolver
from aiohttp.abc import ResolveResult

from worker.http import Client
from worker.platforms.base import Request, Response
from worker.taxonomy import ErrorKind, Failure

TOKEN = "110201543:AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw"
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def request(url: str, *, guarded: bool = False) -> Request:
    return Request("POST", url, {"content-type": "application/json"}, b'{"a":1}', guarded)


def answering(raw: bytes) -> Handler:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b'{"a":1}')
        writer.write(raw)
        await writer.drain()

    return answer


def response(status: str, body: bytes = b"", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"content-length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


async def dropping(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Take the whole request, as a platform that accepted it, and say nothing."""
    await reader.readuntil(b'{"a":1}')


async def hanging(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Take the request and keep the connection open until the client has enough."""
    await reader.read()


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[str]:
    """Give the address of a server that ends with every connection it took."""
    taken: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        taken.add(task)
        with suppress(OSError, asyncio.IncompleteReadError):
            await handler(reader, writer)
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        await asyncio.gather(*taken)


async def _ask(
    handler: Handler, path: str, *, guarded: bool, allow_private: bool
) -> Response | Failure:
    async with serving(handler) as base:
        client = Client(allow_private=allow_private)
        try:
            return await client.send(request(f"{base}{path}", guarded=guarded))
        finally:
            await client.close()


def ask(
    handler: Handler, path: str = "/", *, guarded: bool = False, allow_private: bool = False
) -> Response | Failure:
    return asyncio.run(_ask(handler, path, guarded=guarded, allow_private=allow_private))


def send(url: str, *, guarded: bool = False, allow_private: bool = False) -> Response | Failure:
    async def sent() -> Response | Failure:
        client = Client(allow_private=allow_private)
        try:
            return await client.send(request(url, guarded=guarded))
        finally:
            await client.close()

    return asyncio.run(sent())


def kind(answer: Response | Failure) -> ErrorKind:
    assert isinstance(answer, Failure)
    return answer.kind


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(Client.__init__.__kwdefaults__, "timeout_s", 0.2)


@pytest.fixture
def refused_port() -> Iterator[int]:
    """A port that is taken and does not listen: nobody else can begin to answer on it."""
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@pytest.fixture
def local_name(monkeypatch: pytest.MonkeyPatch) -> str:
    """A public-looking name whose address is this machine's, as an attacker's DNS would say."""

    async def resolve(
        _self: ThreadedResolver, host: str, port: int = 0, family: int = socket.AF_INET
    ) -> list[ResolveResult]:
        return [
            ResolveResult(
                hostname=host,
                host="127.0.0.1",
                port=port,
                family=socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
        ]

    monkeypatch.setattr(ThreadedResolver, "resolve", resolve)
    return "hooks.example.org"


def test_an_answer_comes_back_with_its_headers_in_lower_case() -> None:
    answer = ask(answering(response("429 Too Many Requests", b"{}", "Retry-After: 7")))
    assert isinstance(answer, Response)
    assert (answer.status, answer.content) == (429, b"{}")
    assert answer.headers["retry-after"] == "7"


def test_an_answer_that_is_no_http_is_ambiguous() -> None:
    assert kind(ask(answering(b"hello\r\n\r\n"))) is ErrorKind.AMBIGUOUS


@pytest.mark.usefixtures("impatient")
def test_an_answer_that_never_ends_is_ambiguous() -> None:
    async def trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{")
        await reader.read()

    assert kind(ask(trickle)) is ErrorKind.AMBIGUOUS


@pytest.mark.parametrize("guarded", [False, True])
@pytest.mark.parametrize(
    "url", ["nonsense", "http://", "ftp://example.org/", f"http://{'a' * 64}.org/", "http://[::1/"]
)
def test_what_is_no_address_is_invalid_and_breaks_nothing(url: str, guarded: bool) -> None:
    assert kind(send(url, guarded=guarded)) is ErrorKind.INVALID


def test_a_private_address_is_refused_where_a_user_names_the_url() -> None:
    reached: list[bool] = []

    async def note(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reached.append(True)

    assert kind(ask(note, guarded=True)) is ErrorKind.INVALID
    assert reached == []


def test_a_name_that_leads_to_a_private_address_is_refused(
    refused_port: int, local_name: str
) -> None:
    url = f"http://{local_name}:{refused_port}/"
    assert kind(send(url, guarded=True)) is ErrorKind.INVALID
    # The same name without the guard gets as far as the port.
    assert kind(send(url)) is ErrorKind.TRANSIENT


def test_a_private_address_is_reached_where_that_is_allowed() -> None:
    answer = ask(answering(response("200 OK")), guarded=True, allow_private=True)
    assert isinstance(answer, Response)


@pytest.mark.parametrize("guarded", [False, True])
def test_a_redirect_is_an_answer_and_is_not_followed(guarded: bool) -> None:
    asked: list[bytes] = []

    async def redirect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b'{"a":1}'))
        writer.write(response("302 Found", b"", "location: /elsewhere"))

    answer = ask(redirect, guarded=guarded, allow_private=True)
    assert isinstance(answer, Response)
    assert answer.status == 302
    assert len(asked) == 1


def test_an_answer_that_cannot_be_unpacked_is_ambiguous() -> None:
    broken = response("200 OK", b"no gzip", "content-encoding: gzip")
    assert kind(ask(answering(broken))) is ErrorKind.AMBIGUOUS


def test_cookies_are_not_kept() -> None:
    heads: list[bytes] = []

    async def with_cookie(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(2):
            heads.append(await reader.readuntil(b'{"a":1}'))
            writer.write(response("200 OK", b"", "set-cookie: a=b; Path=/"))

    async def twice() -> None:
        async with serving(with_cookie) as base:
            client = Client(allow_private=False)
            for _ in range(2):
                assert isinstance(await client.send(request(base)), Response)
            await client.close()

    asyncio.run(twice())
    # Both came over the one connection, which is kept warm.
    assert len(heads) == 2
    assert b"cookie" not in heads[1].lower()


@pytest.mark.usefixtures("impatient")
def test_neither_a_failure_nor_a_log_line_shows_the_address(
    refused_port: int,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = f"/bot{TOKEN}/sendMessage"
    cut = response("200 OK", b"{}").removesuffix(b"}")
    with caplog.at_level(logging.DEBUG), structlog.testing.capture_logs() as events:
        answers = [
            send(f"http://127.0.0.1:{refused_port}{path}"),
            send(f"http://nowhere.invalid{path}"),
            send(f"ftp://example.org{path}"),
            send(f"http://{'a' * 64}.org{path}"),
            ask(dropping, path),
            ask(hanging, path),
            ask(answering(cut), path),
            ask(answering(b"hello\r\n\r\n"), path),
            ask(answering(response("200 OK", b"no gzip", "content-encoding: gzip")), path),
            ask(dropping, path, guarded=True),
        ]
    assert all(isinstance(answer, Failure) for answer in answers)
    told = capsys.readouterr()
    said = f"{answers} {caplog.text} {events} {told.out} {told.err}"
    assert TOKEN not in said
    assert "sendMessage" not in said
