"""Start and ask the stub of `tests.bench.stub`."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from tests.processes import end, remove_folder, short_folder, spawn
from tests.waiting import wait_until

_STUB = Path(__file__).with_name("stub.py")


@dataclass(frozen=True, slots=True)
class Platform:
    """The stub, as whoever measures sees it."""

    url: str
    _client: httpx.Client = field(repr=False)

    def reset(self, *, latency_s: float = 0.0, note_length: int = 0) -> None:
        """Forget what came; answer after `latency_s` and note the starts of texts from now on."""
        wanted = {"latency_s": latency_s, "note_length": note_length}
        self._client.post("/_stub/reset", json=wanted).raise_for_status()

    def count(self) -> int:
        """Give how many messages came."""
        return int(self._client.get("/_stub/count").text)

    def arrivals(self) -> dict[str, float]:
        """Give when, on the monotonic clock of the machine, each noted start of a text came."""
        return dict(self._client.get("/_stub/arrivals").json())


@contextmanager
def running_platform() -> Iterator[Platform]:
    """Run the stub on a free port."""
    folder = short_folder("stub-")
    said = folder / "port"
    process = spawn([sys.executable, str(_STUB)], log=said)
    try:
        wait_until(lambda: said.read_text().endswith("\n"), what="the stub's port")
        url = f"http://127.0.0.1:{int(said.read_text())}"
        with httpx.Client(base_url=url) as client:
            yield Platform(url, client)
    finally:
        end(process)
        remove_folder(folder)
