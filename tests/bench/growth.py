"""What a delivery costs beside few and beside many ended ones: claim, settle, relay.

The same rows are stored, made due, claimed and settled with their mirrors in two databases of
one PostgreSQL, in turns.

Example: python -m tests.bench.growth --ended 5000000
"""

import argparse
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from statistics import median

from rich.console import Console
from rich.table import Table
from sqlalchemy import Engine, text

from tests.bench.machine import describe, pin
from tests.servers import PostgresServer, empty_database
from worker import due, outbox
from worker.database import engine as open_engine
from worker.database import migrate
from worker.intake import check
from worker.lanes import Lane
from worker.mirror_batch import mirror_sent
from worker.states import State
from worker.verdict import Place, Settlement

#: The ended rows of the small database.
_FEW = 10_000
#: Rows of one statement that stores ended ones.
_CHUNK = 250_000
#: Rows of one claim, as a worker's.
_CLAIM = 64
_STEPS = ("relay", "claim", "settle")

_ENDED = text(
    """
    INSERT INTO delivery (id, key, body_hash, target, platform, account, chat_id, unified_user,
        text, silent, source, lane, policy, state, due_ms, created_ms, attempt, attempts_used,
        published_ms, maybe_duplicate, receipt, ended_ms, mirror)
    SELECT lpad(to_hex(n), 32, '0'), 'old:' || n, 'h', 'telegram:' || n % 1000, 'telegram', '',
        (n % 1000)::text, 'telegram:' || n % 1000, 'an ended delivery of the usual length', false,
        'bench', 'broadcast', 'resend', 'sent', n, n, 1, 1, n, false, '["1"]', n, 'done'
    FROM generate_series(CAST(:first AS bigint), CAST(:last AS bigint)) AS n
    """
)
_HISTORY = text(
    """
    INSERT INTO attempt (delivery_id, attempt, owner, started_ms, took_ms, outcome)
    SELECT lpad(to_hex(n), 32, '0'), 1, 'bench', n, 1, 'sent'
    FROM generate_series(CAST(:first AS bigint), CAST(:last AS bigint)) AS n
    """
)
_MESSAGES = text(
    """
    INSERT INTO message (session_key, role, content, timestamp_ms, platform, chat, mirror,
        mirror_source, delivery_id, platform_message_ids, metadata)
    SELECT 'telegram:' || n % 1000, 'assistant', 'an ended delivery of the usual length', n,
        'telegram', (n % 1000)::text, true, 'bench', lpad(to_hex(n), 32, '0'), '["1"]', '{}'
    FROM generate_series(CAST(:first AS bigint), CAST(:last AS bigint)) AS n
    """
)


@contextmanager
def _filled(server: PostgresServer, ended: int, progress: Console) -> Iterator[Engine]:
    """Give a database with so many ended deliveries, each with its attempt and its mirror."""
    with empty_database(server.url) as url:
        engine = open_engine(url)
        migrate(engine)
        for first in range(1, ended + 1, _CHUNK):
            last = min(first + _CHUNK - 1, ended)
            with engine.begin() as connection:
                for statement in (_ENDED, _HISTORY, _MESSAGES):
                    connection.execute(statement, {"first": first, "last": last})
            progress.print(f"{last:,} of {ended:,} ended rows", style="dim")
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            for table in ("delivery", "attempt", "message"):
                connection.exec_driver_sql(f"VACUUM ANALYZE {table}")
            connection.exec_driver_sql("CHECKPOINT")
        try:
            yield engine
        finally:
            engine.dispose()


def _round(engine: Engine, deliveries: int) -> dict[str, float]:
    """Give the milliseconds a delivery that each step took."""
    new = [
        check(to=f"telegram:{n % 1000 + 1}", text="x" * 260, lane=Lane.BROADCAST)
        for n in range(deliveries)
    ]
    with engine.begin() as connection:
        outbox.insert(connection, new)
        connection.execute(text("UPDATE delivery SET state = 'scheduled' WHERE state = 'queued'"))
    spent = dict.fromkeys(_STEPS, 0.0)
    for step, seconds in _deliver(engine):
        spent[step] += seconds
    return {step: seconds * 1000 / deliveries for step, seconds in spent.items()}


def _deliver(engine: Engine) -> Iterator[tuple[str, float]]:
    begun = time.perf_counter()
    found = due.BATCH
    while found >= due.BATCH:
        with engine.begin() as connection:
            due.next_duty(connection)
            due.expire(connection)
            due.rescue(connection, keyed=["discord"], asked=["slack"])
            found = len(due.queue_due(connection))
    yield "relay", time.perf_counter() - begun
    while True:
        begun = time.perf_counter()
        with engine.begin() as connection:
            claimed = outbox.claim(connection, owner="bench", lease_ms=60_000, limit=_CLAIM).claimed
        yield "claim", time.perf_counter() - begun
        if not claimed:
            return
        settlements = [
            Settlement(
                c.id,
                c.attempt,
                State.SENT,
                Place("telegram", "", c.chat_id, None, c.target),
                cost=1,
                receipt=("1",),
                mirror="done",
                outcome="sent",
                started_ms=c.created_ms,
            )
            for c in claimed
        ]
        begun = time.perf_counter()
        with engine.begin() as connection:
            outbox.settle(connection, settlements, owner="bench")
            mirror_sent(connection, list(zip(claimed, settlements, strict=True)), singly=False)
        yield "settle", time.perf_counter() - begun


def main() -> int:
    """Measure in turns and print the medians."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.growth", description=__doc__)
    parser.add_argument("--ended", type=int, default=5_000_000, help="ended rows (5000000)")
    parser.add_argument("--deliveries", type=int, default=5_000, help="of a run (5000)")
    parser.add_argument("--runs", type=int, default=7, help="rounds of both databases (7)")
    arguments = parser.parse_args()
    machine, progress = describe(pin()), Console(stderr=True)
    server = PostgresServer(durable=True)
    try:
        server.start()
        with ExitStack() as stack:
            engines = {
                ended: stack.enter_context(_filled(server, ended, progress))
                for ended in (_FEW, arguments.ended)
            }
            for engine in engines.values():
                _round(engine, arguments.deliveries)
            rounds = [
                {ended: _round(engine, arguments.deliveries) for ended, engine in engines.items()}
                for _ in range(arguments.runs)
            ]
    finally:
        server.close()
    console = Console(width=None if sys.stdout.isatty() else 110)
    console.print(f"{machine.cpu}, {machine.cores}, {machine.kernel}, Python {machine.python}")
    table = Table("step", *(f"ms beside {n:,}" for n in engines), "ratio")
    for step in (*_STEPS, "all"):
        cost = [
            median(sum(r[n].values()) if step == "all" else r[n][step] for r in rounds)
            for n in engines
        ]
        table.add_row(step, *(f"{each:.4f}" for each in cost), f"{cost[1] / cost[0]:.2f}")
    console.print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
