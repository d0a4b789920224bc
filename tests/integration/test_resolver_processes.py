"""Stored links and several processes: nothing lost, seen within a second, whoever is killed."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from sqlalchemy import create_engine
from sqlmodel import SQLModel

from resolvers import IdentityLinkRow, IdentityResolverProtocol, load_resolver
from tests.waiting import wait_until

#: Each line that it reads is Python; each is answered by a line. Starts as a process of its own.
OTHER_PROCESS = """
import sys
from sqlalchemy import create_engine
from resolvers import load_resolver

kind, address = sys.argv[1:]
resolver = load_resolver(
    kind,
    engine_factory=lambda: create_engine(address),
    redis_url=address,
    identity_path=address,
)
print("ready", flush=True)
for line in sys.stdin:
    exec(line.replace(";;", chr(10)))
    print("done", flush=True)
"""

Start = Callable[[], "Other"]


class Other:
    """Another process on the same store."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def begin(self, code: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(code.replace("\n", ";;") + "\n")
        self.process.stdin.flush()

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def run(self, code: str) -> None:
        self.begin(code)
        assert self.line() == "done"


@pytest.fixture(params=["file", "sqlite", "postgresql", "redis"])
def kind_and_address(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, str]]:
    match request.param:
        case "file":
            yield "file", str(tmp_path / "identity.json")
            return
        case "redis":
            yield "redis", request.getfixturevalue("redis_url")
            return
        case "sqlite":
            address = f"sqlite:///{tmp_path / 'links.db'}"
        case "postgresql":
            address = request.getfixturevalue("postgres_url")
    engine = create_engine(address)
    SQLModel.metadata.create_all(engine, tables=[IdentityLinkRow.__table__])
    engine.dispose()
    yield "sql", address


@pytest.fixture
def start(kind_and_address: tuple[str, str]) -> Iterator[Start]:
    with ExitStack() as ending:

        def start_one() -> Other:
            process = subprocess.Popen(
                [sys.executable, "-c", OTHER_PROCESS, *kind_and_address],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            ending.enter_context(process)
            ending.callback(process.kill)
            other = Other(process)
            assert other.line() == "ready"
            return other

        yield start_one


@pytest.fixture
def resolver(kind_and_address: tuple[str, str]) -> Iterator[IdentityResolverProtocol]:
    kind, address = kind_and_address
    with ExitStack() as ending:
        engine = create_engine(address) if kind == "sql" else None
        if engine is not None:
            ending.callback(engine.dispose)
        resolver = load_resolver(
            kind, engine_factory=lambda: engine, redis_url=address, identity_path=address
        )
        if kind == "redis":
            ending.callback(resolver.close)
        yield resolver


def test_two_processes_that_link_at_once_lose_nothing(
    start: Start, resolver: IdentityResolverProtocol
) -> None:
    others = [start(), start()]
    for name, other in enumerate(others):
        other.begin(
            f"for n in range(50):\n"
            f"    resolver.link('telegram', f'{name}:{{n}}', f'user{{n}}')\n"
            f"    resolver.link('slack', 'shared', 'owner{name}')\n"
            f"    resolver.link('discord', '{name}', 'gone')\n"
            f"    resolver.unlink('discord', '{name}')"
        )
    assert [other.line() for other in others] == ["done", "done"]

    for number in range(50):
        assert [link.platform_user_id for link in resolver.links_for(f"user{number}")] == [
            f"0:{number}",
            f"1:{number}",
        ]
    assert resolver.links_for("gone") == []
    owners = resolver.links_for("owner0") + resolver.links_for("owner1")
    assert [link.unified_user_id for link in owners] == [resolver.resolve("slack", "shared")]


def test_another_processs_links_are_seen_within_a_second(
    start: Start, resolver: IdentityResolverProtocol
) -> None:
    other = start()

    for unified in ("alice", "bob"):
        resolver.resolve("telegram", "42")
        other.run(f"resolver.link('telegram', '42', '{unified}')")
        wait_until(lambda: resolver.resolve("telegram", "42") == unified, timeout_s=1.0)  # noqa: B023 - called at once
        assert [link.unified_user_id for link in resolver.links_for(unified)] == [unified]

    other.run("resolver.unlink('telegram', '42')")
    wait_until(lambda: resolver.resolve("telegram", "42") == "telegram:42", timeout_s=1.0)


def test_a_process_killed_while_linking_loses_no_link_that_it_had_made(
    start: Start, resolver: IdentityResolverProtocol
) -> None:
    other = start()
    other.begin(
        "n = 0\n"
        "while True:\n"
        "    resolver.link('telegram', str(n), 'alice')\n"
        "    print(n, flush=True)\n"
        "    n += 1"
    )
    while int(other.line()) < 20:
        pass
    other.process.kill()
    assert other.process.stdout is not None
    made = max([20, *(int(line) for line in other.process.stdout)])

    linked = {link.platform_user_id for link in resolver.links_for("alice")}

    assert {str(number) for number in range(made + 1)} <= linked
    assert len(linked) <= made + 2
    resolver.link("telegram", "after", "alice")
    assert resolver.resolve("telegram", "after") == "alice"
