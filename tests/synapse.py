"""A real Matrix homeserver, Synapse, in an environment of its own, with SQLite, on loopback.

Without federation and without limits for the bot. `running_homeserver` starts it in about ten
seconds; the first time on a machine its installation takes a minute.
"""

import json
import secrets
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import httpx

from tests.environments import optional_environment
from tests.processes import end, remove_folder, short_folder, spawn
from tests.servers import free_port
from tests.waiting import wait_until

SYNAPSE = ["matrix-synapse==1.163.2"]
_CLIENT = "/_matrix/client/v3"
#: Seconds; a busy machine needs several times the usual seven.
_START_LIMIT_S = 90.0


@dataclass(frozen=True, slots=True)
class Account:
    """One user of the homeserver, logged in once."""

    user_id: str
    token: str


class Homeserver:
    """A running homeserver with its accounts.

    Attributes:
        base_url: What `MATRIX_HOMESERVER` names.
        bot: May write as fast as it likes; its token is what `MATRIX_ACCESS_TOKEN` holds.
        reader: Another account, an administrator, to see what arrived.
        hasty: Has the limits that everybody has, here two requests and then one a minute; the
            joining of a room is one.
    """

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url
        self._http = httpx.Client(base_url=base_url, timeout=30, trust_env=False)
        self.bot, self.reader, self.hasty = Account("", ""), Account("", ""), Account("", "")

    def log_in(self, name: str, password: str) -> Account:
        """Log in as a new device, which has a token and transaction ids of its own."""
        body = {
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": name},
            "password": password,
        }
        answer = self._call("POST", f"{_CLIENT}/login", "", body)
        return Account(str(answer["user_id"]), str(answer["access_token"]))

    def new_room(self, *others: Account) -> str:
        """Make a room with the reader, the bot and others in it; give its id."""
        members = (self.bot, *others)
        body = {"preset": "private_chat", "invite": [each.user_id for each in members]}
        made = self._call("POST", f"{_CLIENT}/createRoom", self.reader.token, body)
        room = str(made["room_id"])
        for each in members:
            self._call("POST", f"{_CLIENT}/rooms/{quote(room, safe='')}/join", each.token, {})
        return room

    def messages(self, room: str) -> list[dict[str, object]]:
        """Give the messages of a room as the reader sees them, oldest first."""
        path = f"{_CLIENT}/rooms/{quote(room, safe='')}/messages?dir=b&limit=100"
        chunk = self._call("GET", path, self.reader.token)["chunk"]
        assert isinstance(chunk, list)
        return [event for event in reversed(chunk) if event["type"] == "m.room.message"]

    def texts(self, room: str) -> list[str]:
        """Give the texts of a room as the reader sees them, oldest first."""
        found = []
        for event in self.messages(room):
            content = event["content"]
            assert isinstance(content, dict)
            found.append(str(content["body"]))
        return found

    def reads_now(self, room: str, event_id: str) -> str:
        """Give what a message says after its edits, as the homeserver tells it to clients."""
        path = f"{_CLIENT}/rooms/{quote(room, safe='')}/event/{quote(event_id, safe='')}"
        event = self._call("GET", path, self.reader.token)
        unsigned = event["unsigned"]
        assert isinstance(unsigned, dict)
        return str(unsigned["m.relations"]["m.replace"]["content"]["m.new_content"]["body"])

    def lift_limits(self, account: Account) -> None:
        """Let an account write as fast as it likes."""
        path = f"/_synapse/admin/v1/users/{quote(account.user_id)}/override_ratelimit"
        self._call("POST", path, self.reader.token, {"messages_per_second": 0, "burst_count": 0})

    def answers(self) -> bool:
        """Tell whether it is ready."""
        try:
            return self._http.get("/_matrix/client/versions").is_success
        except httpx.TransportError:
            return False

    def close(self) -> None:
        """Close the connections to it."""
        self._http.close()

    def _call(self, method: str, path: str, token: str, body: object = None) -> dict[str, object]:
        headers = {"authorization": f"Bearer {token}"} if token else {}
        answer = self._http.request(method, path, headers=headers, json=body)
        assert answer.is_success, f"{method} {path}: {answer.text}"
        read: dict[str, object] = answer.json()
        return read


@contextmanager
def running_homeserver() -> Iterator[Homeserver]:
    """Run a homeserver with its accounts; nothing of it is left afterwards."""
    python = optional_environment("synapse", SYNAPSE)
    folder = short_folder("synapse-")
    port = free_port()
    configs = _configure(python, folder, port)
    log = folder / "synapse.log"
    server = spawn([str(python), "-m", "synapse.app.homeserver", *configs], log=log, cwd=folder)
    homeserver = Homeserver(f"http://127.0.0.1:{port}")

    def is_ready() -> bool:
        assert server.poll() is None, f"the homeserver ended: {log.read_text()}"
        return homeserver.answers()

    try:
        wait_until(is_ready, _START_LIMIT_S, what=f"the homeserver, see {log}")
        homeserver.reader = _register(python, folder, homeserver, "reader", admin=True)
        homeserver.bot = _register(python, folder, homeserver, "bot")
        homeserver.hasty = _register(python, folder, homeserver, "hasty")
        for account in (homeserver.reader, homeserver.bot):
            homeserver.lift_limits(account)
        yield homeserver
    finally:
        homeserver.close()
        end(server, within_s=20)
        remove_folder(folder)


def _configure(python: Path, folder: Path, port: int) -> list[str]:
    """Write the generated configuration and what differs; give the arguments that name both."""
    generated, ours = folder / "homeserver.yaml", folder / "ours.yaml"
    _run(
        [
            *(str(python), "-m", "synapse.app.homeserver", "--generate-config"),
            *("--server-name", "localhost", "--report-stats=no", "--config-path", str(generated)),
        ],
        folder,
    )
    generous = {"per_second": 1000, "burst_count": 1000}
    # JSON is YAML; of two files the later one's keys count.
    ours.write_text(
        json.dumps(
            {
                "listeners": [
                    {
                        "port": port,
                        "tls": False,
                        "type": "http",
                        "bind_addresses": ["127.0.0.1"],
                        "resources": [{"names": ["client"]}],
                    }
                ],
                "trusted_key_servers": [],
                "suppress_key_server_warning": True,
                "federation_domain_whitelist": [],
                "rc_message": {"per_second": 1 / 60, "burst_count": 2},
                "rc_room_creation": generous,
                "rc_invites": dict.fromkeys(("per_room", "per_user", "per_issuer"), generous),
                "rc_joins": {"local": generous, "remote": generous},
                "rc_login": {"address": generous, "account": generous},
            }
        )
    )
    return ["--config-path", str(generated), "--config-path", str(ours)]


def _register(
    python: Path, folder: Path, homeserver: Homeserver, name: str, *, admin: bool = False
) -> Account:
    password = secrets.token_hex(8)
    _run(
        [
            *(str(python.with_name("register_new_matrix_user")), "-c", "homeserver.yaml"),
            *("-u", name, "-p", password, "--admin" if admin else "--no-admin"),
            homeserver.base_url,
        ],
        folder,
    )
    return homeserver.log_in(name, password)


def _run(command: list[str], folder: Path) -> None:
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
