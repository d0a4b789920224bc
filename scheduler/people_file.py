"""A file of people: one a line, CSV with a head or JSON lines, read as a stream.

Every line names a `user`; `timezone` and `tags` are theirs, everything else is an attribute.
Called by `mirrorpost people import`.
"""

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from scheduler.bounded_lines import bounded_lines
from worker.errors import Refused
from worker.people.store import NewPerson, check_name
from worker.zones import parse_zone

#: What stands between tags in CSV.
_BETWEEN_TAGS = ";"


@dataclass(frozen=True, slots=True)
class Line:
    """One line: a person with their tags, or what is wrong with it.

    Attributes:
        end: Where in the file the next line begins, in bytes, nearly.
    """

    number: int
    end: int
    person: NewPerson | None = None
    tags: tuple[str, ...] = ()
    wrong: str | None = None


def read_people(path: Path) -> Iterator[Line]:
    """Give the people of a file, line by line; a broken one says what is wrong.

    Raises:
        Refused: The file cannot be read at all.
    """
    if path.suffix not in {".csv", ".jsonl"}:
        raise Refused(f"{path.name} must be a .csv with a head or a .jsonl with an object a line")
    try:
        with path.open("rb") as file:
            yield from _csv(file) if path.suffix == ".csv" else _json_lines(file)
    except OSError as error:
        raise Refused(f"{path} cannot be read: {error.strerror}") from None


def _lines(file: Any) -> Iterator[tuple[int, int, str | None]]:
    """Give number, end and text of each line that is not empty, `None` for what is no text."""
    end = 0
    for number, raw in enumerate(bounded_lines(file), 1):
        end += len(raw)
        try:
            text = raw.decode("utf-8-sig" if number == 1 else "utf-8").strip("\r\n")
        except UnicodeDecodeError:
            yield number, end, None
            continue
        if text.strip():
            yield number, end, text


def _json_lines(file: Any) -> Iterator[Line]:
    for number, end, text in _lines(file):
        try:
            if text is None:
                raise Refused("it is not UTF-8")
            try:
                fields = orjson.loads(text)
            except orjson.JSONDecodeError:
                raise Refused("it is not JSON") from None
            if not isinstance(fields, dict):
                raise Refused('it is no object such as {"user": "alice", "plan": "pro"}')
            person, tags = _person(fields)
        except Refused as refused:
            yield Line(number, end, wrong=str(refused))
        else:
            yield Line(number, end, person, tags)


def _csv(file: Any) -> Iterator[Line]:
    head: list[str] | None = None
    for number, end, text in _lines(file):
        try:
            if text is None:
                raise Refused("it is not UTF-8")
            cells = next(csv.reader([text], strict=True))
            if head is None:
                head = _head(cells)
                continue
            if len(cells) != len(head):
                raise Refused(f"it has {len(cells)} cells, the head has {len(head)}")
            person, tags = _person({k: v for k, v in zip(head, cells, strict=True) if v})
        except (Refused, csv.Error) as wrong:
            if head is None:
                raise Refused(f"line {number}: {wrong}") from None
            yield Line(number, end, wrong=str(wrong))
        else:
            yield Line(number, end, person, tags)


def _head(cells: list[str]) -> list[str]:
    names = [cell.strip() for cell in cells]
    if "user" not in names or "" in names or len(set(names)) < len(names):
        raise Refused("the head must name each column once, one of them user: user,name,plan")
    return names


def _person(fields: Mapping[str, Any]) -> tuple[NewPerson, tuple[str, ...]]:
    rest = dict(fields)
    user, zone, tags = rest.pop("user", None), rest.pop("timezone", None), rest.pop("tags", None)
    if not isinstance(user, str):
        raise Refused("it names no user")
    if isinstance(tags, str):
        tags = [tag.strip() for tag in tags.split(_BETWEEN_TAGS) if tag.strip()]
    if not isinstance(tags or [], list) or not all(isinstance(tag, str) for tag in tags or []):
        raise Refused('tags must be a list such as ["beta", "pro"]')
    if zone is not None:
        parse_zone(str(zone))
    check_attributes(rest)
    names = tuple(check_name("tag", tag) for tag in tags or [])
    return NewPerson(check_name("person", user), rest, zone), names


def check_attributes(attributes: Mapping[str, Any]) -> None:
    """Raise `Refused` for what neither database keeps or no template could name."""
    for name in attributes:
        if not name.isidentifier():
            raise Refused(f"{name!r} is no name of an attribute: write letters, digits and _")
    try:
        packed = orjson.dumps(attributes)
    except orjson.JSONEncodeError:
        raise Refused("the attributes are not valid Unicode or JSON") from None
    if b"\\u0000" in packed:
        raise Refused("an attribute has a NUL character: leave it away")
