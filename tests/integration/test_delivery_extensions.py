"""What users add to the worker: a resolver of their own, a platform of their own, webhooks."""

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from standardwebhooks import Webhook

from tests.workers import Site, running_site
from worker.errors import Refused
from worker.intake import check
from worker.platforms.webhook import EVENT_TYPE
from worker.settings import settings

_SECRET = "whsec_" + base64.b64encode(b"a key of thirty-two bytes, good.").decode()
_RESOLVER = """
from resolvers import IdentityLink, get_session_context

class Directory:
    def resolve(self, platform, platform_user_id):
        context = get_session_context()
        if platform_user_id == "7001":
            raise RuntimeError("the directory is down")
        return f"{context.platform}/{context.chat_id}/{context.thread_id}/{context.user_id}"

    def link(self, platform, platform_user_id, unified_user_id):
        raise NotImplementedError

    def unlink(self, platform, platform_user_id):
        raise NotImplementedError

    def links_for(self, unified_user_id):
        if unified_user_id == "trouble":
            raise RuntimeError("the directory is down")
        assert get_session_context().unified_user_id == unified_user_id
        return [IdentityLink("telegram", "7003", unified_user_id)]
"""
_CARRIER = """
import json
from worker.platforms.base import Capability, Request, Variable
from worker.taxonomy import ErrorKind, Failure, Receipt

class Carrier:
    name = "carrier"
    capability = Capability(max_length=40)
    variables = (Variable("CARRIER_KEY"), Variable("CARRIER_API_BASE", secret=False))

    def check_chat(self, chat_id):
        return None if chat_id.startswith("loft-") else "a carrier flies to loft-NAME"

    def request(self, message, bot):
        body = json.dumps({"loft": message.chat_id, "note": message.text}).encode()
        headers = {"x-key": bot.values["CARRIER_KEY"]}
        return Request("POST", bot.values["CARRIER_API_BASE"] + "/fly", headers, body)

    def outcome(self, response):
        if response.status == 200:
            return Receipt((json.loads(response.content)["ring"],))
        return Failure(ErrorKind.TARGET_GONE, "no such loft", http_status=response.status)
"""


@pytest.fixture(scope="module")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for PYTHONPATH with a resolver and an installed platform."""
    folder = tmp_path_factory.mktemp("plugins")
    (folder / "phonebook.py").write_text(_RESOLVER)
    (folder / "carrier_platform.py").write_text(_CARRIER)
    info = folder / "carrier_platform-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: carrier-platform\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[mirrorpost.platforms]\ncarrier = carrier_platform:Carrier\n"
    )
    return folder


class Loft(ThreadingHTTPServer):
    """Where carriers fly to."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Landing)
        self.notes: list[tuple[str | None, dict[str, str]]] = []


class _Landing(BaseHTTPRequestHandler):
    server: Loft

    def do_POST(self) -> None:
        note = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.notes.append((self.headers["x-key"], note))
        known = note["loft"] != "loft-burnt"
        body = json.dumps({"ring": f"ring-{len(self.server.notes)}"}).encode() if known else b""
        self.send_response(200 if known else 404)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the interface
        """Keep the test's output quiet."""


@pytest.fixture(scope="module")
def loft() -> Iterator[Loft]:
    with Loft() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def site(request: pytest.FixtureRequest, plugins: Path, loft: Loft) -> Iterator[Site]:
    variables = {
        "PYTHONPATH": str(plugins),
        "MIRRORPOST_RESOLVER": "phonebook:Directory",
        "CARRIER_KEY": "coo-coo-4711",
        "CARRIER_API_BASE": f"http://127.0.0.1:{loft.server_port}",
        "MIRRORPOST_WEBHOOK_SECRET": _SECRET,
        "MIRRORPOST_WEBHOOK_ALLOW_PRIVATE": "1",
    }
    with running_site(request, "sqlite", variables) as site, site.worker():
        yield site


def test_a_resolver_of_ones_own_reads_for_whom_it_is_asked(site: Site) -> None:
    id_ = site.enqueue("telegram:7000#5", "hello")

    row = site.reaches(id_, "sent")
    assert row.unified_user == "telegram/7000/5/7000"
    assert [m.content for m in site.messages("telegram/7000/5/7000")] == ["hello"]


def test_a_resolver_that_raises_never_stops_a_delivery(site: Site) -> None:
    broken = site.enqueue("telegram:7001", "all the same")
    beside = site.enqueue("telegram:7002", "undisturbed")

    row = site.reaches(broken, "sent")
    assert (row.unified_user, row.mirror) == (None, "failed")
    assert site.sandbox.texts("telegram", "7001") == ["all the same"]
    assert site.reaches(beside, "sent").mirror == "done"


def test_a_person_is_found_through_a_resolver_of_ones_own(site: Site) -> None:
    id_ = site.enqueue("user:carol", "hello carol")

    site.reaches(id_, "sent")
    assert site.sandbox.texts("telegram", "7003") == ["hello carol"]
    assert [m.content for m in site.messages("carol")] == ["hello carol"]


def test_a_person_whom_a_broken_resolver_cannot_find_is_tried_again(site: Site) -> None:
    id_ = site.enqueue("user:trouble", "later then")

    row = site.reaches(id_, "retrying")
    assert (row.error_kind, row.error_text) == (
        "transient",
        "the resolver failed (RuntimeError)",
    )


def test_a_platform_of_an_installed_package_delivers(site: Site, loft: Loft) -> None:
    id_ = site.enqueue("carrier:loft-east", "by air")

    row = site.reaches(id_, "sent")
    assert loft.notes[-1] == ("coo-coo-4711", {"loft": "loft-east", "note": "by air"})
    assert row.receipt == [f"ring-{len(loft.notes)}"]
    assert len(site.attempts(id_)) == 1

    gone = site.reaches(site.enqueue("carrier:loft-burnt", "too late"), "failed")
    assert (gone.error_kind, gone.error_text) == ("target_gone", "no such loft")


def test_a_webhook_verifies_as_the_standard_says(site: Site) -> None:
    id_ = site.enqueue(f"webhook:{site.sandbox.url}/webhook/crm", "signed", metadata={"order": 7})

    row = site.reaches(id_, "sent")
    (received,) = site.sandbox.accepted("webhook", "crm")
    event = Webhook(_SECRET).verify(received["body"], received["headers"])
    assert event["type"] == EVENT_TYPE
    assert (event["data"]["text"], event["data"]["metadata"]) == ("signed", {"order": 7})
    assert received["headers"]["webhook-id"] == id_
    assert row.receipt == [received["id"]]


def test_a_webhook_that_is_sent_twice_has_one_id_and_one_body(site: Site) -> None:
    site.sandbox.fault("webhook", "twice", "drop", times=1)
    id_ = site.enqueue(f"webhook:{site.sandbox.url}/webhook/twice", "again")
    site.reaches(id_, "retrying")

    with site.scheduler():
        site.make_due(id_)
        site.reaches(id_, "sent")

    first, second = site.sandbox.accepted("webhook", "twice")
    assert first["body"] == second["body"]
    assert {m["headers"]["webhook-id"] for m in (first, second)} == {id_}
    Webhook(_SECRET).verify(second["body"], second["headers"])


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.1", "[::1]"])
def test_a_private_webhook_is_refused_at_the_door(
    monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    monkeypatch.delenv("MIRRORPOST_WEBHOOK_ALLOW_PRIVATE", raising=False)
    settings.cache_clear()

    with pytest.raises(Refused, match="is not a public address; name a public host"):
        check(to=f"webhook:http://{host}:8080/hook", text="inside?")
