"""Members: the lines of an audience file or of a generator, read one by one and checked.

Nothing is stored here, and no more than a line is in memory.
"""

import csv
import inspect
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import IO

import orjson

from scheduler.bounded_lines import bounded_lines
from worker.errors import Refused
from worker.platforms import platforms
from worker.targets import USER, Target, parse_target

#: Columns of a file that name the member, the first one that is filled in.
_NAMES = ("target", USER)
_FORM = "the first line must name the columns, such as target,name or user,name"


@dataclass(frozen=True, slots=True)
class Member:
    """One line that can be used."""

    target: Target
    attributes: Mapping[str, object]

    def as_row(self, n: int) -> dict[str, object]:
        """Give the columns of `audience_member`."""
        target = self.target
        platform, chat = target.platform, target.chat_id
        if target.is_person:
            # `user:telegram:5` may be somebody whose account was linked meanwhile.
            name, _, account = chat.partition(":")
            platform, chat = (name, account) if account and name in platforms() else ("", "")
        return {
            "n": n,
            "target": str(target),
            "platform": platform or None,
            "account": target.account,
            "chat_id": chat or None,
            "thread_id": target.thread,
            "attributes": dict(self.attributes) or None,
        }


@dataclass(frozen=True, slots=True)
class Broken:
    """One line that cannot be used; lines are counted from 1."""

    line: int
    why: str


def read_file(path: Path, advance: Callable[[int], None]) -> Iterator[Member | Broken]:
    """Read a CSV file with a header, or JSON lines, in UTF-8.

    Args:
        advance: Is told the bytes that were read, now and then.

    Raises:
        Refused: It is not such a file.
    """
    read = {".csv": _csv, ".jsonl": _json_lines, ".ndjson": _json_lines}.get(path.suffix.lower())
    if read is None:
        raise Refused(f"{path} is neither CSV nor JSON lines: name it .csv or .jsonl")
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            yield from read(path, _watched(file, advance))
    except OSError as error:
        raise Refused(f"{path} cannot be read: {error.strerror}") from None


def _watched(file: IO[str], advance: Callable[[int], None]) -> Iterator[str]:
    """Give the lines of a file and tell how far it was read."""
    descriptor, seen = file.fileno(), 0
    for line in bounded_lines(file):
        if (now := os.lseek(descriptor, 0, os.SEEK_CUR)) != seen:
            advance(now - seen)
            seen = now
        yield line


def _csv(path: Path, lines: Iterator[str]) -> Iterator[Member | Broken]:
    reader = csv.reader(lines, strict=True)
    header: list[str] | None = None
    while True:
        begun = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if header is None:
                raise Refused(f"{path} is no CSV: {error}; {_FORM}") from None
            yield Broken(begun, f"is no CSV: {error}")
            # A quote that nobody closed has taken other people's lines with it.
            for line in range(begun + 1, reader.line_num + 1):
                yield Broken(line, f"is behind a quote that line {begun} opens and does not close")
            continue
        if not any(cell.strip() for cell in cells):
            continue
        if header is None:
            header = _header(path, cells)
        elif len(cells) != len(header):
            yield Broken(reader.line_num, f"has {len(cells)} columns, the header {len(header)}")
        else:
            # An empty cell is something that is not known.
            known = {name: cell for name, cell in zip(header, cells, strict=True) if cell.strip()}
            yield _member(reader.line_num, known)


def _header(path: Path, cells: list[str]) -> list[str]:
    header = [cell.strip() for cell in cells]
    if not any(name in header for name in _NAMES):
        raise Refused(f"{path} has no column target or user: {_FORM}")
    if "" in header or len(set(header)) < len(header):
        raise Refused(f"{path} has a column without a name, or one twice: {_FORM}")
    return header


def _json_lines(_path: Path, lines: Iterator[str]) -> Iterator[Member | Broken]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            found = orjson.loads(line)
        # Half of a surrogate pair stands for a byte that is not UTF-8.
        except (orjson.JSONDecodeError, UnicodeEncodeError) as error:
            yield Broken(number, f"is not JSON: {error}")
            continue
        if isinstance(found, dict):
            yield _member(number, found)
        else:
            yield Broken(number, 'is not an object such as {"target": "telegram:123"}')


def _member(line: int, fields: Mapping[str, object]) -> Member | Broken:
    attributes = {k: v for k, v in fields.items() if k not in _NAMES and v is not None}
    named = [(name, fields[name]) for name in _NAMES if fields.get(name) not in (None, "")]
    if not named:
        return Broken(line, "names neither target nor user")
    name, value = named[0]
    if not isinstance(value, str):
        return Broken(line, f"{name} must be a string, not {type(value).__name__}")
    stripped = value.strip()
    return checked(line, f"{USER}:{stripped}" if name == USER else stripped, attributes)


def checked(line: int, target: str, attributes: Mapping[str, object]) -> Member | Broken:
    """Give a member, or why it cannot be one."""
    try:
        parsed = parse_target(target)
    except Refused as error:
        return Broken(line, str(error))
    if attributes:
        try:
            packed = orjson.dumps(dict(attributes))
        except TypeError as error:
            why = "is not UTF-8" if "surrogate" in str(error) else f"is not JSON: {error}"
            return Broken(line, f"an attribute {why}")
        if b"\\u0000" in packed:
            return Broken(line, "an attribute has a NUL character: leave it away")
    return Member(parsed, attributes)


def generator(name: str) -> Callable[[], Iterable[object]]:
    """Find a generator by `package.module:function`, from the working directory too.

    Raises:
        Refused: There is none.
    """
    module_name, colon, function_name = name.partition(":")
    if not (colon and module_name and function_name):
        raise Refused(f"{name!r} names no generator: write package.module:function")
    if (directory := str(Path.cwd())) not in sys.path:
        # Last, so that it hides nothing.
        sys.path.append(directory)
    try:
        function = getattr(import_module(module_name), function_name)
    # A user's module may raise anything while it is imported, and end the process.
    except (Exception, SystemExit) as error:
        reason = f"{type(error).__name__}: {error}"
        raise Refused(f"the generator {name} cannot be imported: {reason}") from error
    if not callable(function) or inspect.iscoroutinefunction(function):
        raise Refused(f"{name} is no function that gives targets one by one")
    return partial(_called, name, function)


def _called(name: str, function: Callable[[], Iterable[object]]) -> Iterator[object]:
    try:
        yield from function()
    except (Exception, SystemExit) as error:
        reason = f"{type(error).__name__}: {error}"
        raise Refused(f"the generator {name} failed: {reason}") from error


def read_generated(given: Iterable[object]) -> Iterator[Member | Broken]:
    """Read what a generator yields: targets, or pairs of a target and its attributes."""
    for number, each in enumerate(given, 1):
        match each:
            case str():
                yield checked(number, each, {})
            case (str() as target, Mapping() as attributes):
                yield checked(
                    number, target, {k: v for k, v in attributes.items() if v is not None}
                )
            case _:
                yield Broken(
                    number, f"is a {type(each).__name__}: yield 'telegram:123', or that and a dict"
                )
