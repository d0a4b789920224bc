"""The sandbox edits and deletes as the platforms do, by our own adapters' requests."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta

import aiohttp
import pytest

from worker.platforms import platform
from worker.platforms.base import Bot, Edits, Message, Request, Response, Retracts
from worker.sandbox import RunningSandbox, start_sandbox
from worker.sandbox.store import Accepted
from worker.sandbox.telegram import DELETABLE_S
from worker.taxonomy import ErrorKind, Failure, Outcome, Receipt

TOKENS = {
    "TELEGRAM_BOT_TOKEN": "123456:AAH-test_token",
    "DISCORD_BOT_TOKEN": "test.token",
    "SLACK_BOT_TOKEN": "xoxb-test",
}
CHATS = {"telegram": "-1001234", "discord": "1001", "slack": "C024BE91L"}
NAMES = list(CHATS)


class Post:
    """One adapter over real HTTP."""

    def __init__(self, sandbox: RunningSandbox, http: aiohttp.ClientSession, name: str) -> None:
        self.sandbox, self.http, self.name = sandbox, http, name
        self.adapter = platform(name)
        self.bot = Bot(name, "", {**TOKENS, **sandbox.base_urls()})
        self.chat = CHATS[name]

    async def _ask(self, request: Request) -> Response:
        async with self.http.request(
            request.method, request.url, headers=dict(request.headers), data=request.content
        ) as answer:
            headers = {name.lower(): value for name, value in answer.headers.items()}
            return Response(answer.status, headers, await answer.read())

    async def send(self, text: str) -> str:
        answer = await self._ask(self.adapter.request(self.message(text), self.bot))
        outcome = self.adapter.outcome(answer)
        assert isinstance(outcome, Receipt), outcome
        self.chat = outcome.chat_id or self.chat
        return outcome.message_ids[0]

    async def edit(self, id_: str, text: str) -> Outcome:
        assert isinstance(self.adapter, Edits)
        answer = await self._ask(self.adapter.editing(self.message(text), id_, self.bot))
        return self.adapter.edited(answer, id_)

    async def retract(self, id_: str) -> Outcome:
        assert isinstance(self.adapter, Retracts)
        answer = await self._ask(self.adapter.retracting(self.message(""), id_, self.bot))
        return self.adapter.retracted(answer, id_)

    def message(self, text: str) -> Message:
        return Message(f"d-{text}", self.chat, text, 1_700_000_000)

    async def fault(self, kind: str) -> None:
        body = {"platform": self.name, "fault": kind, "times": 1}
        async with self.http.post(f"{self.sandbox.url}/_sandbox/faults", json=body) as answer:
            assert answer.status == 201

    def kept(self) -> Accepted:
        (only,) = self.sandbox.state.store.messages(self.name)
        return only


def over_http(
    name: str, scenario: Callable[[Post], Awaitable[None]], *, limits: bool = False
) -> None:
    async def run() -> None:
        async with await start_sandbox(limits=limits) as sandbox, aiohttp.ClientSession() as http:
            await scenario(Post(sandbox, http, name))

    asyncio.run(run())


@pytest.mark.parametrize("name", NAMES)
def test_a_message_reads_as_edited_and_is_then_gone_and_twice_does_no_harm(name: str) -> None:
    async def scenario(post: Post) -> None:
        id_ = await post.send("first")
        for _ in range(2):
            assert await post.edit(id_, "second") == Receipt((id_,))
        assert (post.kept().text, post.kept().edited, post.kept().deleted) == (
            "second",
            True,
            False,
        )
        for _ in range(2):
            assert await post.retract(id_) == Receipt((id_,))
        assert post.kept().deleted
        refused = await post.edit(id_, "third")
        assert isinstance(refused, Failure)
        assert refused.kind is ErrorKind.INVALID

    over_http(name, scenario)


@pytest.mark.parametrize("name", NAMES)
def test_the_limits_of_messages_and_their_faults_hold_for_edits(name: str) -> None:
    async def scenario(post: Post) -> None:
        id_ = await post.send("first")
        await post.fault("blocked")
        refused = await post.edit(id_, "second")
        assert isinstance(refused, Failure)
        assert post.kept().text == "first"
        found = [await post.edit(id_, f"text {n}") for n in range(30)]
        limited = [each for each in found if isinstance(each, Failure)]
        assert limited
        assert {each.kind for each in limited} == {ErrorKind.RATE_LIMITED}

    over_http(name, scenario, limits=True)


def test_a_direct_message_on_slack_is_changed_in_the_channel_that_it_went_to() -> None:
    async def scenario(post: Post) -> None:
        post.chat = "U024BE7LH"
        id_ = await post.send("first")
        assert post.chat == "D024BE7LH"
        assert await post.edit(id_, "second") == Receipt((id_,))
        assert post.kept().text == "second"

    over_http("slack", scenario)


def test_telegram_deletes_nothing_that_is_older_than_two_days_and_says_so() -> None:
    async def scenario(post: Post) -> None:
        id_ = await post.send("old")
        post.kept().at -= timedelta(seconds=DELETABLE_S + 1)
        refused = await post.retract(id_)
        assert isinstance(refused, Failure)
        assert "can't be deleted" in refused.text
        assert not post.kept().deleted

    over_http("telegram", scenario)
