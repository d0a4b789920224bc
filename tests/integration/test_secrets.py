"""No credential in anything that a run writes: logs, rows, the broker, what commands print."""

import base64
import json
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote

import pytest
import redis
from sqlalchemy import inspect, text

from tests.command_line import SCRIPT
from tests.servers import free_port
from tests.waiting import wait_until
from tests.workers import DATABASES, TOKENS, Site, running_site
from worker.database import reading

_SECRETS = {
    **TOKENS,
    "TELEGRAM_BOT_TOKEN_SECOND": "7700002:tg2-Lk5rTq88XvBn3Hs0",
    "MATRIX_ACCESS_TOKEN": "syt_mx_Ty3WqRz90PdKeF7s",
    "MIRRORPOST_WEBHOOK_SECRET": "whsec_"
    + base64.b64encode(b"sesame-Vb7-Qn4-Jd2-Ux9-Mk1").decode(),
}


class Gossip(ThreadingHTTPServer):
    """A platform that repeats in its errors all that it was told."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Repeating)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.heard = ""


class _Repeating(BaseHTTPRequestHandler):
    server: Gossip

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        told = f"{self.path} {self.headers.get('authorization', '')}"
        self.server.heard += told
        answer = {"ok": False, "error_code": 400, "code": 50109, "errcode": told}
        answer |= dict.fromkeys(("description", "error", "message", "needed"), told)
        body = json.dumps(answer).encode()
        self.send_response(400)
        self.send_header("content-length", str(len(body)))
        self.send_header("content-type", "application/json")
        self.end_headers()
        self.wfile.write(body)

    do_PUT = do_POST  # noqa: N815 - the interface

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the interface
        """Keep the test's output quiet."""


@pytest.fixture
def gossip() -> Iterator[Gossip]:
    with Gossip() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(params=DATABASES)
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    nowhere = f"http://127.0.0.1:{free_port()}"
    variables = {
        **_SECRETS,
        "MATRIX_HOMESERVER": nowhere,
        "MIRRORPOST_WEBHOOK_ALLOW_PRIVATE": "1",
        "MIRRORPOST_LOG_LEVEL": "DEBUG",
    }
    with running_site(request, request.param, variables) as site:
        yield site


def forms(secret: str) -> set[bytes]:
    """Give the ways in which a secret could be written."""
    return {
        secret.encode(),
        quote(secret, safe="").encode(),
        # The part that matters, however the rest is cut.
        secret.rpartition("-")[2].encode() if "-" in secret else secret[6:].encode(),
    }


def rows_of(site: Site) -> dict[str, bytes]:
    """Give every row of every table as text."""
    found = {}
    with reading(site.engine) as connection:
        for table in inspect(connection).get_table_names():
            rows = connection.execute(text(f'SELECT * FROM "{table}"')).all()
            found[f"table {table}"] = repr(rows).encode()
    return found


def keys_of(site: Site) -> dict[str, bytes]:
    """Give every key and value of Redis, message bodies decoded as well."""
    readers = {
        b"string": lambda c, k: [c.get(k)],
        b"list": lambda c, k: c.lrange(k, 0, -1),
        b"hash": lambda c, k: [x for pair in c.hgetall(k).items() for x in pair],
        b"set": lambda c, k: list(c.smembers(k)),
        b"zset": lambda c, k: c.zrange(k, 0, -1),
    }
    found = {}
    with redis.Redis.from_url(site.redis_url) as client:
        for key in client.scan_iter():
            values = [key, *readers[client.type(key)](client, key)]
            for value in list(values):
                if value.startswith(b"{"):
                    body = json.loads(value).get("body")
                    values += [base64.b64decode(body)] if body else []
            found[f"redis {key!r}"] = b"\n".join(values)
    return found


def printed_by(site: Site, *command: str) -> bytes:
    done = subprocess.run(
        [SCRIPT, *command], env=site.env, cwd=site.cwd, capture_output=True, timeout=60, check=False
    )
    assert done.stdout, done.stderr
    return done.stdout + done.stderr


def tried(site: Site, id_: str) -> str:
    """Wait until a delivery was tried; give what came of it the first time."""
    return wait_until(lambda: site.attempts(id_), 20, f"an attempt of {id_}")[0].outcome


def test_no_secret_is_in_anything_that_a_run_writes(site: Site, gossip: Gossip) -> None:
    one = site.sandbox
    for platform in ("telegram", "discord", "slack"):
        chat = "C8001" if platform == "slack" else "8001"
        one.fault(platform, chat, "drop", times=1)
        one.fault(platform, chat.replace("1", "2"), "502", times=1)
        one.fault(platform, chat.replace("1", "3"), "blocked", times=1)
        one.fault(platform, chat.replace("1", "4"), "429", times=1, retry_after=1)

    ids: list[str] = []
    with site.worker(), site.scheduler():
        for n in range(5):
            for to in (f"telegram:800{n}", f"discord:800{n}", f"slack:C800{n}"):
                ids.append(site.enqueue(to, f"to {to}"))
        ids.append(site.enqueue("telegram@second:8100", "by the second bot"))
        ids.append(site.enqueue("matrix:!nobody:there", "no homeserver"))
        ids.append(site.enqueue(f"webhook:{one.url}/webhook/crm", "signed"))
        outcomes = {tried(site, id_) for id_ in ids}
        assert outcomes >= {"sent", "ambiguous", "target_gone", "rate_limited", "transient"}
        for platform in ("telegram", "discord", "slack"):
            one.fault(platform, None, "revoked")
        for to in ("telegram:8200", "discord:8200", "slack:C8200"):
            site.reaches(site.enqueue(to, "held"), "held")
    telling = {
        "TELEGRAM_API_BASE": gossip.url,
        "DISCORD_API_BASE": gossip.url,
        "SLACK_API_BASE": gossip.url,
        "MATRIX_HOMESERVER": gossip.url,
    }
    with site.worker(telling):
        told = ["telegram:8300", "discord:8300", "slack:C8300", "matrix:!nobody:here"]
        for to in told:
            id_ = site.enqueue(to, "gossip")
            assert tried(site, id_) in {"unknown_error", "invalid"}
            assert site.attempts(id_)[0].text
    # They went out there and came back.
    for name in (*TOKENS, "MATRIX_ACCESS_TOKEN"):
        assert _SECRETS[name] in gossip.heard
    waiting = site.enqueue("telegram:8400", "still in the queue")

    written = {
        str(path.relative_to(site.folder)): path.read_bytes()
        for path in site.folder.rglob("*")
        if path.is_file()
    }
    written |= rows_of(site) | keys_of(site)
    for command in (
        ["deliveries", "list", "--limit", "100", "--json"],
        ["deliveries", "show", waiting, "--json"],
        *(["deliveries", "show", id_, "--json"] for id_ in ids[:6]),
        *(["deliveries", "explain", id_, "--json"] for id_ in ids[:3]),
        ["history", "telegram:8000", "--json"],
        ["identity", "list", "--json"],
        ["doctor", "--json"],
        ["doctor"],
    ):
        written["mirrorpost " + " ".join(command)] = printed_by(site, *command)

    # What was searched is what was meant.
    assert b"to telegram:8000" in written["table delivery"]
    assert any(b"mirrorpost.reply" in name.encode() for name in written)
    assert any(waiting.encode() in value for name, value in written.items() if "redis" in name)
    assert sum("worker-" in name and name.endswith(".log") for name in written) == 2
    leaks = [
        (variable, where)
        for variable, secret in _SECRETS.items()
        for where, content in written.items()
        if any(form in content for form in forms(secret))
    ]
    assert leaks == []


def test_a_secret_is_found_where_one_is(tmp_path: Path) -> None:
    for secret in _SECRETS.values():
        assert all(
            form in f"/bot{secret}/ {quote(secret, safe='')}".encode() for form in forms(secret)
        )
