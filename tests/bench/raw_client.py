"""The limit: as many requests as one client can make. Run as a script; prints one JSON line.

Usage: raw_client.py httpx|aiohttp URL WARM_UP IN_FLIGHT, one body a line on the input
"""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from resource import RUSAGE_SELF, getrusage

import aiohttp
import httpx
import orjson
import uvloop
from httpx_aiohttp import AiohttpTransport

_HEADERS = {"content-type": "application/json"}
Post = Callable[[bytes], Awaitable[None]]


@asynccontextmanager
async def _httpx(url: str, in_flight: int) -> AsyncIterator[Post]:
    limits = httpx.Limits(max_connections=in_flight, max_keepalive_connections=in_flight)
    async with httpx.AsyncClient(transport=AiohttpTransport(limits=limits)) as client:

        async def post(body: bytes) -> None:
            response = await client.post(url, content=body, headers=_HEADERS)
            response.raise_for_status()

        yield post


@asynccontextmanager
async def _aiohttp(url: str, in_flight: int) -> AsyncIterator[Post]:
    connector = aiohttp.TCPConnector(limit=in_flight)
    jar = aiohttp.DummyCookieJar()
    async with aiohttp.ClientSession(connector=connector, cookie_jar=jar) as session:

        async def post(body: bytes) -> None:
            async with session.post(url, data=body, headers=_HEADERS) as response:
                response.raise_for_status()
                await response.read()

        yield post


async def _send(post: Post, bodies: list[bytes], in_flight: int) -> None:
    waiting = iter(bodies)

    async def sender() -> None:
        for body in waiting:
            await post(body)

    async with asyncio.TaskGroup() as group:
        for _ in range(in_flight):
            group.create_task(sender())


async def _run(client: str, url: str, warm_up: int, in_flight: int, bodies: list[bytes]) -> None:
    opened = {"httpx": _httpx, "aiohttp": _aiohttp}[client]
    async with opened(url, in_flight) as post:
        await _send(post, bodies[:warm_up], in_flight)
        before, started = getrusage(RUSAGE_SELF), time.monotonic()
        await _send(post, bodies[warm_up:], in_flight)
        seconds, after = time.monotonic() - started, getrusage(RUSAGE_SELF)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    sys.stdout.write(orjson.dumps({"seconds": seconds, "cpu_s": cpu_s}).decode() + "\n")


if __name__ == "__main__":
    client, url, warm_up, in_flight = sys.argv[1:5]
    bodies = sys.stdin.buffer.read().splitlines()
    uvloop.run(_run(client, url, int(warm_up), int(in_flight), bodies))
