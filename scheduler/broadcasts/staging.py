"""Staging: rows on their way into the database, in a table that only their connection sees.

What takes long (a file to read, people to find, templates to fill) is done there without a
lock that anybody waits for, and goes into the real tables in one short transaction. A process
that dies leaves nothing.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice

import orjson
from sqlalchemy import Connection, Engine, text

from scheduler.broadcasts.members import Broken, Member
from worker.json_rows import rows_from_json

#: Rows of one statement.
CHUNK = 5_000
#: Broken lines of which the reason is kept.
SHOWN = 20
_COLUMNS = {
    "n": "bigint",
    "target": "text",
    "platform": "text",
    "account": "text",
    "chat_id": "text",
    "thread_id": "text",
    "attributes": "json",
}


@contextmanager
def staging(engine: Engine) -> Iterator[Connection]:
    """Give a connection for temporary tables, which vanish with it; it writes nothing else.

    `writing` lets it write.
    """
    with engine.connect().execution_options(mirrorpost_reads=True) as connection:
        connection.detach()
        yield connection


@contextmanager
def writing(connection: Connection) -> Iterator[None]:
    """Let a connection of `staging` write into real tables, in one transaction."""
    connection.commit()
    connection.execution_options(mirrorpost_reads=False)
    with connection.begin():
        yield
    connection.execution_options(mirrorpost_reads=True)


def stage(
    connection: Connection, lines: Iterable[Member | Broken], advance: Callable[[int], None]
) -> tuple[int, int, list[Broken]]:
    """Put members into the temporary table `staged`; give how many, how many not, and some."""
    columns = ", ".join(f"{name} {kind}" for name, kind in _COLUMNS.items())
    connection.execute(text(f"CREATE TEMPORARY TABLE staged ({columns})"))
    names = ", ".join(_COLUMNS)
    insert = text(
        f"INSERT INTO staged ({names}) SELECT {names} "
        f"FROM ({rows_from_json(connection.dialect.name, _COLUMNS)}) AS r"
    )
    used, unusable, shown = 0, 0, list[Broken]()
    remaining = iter(lines)
    while chunk := list(islice(remaining, CHUNK)):
        rows = []
        for line in chunk:
            if isinstance(line, Member):
                used += 1
                rows.append(line.as_row(used))
            else:
                unusable += 1
                if len(shown) < SHOWN:
                    shown.append(line)
        connection.execute(insert, {"rows": orjson.dumps(rows).decode()})
        advance(len(chunk))
    return used, unusable, shown
