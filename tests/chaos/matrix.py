"""A Matrix homeserver of one request: it takes events, once for each transaction id.

The sandbox has none. In a thread of the bench, so what it took is at hand.
"""

import random
import secrets
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

import orjson

#: `/_matrix/client/v3/rooms/{room}/send/m.room.message/{transaction}`
_ROOM, _TRANSACTION = 5, 8


class Homeserver:
    """Take events until it is closed.

    Attributes:
        taken: Room, text and event id of what a reader sees, in order.
        fault: What goes wrong now, in the sandbox's words; `None` for nothing.
        answers_in_s: How long it takes at most to accept an event.
        token: The access token of the run. What an ended run's workers sent may be read only
            now, and is no event of this one.
    """

    def __init__(self) -> None:
        self.taken: list[tuple[str, str, str]] = []
        self.fault: str | None = None
        self.answers_in_s = 0.0
        self.token = ""
        self._known: dict[tuple[str, str], str] = {}
        self._lock = threading.Lock()
        self._closing = threading.Event()
        homeserver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_PUT(self) -> None:
                homeserver._put(self)

            def log_message(self, *_: object) -> None: ...

        self._server = _Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def forget(self) -> None:
        """Begin anew, with another token."""
        with self._lock:
            self.token = f"mx-chaos-{secrets.token_hex(4)}"
            self.fault = None
            self.taken.clear()
            self._known.clear()

    def close(self) -> None:
        """Stop answering."""
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _put(self, handler: BaseHTTPRequestHandler) -> None:
        path = handler.path.split("/")
        body = orjson.loads(handler.rfile.read(int(handler.headers["content-length"])))
        fault = self.fault
        if fault in {"500", "429"}:
            self._answer(handler, int(fault), {"errcode": _ERRORS[fault], "retry_after_ms": 700})
            return
        self._closing.wait(random.uniform(0, self.answers_in_s))
        if handler.headers["authorization"] != f"Bearer {self.token}":
            self._answer(handler, 401, {"errcode": "M_UNKNOWN_TOKEN"})
            return
        event = self._take(unquote(path[_ROOM]), unquote(path[_TRANSACTION]), body["body"])
        if fault in {"hang", "drop"}:
            if fault == "hang":
                self._closing.wait(10.0)
            handler.close_connection = True
            return
        self._answer(handler, 200, {"event_id": event})

    def _take(self, room: str, transaction: str, text: str) -> str:
        with self._lock:
            known = self._known.get((room, transaction))
            if known is None:
                known = self._known[room, transaction] = f"$event{len(self.taken)}"
                self.taken.append((room, text, known))
            return known

    def _answer(self, handler: BaseHTTPRequestHandler, status: int, body: object) -> None:
        content = orjson.dumps(body)
        handler.send_response(status)
        handler.send_header("content-type", "application/json")
        handler.send_header("content-length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)


class _Server(ThreadingHTTPServer):
    """Serve clients that may be killed at any time."""

    daemon_threads = True
    #: With the library's five a burst overflows the queue, and the kernel hands in seconds later
    #: what its client has long given up.
    request_queue_size = 1024

    def handle_error(self, *_: object) -> None:
        """Say nothing of a client that is gone."""


_ERRORS = {"500": "M_UNKNOWN", "429": "M_LIMIT_EXCEEDED"}
