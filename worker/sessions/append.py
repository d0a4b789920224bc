"""The hot path: the mirrors of a whole batch of sent messages, in one statement.

Called by the delivery pipeline inside a transaction of its own; never commits.
"""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import orjson
import sqlalchemy as sa

from worker.sessions.entries import mended

_COLUMNS: Final = (
    "session_key, role, content, timestamp_ms, platform, chat, mirror, mirror_source,"
    " delivery_id, platform_message_ids, metadata"
)

# One JSON parameter that the database takes apart: 9 microseconds of CPU a row on SQLite, and
# 3 of the worker's (16 of the server's) on PostgreSQL, at 64 rows. One VALUES list with its
# eleven parameters a row costs more on both, and so do arrays through unnest.
_SQLITE: Final = f"""
INSERT INTO message ({_COLUMNS})
SELECT json_extract(value, '$.k'), 'assistant', json_extract(value, '$.c'),
       json_extract(value, '$.t'), json_extract(value, '$.p'), json_extract(value, '$.h'), 1,
       json_extract(value, '$.s'), json_extract(value, '$.d'), json_extract(value, '$.i'),
       json_extract(value, '$.m')
FROM json_each(?) WHERE true
ON CONFLICT (delivery_id) DO NOTHING
"""
_POSTGRESQL: Final = f"""
INSERT INTO message ({_COLUMNS})
SELECT k, 'assistant', c, t, p, h, true, s, d, i, m
FROM json_to_recordset(%s::json)
     AS r(k text, c text, t bigint, p text, h text, s text, d text, i json, m json)
ON CONFLICT (delivery_id) DO NOTHING
"""

#: An escaped NUL, and before it any number of escaped backslashes that are not its own.
_NUL: Final = re.compile(rb"(?<!\\)((?:\\\\)*)\\u0000")


@dataclass(frozen=True, slots=True)
class Mirror:
    """The copy of one sent message, for one conversation.

    Attributes:
        session_key: Whose conversation: the unified user.
        timestamp_ms: When the platform accepted it, epoch milliseconds UTC.
        source: What made the message (`cron`, `broadcast`, ...).
        delivery_id: One mirror at most for each; `None` where no delivery is behind it.
        metadata: Plain JSON; keys of a message's own (`role`, `content`, ...) have no effect.
    """

    session_key: str
    content: str
    timestamp_ms: int
    platform: str | None
    chat: str | None
    source: str
    delivery_id: str | None
    platform_message_ids: tuple[str, ...] = ()
    metadata: dict[str, object] = field(default_factory=dict)


def insert_mirrors(conn: sa.Connection, rows: Sequence[Mirror]) -> None:
    """Append mirrors in the order given; those whose delivery has one already change nothing.

    One statement whatever the number of rows, made for some hundred at most. Text that a
    database cannot keep (NUL, a lone surrogate) is kept as U+FFFD, and what JSON does not have
    as its text: one such message must not cost the whole batch its mirrors.
    """
    if not rows:
        return
    statement = _SQLITE if conn.dialect.name == "sqlite" else _POSTGRESQL
    conn.exec_driver_sql(statement, (_encode(rows),))


def _encode(rows: Sequence[Mirror]) -> str:
    records = [
        {
            "k": row.session_key,
            "c": row.content,
            "t": row.timestamp_ms,
            "p": row.platform,
            "h": row.chat,
            "s": row.source,
            "d": row.delivery_id,
            "i": row.platform_message_ids,
            "m": row.metadata,
        }
        for row in rows
    ]
    try:
        encoded = orjson.dumps(records)
    except orjson.JSONEncodeError:
        # The slow way, for what orjson refuses: lone surrogates, integers over 64 bits.
        encoded = json.dumps(_mended(records), default=str).encode()
    if b"\\u0000" in encoded:
        encoded = _NUL.sub(rb"\1\\ufffd", encoded)
    return encoded.decode()


def _mended(value: object) -> object:
    match value:
        case str():
            return mended(value)
        case float() if not math.isfinite(value):
            return None
        case dict():
            return {mended(str(key)): _mended(item) for key, item in value.items()}
        case list() | tuple():
            return [_mended(item) for item in value]
        case _:
            return value
