"""A platform that answers at once: Telegram's `sendMessage` on loopback, as light as Python can.

A process of its own, run as a script; `tests.bench.loopback` starts and asks it. It parses
just enough to count a message, and notes when the first so many bytes of each text came.

    POST any path          200, {"ok": true, "result": {"message_id": n}}
    POST /_stub/reset      forget what came; the body is {"latency_s", "note_length"}
    GET  /_stub/count      how many messages came
    GET  /_stub/arrivals   [start of the text, CLOCK_MONOTONIC seconds] of each, if noted
"""

import asyncio
import re
import sys
import time
from typing import cast

import orjson
import uvloop

_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_TEXT = b'"text":"'


class Board:
    """What came since the last reset."""

    def __init__(self) -> None:
        self.count = 0
        self.latency_s = 0.0
        #: Characters of each text to keep with its time; 0 keeps nothing.
        self.note_length = 0
        self.arrivals: list[tuple[str, float]] = []

    def reset(self, body: bytes) -> None:
        wanted = orjson.loads(body)
        self.count = 0
        self.latency_s = wanted["latency_s"]
        self.note_length = wanted["note_length"]
        self.arrivals = []

    def note(self, body: bytes) -> None:
        start = body.index(_TEXT) + len(_TEXT)
        text = body[start : start + self.note_length].decode()
        self.arrivals.append((text, time.monotonic()))


class Connection(asyncio.Protocol):
    """One keep-alive connection; requests may be cut anywhere or come several at once."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not asserted: uvloop's transports are not asyncio's classes.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer + data if self._buffer else data
        while True:
            head = buffer.find(b"\r\n\r\n")
            if head < 0:
                break
            length = _LENGTH.search(buffer, 0, head)
            end = head + 4 + (int(length[1]) if length else 0)
            if len(buffer) < end:
                break
            self._answer(buffer[: buffer.index(b"\r\n")], buffer[head + 4 : end])
            buffer = buffer[end:]
        self._buffer = buffer

    def _answer(self, line: bytes, body: bytes) -> None:
        board = self._board
        if b" /_stub/" in line:
            self._transport.write(_response(_control(board, line, body)))
            return
        if board.note_length:
            board.note(body)
        board.count += 1
        answer = _response(b'{"ok":true,"result":{"message_id":%d}}' % board.count)
        if board.latency_s:
            loop = asyncio.get_running_loop()
            loop.call_later(board.latency_s, self._transport.write, answer)
        else:
            self._transport.write(answer)


def _control(board: Board, line: bytes, body: bytes) -> bytes:
    if b"/_stub/reset" in line:
        board.reset(body)
        return b"{}"
    if b"/_stub/arrivals" in line:
        return orjson.dumps(board.arrivals)
    return b"%d" % board.count


def _response(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (
        len(body),
        body,
    )


async def _serve() -> None:
    board = Board()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(board), "127.0.0.1", 0, backlog=1024)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve())
