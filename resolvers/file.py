"""Identity links in one JSON file, shared by the processes of one machine.

Every change is written whole, beside the file, and moved over it under a lock that other
processes respect; every read first looks whether the file changed. A file that cannot be
read as links is kept aside and reported, never lost.
"""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

import orjson
import structlog
from filelock import FileLock

from resolvers.errors import StoreUnavailable
from resolvers.protocol import (
    IdentityLink,
    check_account,
    check_link,
    created_ms,
    is_linkable,
    link_at,
    now_ms,
    unlinked,
)
from resolvers.table import LinkTable

#: Seconds to wait for another process's write; one of 100,000 links takes well under one.
LOCK_TIMEOUT_S = 10.0
#: Links say who talks to the bot under which account: nobody else's business.
FILE_MODE = 0o600
DIRECTORY_MODE = 0o700

_log = structlog.get_logger(__name__)


class _Unreadable(ValueError):
    """What the file holds is not links."""


@dataclass(frozen=True, slots=True)
class _Stamp:
    """What tells one state of the file from another."""

    mtime_ns: int
    inode: int
    size: int


@dataclass(frozen=True, slots=True)
class _Snapshot:
    """The links of one state of the file; no stamp: there is no file."""

    stamp: _Stamp | None
    table: LinkTable


def default_identity_path() -> Path:
    """Return the path that the environment gives now.

    `MIRRORPOST_IDENTITY_PATH`, else `identity.json` in `MIRRORPOST_HOME`, else in
    `~/.mirrorpost`.
    """
    if path := os.environ.get("MIRRORPOST_IDENTITY_PATH"):
        return Path(path)
    return Path(os.environ.get("MIRRORPOST_HOME") or "~/.mirrorpost") / "identity.json"


class FileIdentityResolver:
    """Keep links in a JSON file of mode 0600, by default where the environment says.

    Not for many links or several machines: each link rewrites the file, and locks do not
    hold on every network file system. Reads are one `stat`.

    Raises `StoreUnavailable`: the file is there and cannot be opened.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        given = default_identity_path() if path is None else Path(path)
        # Resolved: replacing a symbolic link would detach the file that it leads to.
        self._path = given.expanduser().resolve()
        self._lock = threading.Lock()
        self._snapshot = _Snapshot(None, LinkTable())
        self._current()
        with suppress(OSError):
            # Another owner's file stays as it is until the first write replaces it.
            self._path.chmod(FILE_MODE)

    @property
    def path(self) -> Path:
        """The file, absolute and with symbolic links followed."""
        return self._path

    def resolve(self, platform: str, platform_user_id: str) -> str:
        """Return the unified user of an account, `platform:platform_user_id` when unlinked."""
        if not is_linkable(platform, platform_user_id):
            return unlinked(platform, platform_user_id)
        return self._current().resolve(platform, platform_user_id)

    def link(self, platform: str, platform_user_id: str, unified_user_id: str) -> None:
        """Make an account one of a unified user's, taking it from whoever had it before.

        Raises `InvalidIdentity`: an id is empty, too long or not text; nothing was stored.
        Raises `StoreUnavailable`: the file could not be written; the links are as before.
        """
        check_link(platform, platform_user_id, unified_user_id)
        link = link_at(platform, platform_user_id, unified_user_id, now_ms())
        self._change(lambda table: table.put(link))

    def unlink(self, platform: str, platform_user_id: str) -> None:
        """Forget an account's link; without one, do nothing.

        Raises `StoreUnavailable`: the file could not be written; the links are as before.
        """
        check_account(platform, platform_user_id)
        self._change(lambda table: table.remove((platform, platform_user_id)))

    def links_for(self, unified_user_id: str) -> list[IdentityLink]:
        """Return every link of a unified user, ordered by account."""
        return self._current().links_for(unified_user_id)

    def links(self, limit: int = 1000) -> list[IdentityLink]:
        """Return the first `limit` links, ordered by account."""
        return self._current().links(limit)

    def _current(self) -> LinkTable:
        """Return the links as the file has them now. Tables are never changed once shown."""
        snapshot = self._snapshot
        with self._unavailable("read"):
            if _stamp_of(self._path) == snapshot.stamp:
                return snapshot.table
            with self._lock:
                try:
                    self._snapshot = _read(self._path)
                except _Unreadable:
                    with self._file_lock():
                        self._snapshot = self._read_or_restore()
                return self._snapshot.table

    def _change(self, change: Callable[[LinkTable], bool]) -> None:
        """Apply `change` to what the file has now; write unless it says that nothing changed."""
        with self._unavailable("written"), self._lock:
            self._path.parent.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
            with self._file_lock():
                before = self._snapshot = self._read_or_restore()
                table = LinkTable(before.table)
                if change(table):
                    self._snapshot = _write(self._path, table, before.stamp)

    def _read_or_restore(self) -> _Snapshot:
        """Read the file; one that holds no links is kept aside and the last known put back.

        The caller holds both locks.
        """
        try:
            return _read(self._path)
        except _Unreadable as error:
            kept_as = _keep_aside(self._path)
            known = self._snapshot.table
            _log.error(
                "identity_file_unreadable",
                path=str(self._path),
                reason=str(error),
                kept_as=str(kept_as),
                links_put_back=len(known),
            )
            return _write(self._path, known, _stamp_of(self._path))

    def _file_lock(self) -> FileLock:
        return FileLock(f"{self._path}.lock", timeout=LOCK_TIMEOUT_S, mode=FILE_MODE)

    @contextmanager
    def _unavailable(self, done: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = error.strerror or error
            raise StoreUnavailable(f"{self._path} could not be {done}: {reason}") from error


def _stamp_of(path: Path) -> _Stamp | None:
    try:
        return _stamp(path.stat())
    except FileNotFoundError:
        return None


def _stamp(stat: os.stat_result) -> _Stamp:
    return _Stamp(stat.st_mtime_ns, stat.st_ino, stat.st_size)


def _read(path: Path) -> _Snapshot:
    """Return what the file holds; nothing when there is none.

    Raises `_Unreadable`: there is something else in it.
    """
    try:
        with path.open("rb") as file:
            # Of the open file: the path may lead to another one by now.
            stamp = _stamp(os.fstat(file.fileno()))
            content = file.read()
    except FileNotFoundError:
        return _Snapshot(None, LinkTable())
    return _Snapshot(stamp, LinkTable(_parse(content)))


def _parse(content: bytes) -> list[IdentityLink]:
    try:
        links = []
        for platform, accounts in orjson.loads(content)["links"].items():
            for user_id, stored in accounts.items():
                check_link(platform, user_id, stored["unified_user_id"])
                links.append(
                    link_at(platform, user_id, stored["unified_user_id"], stored["created_ms"])
                )
        return links
    except KeyError as error:
        raise _Unreadable(f"there is no {error}") from error
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        raise _Unreadable(str(error)) from error


def _serialize(table: LinkTable) -> bytes:
    # Nested by platform: no separator, so no id that contains it can be taken apart wrongly.
    links: dict[str, dict[str, dict[str, str | int]]] = {}
    for link in table:
        links.setdefault(link.platform, {})[link.platform_user_id] = {
            "unified_user_id": link.unified_user_id,
            "created_ms": created_ms(link),
        }
    return orjson.dumps({"links": links}, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS)


def _write(path: Path, table: LinkTable, before: _Stamp | None) -> _Snapshot:
    """Replace the file by `table`, on disk when this returns. The caller holds the file lock."""
    # One name, safe under the lock: what a killed writer left is written over, not piled up.
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        with _create(temporary) as file:
            file.write(_serialize(table))
            file.flush()
            # Two writes within one tick of the file system's clock, on a reused inode, would
            # look like one: each is dated after the one that it replaces.
            mtime_ns = max(now_ms() * 1_000_000, before.mtime_ns + 1 if before else 0)
            os.utime(file.fileno(), ns=(mtime_ns, mtime_ns))
            os.fsync(file.fileno())
            stamp = _stamp(os.fstat(file.fileno()))
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    _sync_directory(path.parent)
    return _Snapshot(stamp, table)


def _keep_aside(path: Path) -> Path:
    """Copy the file next to itself under a name of its own; return the copy, on disk."""
    content = path.read_bytes()
    now = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    kept_as = path.with_name(f"{path.name}.corrupt-{now}")
    with _create(kept_as) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    _sync_directory(path.parent)
    return kept_as


def _create(path: Path) -> BinaryIO:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, FILE_MODE)
    # The mode above is for a new file only.
    os.fchmod(descriptor, FILE_MODE)
    return os.fdopen(descriptor, "wb")


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
