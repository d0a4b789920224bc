"""The file resolver: what is on disk, and what happens when that goes wrong."""

import os
import resource
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from resolvers import FileIdentityResolver, InMemoryIdentityResolver, StoreUnavailable
from resolvers import file as file_module
from resolvers.errors import ResolverError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "identity.json"


@pytest.fixture
def limit_file_size() -> Iterator[Callable[[int], None]]:
    """Let no file grow past some bytes: a write then ends half-way, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_path_comes_from_the_argument_then_the_environment_then_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MIRRORPOST_HOME", raising=False)
    monkeypatch.delenv("MIRRORPOST_IDENTITY_PATH", raising=False)
    assert FileIdentityResolver().path == tmp_path / "home" / ".mirrorpost" / "identity.json"

    monkeypatch.setenv("MIRRORPOST_HOME", str(tmp_path / "data"))
    assert FileIdentityResolver().path == tmp_path / "data" / "identity.json"

    monkeypatch.setenv("MIRRORPOST_IDENTITY_PATH", "~/people.json")
    assert FileIdentityResolver().path == tmp_path / "home" / "people.json"

    assert FileIdentityResolver(tmp_path / "own.json").path == tmp_path / "own.json"
    assert FileIdentityResolver(str(tmp_path / "own.json")).path == tmp_path / "own.json"


def test_the_environment_is_read_when_the_resolver_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIRRORPOST_IDENTITY_PATH", str(tmp_path / "first.json"))
    first = FileIdentityResolver()
    monkeypatch.setenv("MIRRORPOST_IDENTITY_PATH", str(tmp_path / "second.json"))
    second = FileIdentityResolver()

    first.link("telegram", "1", "alice")

    assert second.resolve("telegram", "1") == "telegram:1"
    assert (tmp_path / "first.json").exists()


def test_reading_makes_no_file(tmp_path: Path) -> None:
    resolver = FileIdentityResolver(tmp_path / "deep" / "identity.json")

    assert resolver.resolve("telegram", "1") == "telegram:1"
    assert list(tmp_path.iterdir()) == []


def test_links_outlive_the_process(path: Path) -> None:
    before = FileIdentityResolver(path)
    before.link("telegram", "1", "alice")
    [link] = before.links_for("alice")

    [same] = FileIdentityResolver(path).links_for("alice")

    assert (same, same.created_at) == (link, link.created_at)


@given(
    st.lists(
        st.tuples(
            st.text(st.sampled_from("ab:/ {é"), min_size=1, max_size=4),
            st.text(st.sampled_from('12:#"\\\n☃'), min_size=1, max_size=6),
            st.text(st.sampled_from("xy:"), min_size=1, max_size=3),
        ).filter(lambda link: all(part.strip() for part in link)),
        max_size=8,
    )
)
def test_any_separator_in_any_id_survives_a_round_trip(links: list[tuple[str, str, str]]) -> None:
    with TemporaryDirectory() as folder:
        stored, model = FileIdentityResolver(Path(folder) / "i.json"), InMemoryIdentityResolver()
        for link in links:
            stored.link(*link)
            model.link(*link)

        reread = FileIdentityResolver(Path(folder) / "i.json")

        assert reread.links() == model.links()
        for platform, user_id, unified in links:
            assert reread.resolve(platform, user_id) == model.resolve(platform, user_id)
            assert reread.links_for(unified) == model.links_for(unified)


def test_a_new_file_is_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "home" / "identity.json"
    before = os.umask(0)
    try:
        FileIdentityResolver(path).link("telegram", "1", "alice")
    finally:
        os.umask(before)

    assert {file.name: oct(_mode(file)) for file in path.parent.iterdir()} == {
        "identity.json": "0o600",
        "identity.json.lock": "0o600",
    }
    assert _mode(path.parent) == 0o700


def test_a_file_that_was_there_with_another_mode_gets_the_right_one(path: Path) -> None:
    FileIdentityResolver(path).link("telegram", "1", "alice")
    path.chmod(0o666)
    resolver = FileIdentityResolver(path)
    assert _mode(path) == 0o600

    path.chmod(0o644)
    resolver.link("telegram", "2", "alice")
    assert _mode(path) == 0o600


def test_a_symbolic_link_keeps_leading_to_the_file(path: Path, tmp_path: Path) -> None:
    shared = tmp_path / "shared.json"
    path.symlink_to(shared)

    FileIdentityResolver(path).link("telegram", "1", "alice")

    assert path.is_symlink()
    assert FileIdentityResolver(shared).resolve("telegram", "1") == "alice"


def test_changes_of_the_same_size_within_one_tick_are_seen(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A file system's clock ticks in milliseconds: here it stands still.
    monkeypatch.setattr(file_module, "now_ms", lambda: 1_700_000_000_000)
    writer, reader = FileIdentityResolver(path), FileIdentityResolver(path)

    for number in range(10):
        # Two changes: the second file gets the inode that the first one freed.
        writer.link("telegram", "1", f"between {number}")
        writer.link("telegram", "1", f"account {number}")
        assert reader.resolve("telegram", "1") == f"account {number}"


def test_a_file_restored_from_a_backup_is_read(path: Path) -> None:
    resolver = FileIdentityResolver(path)
    resolver.link("telegram", "1", "alice")
    backup, stamp = path.read_bytes(), path.stat()
    resolver.link("telegram", "1", "bob")

    path.write_bytes(backup)
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))

    assert resolver.resolve("telegram", "1") == "alice"


@pytest.mark.parametrize(
    "garbage",
    [
        b"{not json",
        b"",
        b"[]",
        b"{}",
        b'{"links": []}',
        b'{"links": {"telegram": {"1": "alice"}}}',
        b'{"links": {"telegram": {"1": {"unified_user_id": 5, "created_ms": 0}}}}',
        b'{"links": {"telegram": {"1": {"unified_user_id": "a", "created_ms": "x"}}}}',
        b'{"links": {"telegram": {"1": {"unified_user_id": "a", "created_ms": 1e300}}}}',
        b"\xff\xfe\x00",
    ],
)
def test_a_corrupt_file_is_kept_aside_and_reported_and_work_goes_on(
    path: Path, garbage: bytes
) -> None:
    path.write_bytes(garbage)

    with structlog.testing.capture_logs() as logs:
        resolver = FileIdentityResolver(path)
        resolver.link("telegram", "1", "alice")

    [aside] = path.parent.glob("identity.json.corrupt-*")
    assert aside.read_bytes() == garbage
    assert _mode(aside) == 0o600
    assert [(log["event"], log["log_level"], log["kept_as"]) for log in logs] == [
        ("identity_file_unreadable", "error", str(aside))
    ]
    assert FileIdentityResolver(path).resolve("telegram", "1") == "alice"


def test_a_file_corrupted_under_a_running_process_is_put_back_as_it_was(path: Path) -> None:
    resolver = FileIdentityResolver(path)
    resolver.link("telegram", "1", "alice")
    path.write_bytes(b"{")

    with structlog.testing.capture_logs() as logs:
        assert resolver.resolve("telegram", "1") == "alice"

    assert [log["links_put_back"] for log in logs] == [1]
    assert FileIdentityResolver(path).resolve("telegram", "1") == "alice"
    assert [file.read_bytes() for file in path.parent.glob("*.corrupt-*")] == [b"{"]


def test_a_corrupt_file_that_cannot_be_kept_aside_is_left_alone(
    path: Path, limit_file_size: Callable[[int], None]
) -> None:
    garbage = b"{" * 600
    path.write_bytes(garbage)
    limit_file_size(100)

    with pytest.raises(StoreUnavailable, match="could not be read: File too large"):
        FileIdentityResolver(path)

    assert path.read_bytes() == garbage


def test_a_failed_write_raises_and_changes_nothing(
    path: Path, limit_file_size: Callable[[int], None]
) -> None:
    limit_file_size(600)
    resolver = FileIdentityResolver(path)
    resolver.link("telegram", "1", "alice")
    before = path.read_bytes()

    with pytest.raises(StoreUnavailable, match=r"identity\.json could not be written: File too"):
        resolver.link("telegram", "2", "b" * 500)

    assert path.read_bytes() == before
    assert resolver.resolve("telegram", "2") == "telegram:2"
    assert resolver.resolve("telegram", "1") == "alice"
    assert not (path.parent / "identity.json.tmp").exists()
    resolver.link("telegram", "2", "bob")
    assert FileIdentityResolver(path).resolve("telegram", "2") == "bob"


def test_a_failed_unlink_raises_and_changes_nothing(path: Path) -> None:
    resolver = FileIdentityResolver(path)
    resolver.link("telegram", "1", "alice")
    (path.parent / "identity.json.tmp").mkdir()

    with pytest.raises(ResolverError, match="could not be written: Is a directory"):
        resolver.unlink("telegram", "1")

    assert resolver.resolve("telegram", "1") == "alice"


def test_a_file_that_cannot_be_opened_is_not_taken_for_an_empty_one(path: Path) -> None:
    path.mkdir()

    with pytest.raises(StoreUnavailable, match="could not be read: Is a directory"):
        FileIdentityResolver(path)


def test_what_a_killed_writer_left_does_no_harm(path: Path) -> None:
    FileIdentityResolver(path).link("telegram", "1", "alice")
    left = path.parent / "identity.json.tmp"
    left.write_bytes(b'{"links": {' + b" " * 5000)
    left.chmod(0o666)

    FileIdentityResolver(path).link("telegram", "2", "alice")

    assert _mode(path) == 0o600
    assert not left.exists()
    assert len(FileIdentityResolver(path).links_for("alice")) == 2


def test_linking_again_or_unlinking_nothing_writes_nothing(path: Path) -> None:
    resolver = FileIdentityResolver(path)
    resolver.link("telegram", "1", "alice")
    before = path.stat()

    resolver.link("telegram", "1", "alice")
    resolver.unlink("telegram", "2")

    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert path.stat().st_ino == before.st_ino
