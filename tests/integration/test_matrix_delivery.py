"""A real worker and a real Matrix homeserver, also when the worker dies between the two."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from urllib.parse import urlsplit

import pytest

from tests.synapse import Homeserver, running_homeserver
from tests.waiting import wait_until
from tests.workers import DATABASES, Site, running_site


class Tearing:
    """A TCP proxy that, when it is armed, withholds one answer and does something instead."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._instead: Callable[[], None] | None = None
        self.torn: list[bytes] = []
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def arm(self, instead: Callable[[], None]) -> None:
        """Withhold the next answer and call this instead of passing it on."""
        self._instead = instead

    def close(self) -> None:
        """End every connection and thread."""
        # Closing alone does not wake a thread that waits in accept.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for each in list(self._open):
            _end(each)
        for thread in self._threads:
            thread.join(timeout=10)
        for each in self._open:
            each.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._target))
            self._open += [client, server]
            for source, sink, answers in ((client, server, False), (server, client, True)):
                thread = threading.Thread(target=self._pump, args=(source, sink, answers))
                self._threads.append(thread)
                thread.start()

    def _pump(self, source: socket.socket, sink: socket.socket, answers: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if answers and self._instead is not None:
                    instead, self._instead = self._instead, None
                    self.torn.append(data)
                    instead()
                    break
                sink.sendall(data)
        _end(source)
        _end(sink)


def _end(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


@pytest.fixture(scope="module")
def homeserver() -> Iterator[Homeserver]:
    with running_homeserver() as running:
        yield running


@pytest.fixture
def proxy(homeserver: Homeserver) -> Iterator[Tearing]:
    tearing = Tearing(urlsplit(homeserver.base_url).port or 0)
    yield tearing
    tearing.close()


@pytest.fixture(params=DATABASES)
def site(request: pytest.FixtureRequest, homeserver: Homeserver, proxy: Tearing) -> Iterator[Site]:
    variables = {"MATRIX_HOMESERVER": proxy.url, "MATRIX_ACCESS_TOKEN": homeserver.bot.token}
    with running_site(request, request.param, variables) as site:
        yield site


def test_a_delivery_is_read_back_by_another_account_and_mirrored(
    site: Site, homeserver: Homeserver
) -> None:
    room = homeserver.new_room()
    site.resolver.link("matrix", room, "alice")

    with site.worker():
        id_ = site.enqueue(f"matrix:{room}", "Stand-up in 5", source="cron")
        row = site.reaches(id_, "sent")

    (event,) = homeserver.messages(room)
    assert homeserver.texts(room) == ["Stand-up in 5"]
    assert event["sender"] == homeserver.bot.user_id
    assert row.receipt == [event["event_id"]]
    (mirror,) = site.messages("alice")
    assert (mirror.content, mirror.mirror_source) == ("Stand-up in 5", "cron")
    assert mirror.platform_message_ids == (event["event_id"],)


def test_a_worker_killed_between_the_answer_and_the_settle_makes_one_event(
    site: Site, homeserver: Homeserver, proxy: Tearing
) -> None:
    room = homeserver.new_room()
    with site.worker() as worker:
        proxy.arm(worker.kill)
        id_ = site.enqueue(f"matrix:{room}", "once")
        wait_until(lambda: worker.process.poll() is not None, what="the worker killed")
    # The homeserver has it, nobody here knows.
    (answer,) = proxy.torn
    assert answer.startswith(b"HTTP/1.1 200")
    assert homeserver.texts(room) == ["once"]
    assert site.delivery(id_).state == "sending"
    assert site.messages(f"matrix:{room}") == []

    with site.scheduler(), site.worker():
        site.make_due(id_)
        row = site.reaches(id_, "sent")

    (event,) = homeserver.messages(room)
    assert str(event["event_id"]).encode() in answer
    assert (row.receipt, row.maybe_duplicate) == ([event["event_id"]], False)
    assert [a.outcome for a in site.attempts(id_)] == ["ambiguous", "sent"]
    assert [m.content for m in site.messages(f"matrix:{room}")] == ["once"]
