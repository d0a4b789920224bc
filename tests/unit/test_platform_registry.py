import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from worker.errors import Misconfigured, Refused
from worker.platforms import platform, platforms
from worker.platforms.base import ChecksThreads, Platform

MODULE = """
from worker.platforms.base import Capability, Request
from worker.platforms.console import Console
from worker.taxonomy import Receipt

class Pigeon:
    name = "pigeon"
    capability = Capability(max_length=10)
    variables = ()

    def check_chat(self, chat_id):
        return None

    def request(self, message, bot):
        return Request("POST", "https://loft.example/", {}, message.text.encode())

    def outcome(self, response):
        return Receipt(("coo",))

class Explodes:
    def __init__(self):
        raise RuntimeError("no loft here")

PIGEON = Pigeon()
TWIN = Console()
NOTHING = object()
"""


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    platforms.cache_clear()
    yield
    platforms.cache_clear()


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    def _install(attribute: str) -> None:
        """Install a distribution with one entry point."""
        (tmp_path / "pigeon_loft.py").write_text(MODULE)
        info = tmp_path / "pigeon-1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: pigeon\nVersion: 1\n")
        (info / "entry_points.txt").write_text(
            f"[mirrorpost.platforms]\nbird = pigeon_loft:{attribute}\n"
        )
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "pigeon_loft", raising=False)

    yield _install
    sys.modules.pop("pigeon_loft", None)


def test_the_built_in_platforms_are_there_by_name() -> None:
    assert list(platforms()) == ["telegram", "discord", "slack", "matrix", "webhook", "console"]
    for name, adapter in platforms().items():
        assert isinstance(adapter, Platform)
        assert adapter.name == name
        assert platform(name) is adapter


def test_platforms_with_threads_check_them() -> None:
    for adapter in platforms().values():
        assert isinstance(adapter, ChecksThreads) is adapter.capability.threads


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(Refused, match="unknown platform 'fax'; known are console, discord"):
        platform("fax")


@pytest.mark.parametrize("attribute", ["PIGEON", "Pigeon"])
def test_an_installed_entry_point_adds_a_platform(
    install: Callable[[str], None], attribute: str
) -> None:
    install(attribute)
    assert platform("pigeon").capability.max_length == 10
    assert platform("telegram").name == "telegram"


@pytest.mark.parametrize(
    ("attribute", "why"),
    [
        ("NOTHING", "gives no platform; it needs name, capability"),
        ("Explodes", "cannot be loaded: no loft here"),
        ("missing", "cannot be loaded: "),
        ("TWIN", "there is a platform 'console' already"),
    ],
)
def test_a_bad_entry_point_is_named(
    install: Callable[[str], None], attribute: str, why: str
) -> None:
    install(attribute)
    with pytest.raises(Misconfigured, match=why) as raised:
        platforms()
    assert f"entry point bird = pigeon_loft:{attribute}: " in str(raised.value)


def test_the_registry_cannot_be_changed_by_accident() -> None:
    with pytest.raises(TypeError):
        platforms()["pigeon"] = platform("console")  # type: ignore[index]


def test_secrets_are_marked_and_addresses_have_the_documented_names() -> None:
    variables = {v.name: v for p in platforms().values() for v in p.variables}
    assert {name for name, v in variables.items() if v.secret} == {
        "TELEGRAM_BOT_TOKEN",
        "DISCORD_BOT_TOKEN",
        "SLACK_BOT_TOKEN",
        "MATRIX_ACCESS_TOKEN",
        "MIRRORPOST_WEBHOOK_SECRET",
    }
    assert {name: v.default for name, v in variables.items() if not v.secret} == {
        "TELEGRAM_API_BASE": "https://api.telegram.org",
        "DISCORD_API_BASE": "https://discord.com/api/v10",
        "SLACK_API_BASE": "https://slack.com/api",
        "MATRIX_HOMESERVER": None,
    }
