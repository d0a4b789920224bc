"""What notes are kept under and asked for by."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import orjson

#: Columns of `Dead`, as `worker.json_rows` takes them.
KEY = {"platform": "text", "account": "text", "chat_id": "text", "thread_id": "text"}


class Dead(NamedTuple):
    """The key of a dead target; an empty thread means the whole chat."""

    platform: str
    account: str
    chat_id: str
    thread_id: str = ""


class Place(NamedTuple):
    """A place to be looked up, with the credential that its bot has in this process.

    Attributes:
        thread_id: Empty outside threads.
        credential_print: Its fingerprint.
    """

    platform: str
    account: str
    chat_id: str
    thread_id: str = ""
    credential_print: str = ""


def same(other: str) -> str:
    """Give SQL that is true where a row of `dead_target` has the key of another one."""
    return " AND ".join(f"dead_target.{name} = {other}.{name}" for name in KEY)


def packed(rows: Iterable[Mapping[str, object]]) -> str:
    """Give rows as the parameter of `worker.json_rows`."""
    return orjson.dumps(list(rows)).decode()
