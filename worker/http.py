"""The one client of a worker process: warm, shared, and as old as the process.

It is spoken to through httpx's transport interface and not through `httpx.AsyncClient`: the
client's redirects, cookies and authentication are of no use here, cost more than a third of
a send, and its log line and exceptions carry the URL, which for Telegram is the token.
"""

import asyncio
import socket
import sys
from functools import lru_cache
from ipaddress import ip_address

import aiohttp
import httpx
import orjson
from aiohttp.abc import AbstractResolver, ResolveResult
from httpx_aiohttp import AiohttpTransport

from worker import failpoints
from worker.platforms.addresses import forbidden_address, literal_address
from worker.platforms.base import Request, Response
from worker.taxonomy import ErrorKind, Failure

#: Seconds to connect; what fails here was certainly not sent.
_CONNECT_TIMEOUT_S = 5.0
_KEEPALIVE_S = 30.0
#: Bytes of an answer that are read; receipts and errors are far smaller.
_MAX_ANSWER = 1_000_000
_PRIVATE = Failure(ErrorKind.INVALID, "the address is private: name a public host")


class PrivateAddress(OSError):
    """A user-supplied URL leads to an address that is not public."""


class GuardedResolver(AbstractResolver):
    """Resolve names for user-supplied URLs and refuse the private ones.

    The address that was checked is the one that is connected to, so a name cannot change
    in between.
    """

    def __init__(self) -> None:
        self._resolver = aiohttp.ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Give the addresses of a host; raise `PrivateAddress` if any is not public."""
        found = await self._resolver.resolve(host, port, family)
        if any(forbidden_address(ip_address(each["host"].split("%")[0])) for each in found):
            raise PrivateAddress(f"{host} has a private address")
        return found

    async def close(self) -> None:
        """Release nothing: the resolver keeps nothing."""


class Client:
    """Send requests; create it on the loop that uses it.

    Args:
        timeout_s: Seconds for a whole answer.

    """

    def __init__(self, *, allow_private: bool, timeout_s: float = 10.0) -> None:
        self._timeout_s = timeout_s
        self._extensions = {"timeout": {"connect": _CONNECT_TIMEOUT_S, "read": timeout_s}}
        self._allow_private = allow_private
        self._open = _transport(None)
        self._guarded = self._open if allow_private else _transport(GuardedResolver())

    async def send(self, request: Request) -> Response | Failure:
        """Give the platform's answer, or the failure that kept it from coming."""
        if request.url.startswith("console:"):
            return _print(request)
        transport = self._guarded if request.guarded else self._open
        try:
            url = _url(request.url)
            if request.guarded and not self._allow_private and _is_private_literal(url.host):
                return _PRIVATE
            # With a stream of its own httpx adds no headers, which costs it a tenth of a send;
            # aiohttp adds the same ones.
            outgoing = httpx.Request(
                request.method,
                url,
                headers=request.headers,
                stream=httpx.ByteStream(request.content),
                extensions=self._extensions,
            )
            outgoing.read()
            async with asyncio.timeout(self._timeout_s):
                answer = await transport.handle_async_request(outgoing)
                content = await _read(answer)
        except TimeoutError:
            return Failure(ErrorKind.AMBIGUOUS, f"no answer within {self._timeout_s:g} s")
        except (
            httpx.InvalidURL,
            httpx.RequestError,
            aiohttp.ClientError,
            OSError,
            UnicodeError,
        ) as error:
            return not_answered(error)
        headers = {k.decode("latin-1").lower(): v.decode("latin-1") for k, v in answer.headers.raw}
        return Response(answer.status_code, headers, content[:_MAX_ANSWER])

    async def close(self) -> None:
        """Close the connections."""
        await self._open.aclose()
        await self._guarded.aclose()


async def _read(answer: httpx.Response) -> bytes:
    """Read a body; past httpx's decoders where there is nothing to decode."""
    try:
        if "content-encoding" in answer.headers:
            return await answer.aread()
        stream = answer.stream
        assert isinstance(stream, httpx.AsyncByteStream)  # noqa: S101 - an asynchronous transport
        return b"".join([chunk async for chunk in stream])
    finally:
        await answer.aclose()


def not_answered(error: BaseException) -> Failure:
    """Classify a send that got no answer: certainly not sent, or nobody can know.

    The transport maps a connection that broke after the request was written to
    `httpx.ConnectTimeout`, so the cause decides and not the mapped exception. The text
    names no address: it may hold a token.
    """
    cause = error.__cause__ or error
    name = type(cause).__name__
    if isinstance(cause, aiohttp.ClientConnectorError) and isinstance(
        cause.os_error, PrivateAddress
    ):
        return _PRIVATE
    if isinstance(error, httpx.InvalidURL | httpx.UnsupportedProtocol | aiohttp.InvalidURL):
        return Failure(ErrorKind.INVALID, "the address is not a URL")
    if isinstance(error, UnicodeError):
        # A label of a name that no name server takes, or a header that is not Latin.
        return Failure(ErrorKind.INVALID, "the address or a header cannot be written")
    if isinstance(error, httpx.DecodingError):
        return Failure(ErrorKind.AMBIGUOUS, "the answer cannot be unpacked")
    if isinstance(
        cause,
        (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, ConnectionRefusedError),
    ):
        return Failure(ErrorKind.TRANSIENT, f"no connection ({name})")
    return Failure(ErrorKind.AMBIGUOUS, f"the connection broke before an answer came ({name})")


def _transport(resolver: AbstractResolver | None) -> AiohttpTransport:
    transport = AiohttpTransport()
    transport.client = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(
            # Who sends is limited by platform: one that hangs must not hold the others' up here.
            limit=0,
            ssl=transport.ssl_context,
            resolver=resolver,
            keepalive_timeout=_KEEPALIVE_S,
            ttl_dns_cache=30,
        ),
        cookie_jar=aiohttp.DummyCookieJar(),
        trace_configs=[_failing()] if failpoints.ARMED else None,
    )
    return transport


def _failing() -> aiohttp.TraceConfig:
    """Give the fail-points inside a request."""

    async def written(*_: object) -> None:
        failpoints.reach("in_request")
        # The loop hands what was written to the kernel in its next round.
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        failpoints.reach("request_written")

    trace = aiohttp.TraceConfig()
    trace.on_request_chunk_sent.append(written)
    return trace


def _is_private_literal(host: str) -> bool:
    """Tell of a host that is an address, which is never resolved, whether it is private."""
    address = literal_address(host)
    return address is not None and forbidden_address(address)


@lru_cache(maxsize=4096)
def _url(url: str) -> httpx.URL:
    return httpx.URL(url)


def _print(request: Request) -> Response:
    """Answer for the `console` platform, whose network is this process's output."""
    body = orjson.loads(request.content)
    sys.stdout.write(f"[{body['chat']}] {body['text']}\n")
    sys.stdout.flush()
    return Response(200, {}, orjson.dumps({"id": body["id"]}))
