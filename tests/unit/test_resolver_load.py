"""Choosing the resolver that the environment names."""

import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest
from sqlalchemy import create_engine

from resolvers import (
    FileIdentityResolver,
    IdentityLink,
    IdentityResolverProtocol,
    InMemoryIdentityResolver,
    RedisIdentityResolver,
    ResolverNotLoadable,
    SqlIdentityResolver,
    load_resolver,
    resolve_many,
)

OWN_RESOLVER = """
class Directory:
    def resolve(self, platform, platform_user_id): return "somebody"
    def link(self, platform, platform_user_id, unified_user_id): pass
    def unlink(self, platform, platform_user_id): pass
    def links_for(self, unified_user_id): return []

class HalfDone:
    link = "not callable"
    async def resolve(self, platform, platform_user_id): return "somebody"
    def unlink(self, platform, platform_user_id): pass

class Demanding(Directory):
    def __init__(self, address): pass
"""


def _no_engine() -> NoReturn:
    raise AssertionError("no database was asked for")


def _load(
    kind: str, *, redis_url: str | None = None, identity_path: Path | None = None
) -> IdentityResolverProtocol:
    return load_resolver(
        kind, engine_factory=_no_engine, redis_url=redis_url, identity_path=identity_path
    )


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "own_directory.py").write_text(OWN_RESOLVER)
    (tmp_path / "own_broken.py").write_text("raise RuntimeError('no licence')")
    monkeypatch.syspath_prepend(tmp_path)
    return "own_directory"


def test_each_kind_gives_its_store(tmp_path: Path) -> None:
    engine = create_engine("sqlite://")

    sql = load_resolver("sql", engine_factory=lambda: engine, redis_url=None, identity_path=None)
    file = _load("file", identity_path=tmp_path / "people.json")
    redis = _load("redis", redis_url="redis://127.0.0.1:1/0")

    assert isinstance(sql, SqlIdentityResolver)
    assert isinstance(file, FileIdentityResolver)
    assert file.path == tmp_path / "people.json"
    assert isinstance(redis, RedisIdentityResolver)
    assert isinstance(_load("memory"), InMemoryIdentityResolver)
    for resolver in (sql, file, redis, _load("memory")):
        assert isinstance(resolver, IdentityResolverProtocol)


def test_any_class_that_satisfies_the_protocol_is_taken(own_module: str) -> None:
    resolver = _load(f"{own_module}:Directory")

    assert resolver.resolve("telegram", "1") == "somebody"
    assert resolve_many(resolver, [("telegram", "1"), ("slack", "U1")]) == ["somebody"] * 2


def test_a_class_in_the_working_directory_is_found(tmp_path: Path) -> None:
    # In a process of its own: a console script has no working directory in its path.
    (tmp_path / "my_people.py").write_text(OWN_RESOLVER)
    script = (
        "from resolvers import load_resolver\n"
        "print(load_resolver('my_people:Directory', engine_factory=None, redis_url=None,"
        " identity_path=None).resolve('a', 'b'))"
    )

    done = subprocess.run(
        [sys.executable, "-P", "-c", script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (done.stdout, done.stderr) == ("somebody\n", "")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("sqll", r"no resolver 'sqll': give sql, file, redis, memory or package\.module:Class"),
        ("", "no resolver ''"),
        ("own_directory:", "no resolver 'own_directory:'"),
        (":Directory", "no resolver ':Directory'"),
        ("no_such_module:X", "cannot be made: ModuleNotFoundError: No module named 'no_such"),
        (".relative:X", "cannot be made: TypeError"),
        ("own_directory:Missing", "has no attribute 'Missing'"),
        ("own_broken:X", "cannot be made: RuntimeError: no licence"),
        ("own_directory:Demanding", r"missing 1 required positional argument: 'address'"),
        (
            "own_directory:HalfDone",
            r"HalfDone is not an identity resolver: resolve\(\) is a coroutine function, it must"
            r" be a plain one, link is not a method, links_for\(\) is missing$",
        ),
        ("redis", "set REDIS_URL="),
    ],
)
def test_what_is_no_resolver_is_named_with_what_is_wrong(
    own_module: str, kind: str, message: str
) -> None:
    with pytest.raises(ResolverNotLoadable, match=message) as caught:
        _load(kind)
    assert "\n" not in str(caught.value)


def test_a_link_can_be_made_without_a_time_and_is_equal_whenever_made() -> None:
    resolver = InMemoryIdentityResolver()
    resolver.link("telegram", "1", "alice")

    assert resolver.links_for("alice") == [IdentityLink("telegram", "1", "alice")]
    assert resolver.links_for("alice")[0].created_at is not None
