"""The drain with its database and nothing behind it: what it does when something goes wrong."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Sequence
from math import inf
from typing import Any

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import OperationalError

from resolvers import SqlIdentityResolver
from tests.waiting import wait_until
from worker import due, etiquette, outbox, senders
from worker.bots import Bots
from worker.database import engine as engine_of
from worker.database import migrate
from worker.intake import check
from worker.limiter import Ask, Permit
from worker.pipeline import Drain
from worker.platforms.base import Request, Response
from worker.settings import Settings, _environment


class NoLimits:
    """A limiter that lets everything go."""

    async def permit(self, asks: Sequence[Ask]) -> list[Permit]:
        return [Permit(granted=True, wait_s=0.0, good_s=inf) for _ in asks]


class Accepts:
    """A client whose platform accepts everything."""

    def __init__(self) -> None:
        self.sent = 0

    async def send(self, _request: Request) -> Response:
        self.sent += 1
        return Response(200, {}, b'{"ok": true, "result": {"message_id": 7}}')


class Worker:
    """One process's drain on a database."""

    def __init__(self, database: Engine) -> None:
        self.engine = database
        self.client = Accepts()

    def put(self, to: str = "telegram:5") -> str:
        with self.engine.begin() as connection:
            new = check(to=to, text="hello", order="none", lane="cron")
            return outbox.insert(connection, [new])[0].id

    def row(self, id_: str) -> Any:
        with self.engine.begin() as connection:
            return connection.execute(
                text("SELECT * FROM delivery WHERE id = :id"), {"id": id_}
            ).one()

    async def reaches(self, id_: str, state: str) -> None:
        await asyncio.to_thread(wait_until, lambda: self.row(id_).state == state, 10)

    def lose_leases(self) -> None:
        """Let the leases end and the relay take the rows up again."""
        with self.engine.begin() as connection:
            connection.execute(text("UPDATE delivery SET lease_until_ms = 1"))
            due.rescue(connection, keyed=("discord",), asked=())

    def run(self, act: Callable[[Drain], Coroutine[Any, Any, None]]) -> None:
        async def main() -> None:
            drain = Drain(
                engine=self.engine,
                resolver=SqlIdentityResolver(self.engine, cache_ttl_s=0),
                client=self.client,  # type: ignore[arg-type]
                limiter=NoLimits(),  # type: ignore[arg-type]
                bots=Bots(),
                owner="w1",
                settings=Settings(),
            )
            async with asyncio.timeout(20):
                await act(drain)
                await drain.stop(5)

        asyncio.run(main())


@pytest.fixture
def worker(database_url: str, home: object, monkeypatch: pytest.MonkeyPatch) -> Iterator[Worker]:
    monkeypatch.setenv("TELEGRAM_BOT_TOKEN", "7700001:tg-Zq3vKx81LmT0pWc5")
    _environment.cache_clear()
    made = engine_of(database_url)
    migrate(made)
    yield Worker(made)
    made.dispose()
    _environment.cache_clear()


def test_what_waits_too_long_and_is_claimed_again_by_the_same_process_leaves_once(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    id_ = worker.put()
    # Nobody sends yet, as when all senders wait for answers.
    monkeypatch.setattr(senders, "IN_FLIGHT", 0)

    async def act(drain: Drain) -> None:
        for _ in range(2):
            drain._more = True
            await drain._turn()
            if worker.row(id_).attempt == 1:
                worker.lose_leases()
        assert worker.row(id_).attempt == 2
        drain.start()
        behind = drain._senders
        behind._tasks.append(asyncio.create_task(behind._sender(behind._gates["telegram"])))
        await worker.reaches(id_, "sent")

    worker.run(act)
    assert worker.client.sent == 1


def test_what_was_claimed_when_the_database_failed_right_after_goes_out_as_if_nothing_was(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = worker.put("telegram:5"), worker.put("telegram:6")
    failing: list[str] = []

    def fail_once(*_: object) -> etiquette.Spared:
        if not failing:
            failing.append("now")
            raise OperationalError("SELECT", {}, Exception("the connection is lost"))
        return spare(*_)  # type: ignore[arg-type]

    spare = etiquette.spare

    async def act(drain: Drain) -> None:
        drain.start()
        await drain.deliver([first])
        await worker.reaches(first, "sent")
        monkeypatch.setattr(etiquette, "is_needed", lambda *_: True)
        monkeypatch.setattr(etiquette, "spare", fail_once)
        await drain.deliver([second])
        await worker.reaches(second, "sent")

    worker.run(act)
    row = worker.row(second)
    assert failing
    assert (row.attempts_used, bool(row.maybe_duplicate), worker.client.sent) == (1, False, 2)


def test_a_part_that_a_defect_ends_ends_the_process_so_that_its_leases_run_out(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    id_ = worker.put()
    with worker.engine.begin() as connection:
        connection.execute(text("UPDATE delivery SET lane = 'nonsense'"))
    ended = asyncio.Event()
    codes: list[int] = []

    def end(code: int) -> None:
        codes.append(code)
        ended.set()

    monkeypatch.setattr(senders.os, "_exit", end)

    async def act(drain: Drain) -> None:
        drain.start()
        delivering = asyncio.create_task(drain.deliver([id_]))
        await ended.wait()
        delivering.cancel()
        drain._held.let_go([(id_, 1)])

    worker.run(act)
    assert codes == [70]
