"""The client against real sockets: what was certainly not sent, and what nobody can know."""

import asyncio
import gzip
import socket
from contextlib import suppress

import pytest

from worker.http import Client
from worker.platforms.base import Request
from worker.taxonomy import ErrorKind

SECRET = "123:secret"


def ask(url, *, allow_private=True, guarded=False):
    async def run():
        client = Client(allow_private=allow_private)
        try:
            return await client.send(
                Request("POST", url, {"content-type": "application/json"}, b"{}", guarded)
            )
        finally:
            await client.close()

    return asyncio.run(run())


def answered_by(behave, path="/"):
    """Send one request to a server that behaves so."""

    async def run():
        ended = asyncio.Event()

        async def serve(reader, writer):
            await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(2)
            await behave(writer)
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
            ended.set()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        client = Client(allow_private=True)
        try:
            url = f"http://127.0.0.1:{port}{path}"
            return await client.send(Request("POST", url, {}, b"{}"))
        finally:
            await client.close()
            await ended.wait()
            server.close()

    return asyncio.run(run())


def raw(answer):
    async def behave(writer):
        writer.write(answer)
        await writer.drain()

    return behave


async def hang(writer):
    await asyncio.sleep(1)


async def drop(writer):
    writer.transport.abort()


async def drop_halfway(writer):
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\n{")
    await writer.drain()
    writer.transport.abort()


def test_a_refused_connection_was_certainly_not_sent():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    failure = ask(f"http://127.0.0.1:{port}/bot{SECRET}/sendMessage")
    assert failure.kind is ErrorKind.TRANSIENT
    assert SECRET not in failure.text


def test_a_name_that_does_not_resolve_was_certainly_not_sent():
    assert ask("http://nowhere.invalid/").kind is ErrorKind.TRANSIENT


@pytest.mark.parametrize("behave", [drop, drop_halfway])
def test_a_connection_that_breaks_after_the_request_is_ambiguous(behave):
    failure = answered_by(behave, f"/bot{SECRET}/sendMessage")
    assert failure.kind is ErrorKind.AMBIGUOUS
    assert SECRET not in failure.text


def test_a_server_that_never_answers_is_ambiguous(monkeypatch):
    monkeypatch.setitem(Client.__init__.__kwdefaults__, "timeout_s", 0.2)
    assert answered_by(hang).kind is ErrorKind.AMBIGUOUS


def test_a_redirect_is_an_answer_and_not_followed():
    moved = b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"
    answer = answered_by(raw(moved))
    assert (answer.status, answer.headers["location"]) == (302, "http://127.0.0.1:1/")


def test_a_compressed_answer_is_read():
    body = gzip.compress(b'{"ok":true}')
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(body)
    assert answered_by(raw(head + body)).content == b'{"ok":true}'


def test_a_name_with_a_private_address_is_refused_where_a_stranger_named_it():
    failure = ask("http://localhost:9/hook", allow_private=False, guarded=True)
    assert failure.kind is ErrorKind.INVALID
    assert "private" in failure.text


def test_an_operators_own_address_may_be_private():
    assert ask("http://localhost:9/hook", allow_private=False).kind is ErrorKind.TRANSIENT


def test_nothing_that_is_logged_names_the_url(caplog):
    caplog.set_level(0)
    answered_by(raw(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"), f"/bot{SECRET}/sendMessage")
    assert SECRET not in caplog.text
