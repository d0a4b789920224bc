import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import replace

import aiohttp
import pytest
from standardwebhooks import Webhook as Judge

from worker.platforms import platform
from worker.platforms.base import Bot, Message, Request, Response
from worker.platforms.discord import Discord
from worker.sandbox import RunningSandbox, start_sandbox
from worker.taxonomy import ErrorKind, Failure, Outcome, Receipt, Scope

CHATS = {"telegram": "-1001234", "discord": "1001", "slack": "C024BE91L"}
TOKENS = {
    "TELEGRAM_BOT_TOKEN": "123456:AAH-test_token",
    "DISCORD_BOT_TOKEN": "test.token",
    "SLACK_BOT_TOKEN": "xoxb-test",
    "MIRRORPOST_WEBHOOK_SECRET": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
}
NAMES = list(CHATS)


class Post:
    """One adapter's requests over real HTTP."""

    def __init__(self, sandbox: RunningSandbox, session: aiohttp.ClientSession) -> None:
        self.sandbox = sandbox
        self.session = session

    def bot(self, name: str) -> Bot:
        return Bot(name, "", {**TOKENS, **self.sandbox.base_urls()})

    async def exchange(self, request: Request) -> Response:
        async with self.session.request(
            request.method,
            request.url,
            headers=dict(request.headers),
            data=request.content,
            allow_redirects=False,
        ) as answer:
            headers = {name.lower(): value for name, value in answer.headers.items()}
            return Response(answer.status, headers, await answer.read())

    async def send(self, name: str, message: Message | None = None, **fields: object) -> Outcome:
        message = message or replace(hello(name), **fields)  # type: ignore[arg-type]
        adapter = platform(name)
        return adapter.outcome(await self.exchange(adapter.request(message, self.bot(name))))

    async def fail(self, name: str, message: Message | None = None, **fields: object) -> Failure:
        outcome = await self.send(name, message, **fields)
        assert isinstance(outcome, Failure), outcome
        return outcome

    async def fault(self, **fault: object) -> None:
        url = f"{self.sandbox.url}/_sandbox/faults"
        async with self.session.post(url, json=fault) as answer:
            assert answer.status == 201, await answer.text()

    async def told(self, path: str = "messages") -> list[dict[str, object]]:
        async with self.session.get(f"{self.sandbox.url}/_sandbox/{path}") as answer:
            assert answer.status == 200
            told: list[dict[str, object]] = await answer.json()
            return told

    async def asked(self) -> dict[str, dict[str, int]]:
        async with self.session.get(f"{self.sandbox.url}/_sandbox/requests") as answer:
            assert answer.status == 200
            counts: dict[str, dict[str, int]] = await answer.json()
            return counts


def hello(name: str) -> Message:
    return Message("d1", CHATS[name], "hello", 1_700_000_000)


def over_http(scenario: Callable[[Post], Awaitable[None]], *, limits: bool = False) -> None:
    async def run() -> None:
        timeout = aiohttp.ClientTimeout(total=20)
        async with (
            await start_sandbox(limits=limits) as sandbox,
            aiohttp.ClientSession(timeout=timeout) as session,
        ):
            await scenario(Post(sandbox, session))

    asyncio.run(run())


@pytest.mark.parametrize("name", NAMES)
def test_a_message_arrives_and_its_id_is_the_receipt(name: str) -> None:
    async def scenario(post: Post) -> None:
        outcome = await post.send(name, text="grüße \U0001f600 plain")
        assert isinstance(outcome, Receipt)
        (told,) = await post.told(f"messages?platform={name}&chat={CHATS[name]}")
        assert told["text"] == "grüße \U0001f600 plain"
        assert (told["platform"], told["chat"]) == (name, CHATS[name])
        assert outcome.message_ids == (told["id"],)

    over_http(scenario)


def test_ids_have_each_platforms_own_form_and_rise() -> None:
    async def scenario(post: Post) -> None:
        sent: dict[str, list[str]] = {}
        for name in NAMES:
            for number in range(3):
                outcome = await post.send(name, delivery_id=f"d{number}")
                assert isinstance(outcome, Receipt)
                sent.setdefault(name, []).extend(outcome.message_ids)
        assert sent["telegram"] == ["1", "2", "3"]
        assert sorted(sent["discord"], key=int) == sent["discord"]
        assert all(re.fullmatch(r"\d{17,20}", one) for one in sent["discord"])
        assert sorted(sent["slack"]) == sent["slack"]
        assert all(re.fullmatch(r"\d{10}\.\d{6}", one) for one in sent["slack"])
        assert len(set(sent["discord"])) == len(set(sent["slack"])) == 3

    over_http(scenario)


def test_thread_reply_and_silence_arrive() -> None:
    async def scenario(post: Post) -> None:
        await post.send("telegram", thread_id="7", reply_to="5", silent=True)
        await post.send("discord", thread_id="2002", reply_to="5", silent=True)
        await post.send("slack", thread_id="1.000001")
        telegram, discord, slack = await post.told()
        assert (telegram["thread"], telegram["reply_to"], telegram["silent"]) == ("7", "5", True)
        assert (discord["chat"], discord["reply_to"], discord["silent"]) == ("2002", "5", True)
        assert slack["thread"] == "1.000001"

    over_http(scenario)


@pytest.mark.parametrize(
    ("name", "longest", "text"),
    [
        ("telegram", 4096, "x"),
        ("discord", 2000, "\U0001f600"),
    ],
)
def test_the_longest_text_passes_and_one_more_is_too_long(
    name: str, longest: int, text: str
) -> None:
    async def scenario(post: Post) -> None:
        assert isinstance(await post.send(name, text=text * longest), Receipt)
        assert (await post.fail(name, text=text * (longest + 1))).kind is ErrorKind.TOO_LONG

    over_http(scenario)


def test_what_our_limit_lets_through_is_never_cut_by_slack() -> None:
    async def scenario(post: Post) -> None:
        longest = platform("slack").capability.max_length
        text = "&" * (longest // len("&amp;"))
        assert platform("slack").capability.measure(text) == longest
        await post.send("slack", text=text)
        (told,) = await post.told()
        assert told["text"] == "&amp;" * len(text)

    over_http(scenario)


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_text_is_invalid(name: str) -> None:
    async def scenario(post: Post) -> None:
        assert (await post.fail(name, text=" ")).kind is ErrorKind.INVALID
        assert await post.told() == []

    over_http(scenario)


@pytest.mark.parametrize(
    ("name", "fault", "kind"),
    [
        ("telegram", "500", ErrorKind.TRANSIENT),
        ("discord", "500", ErrorKind.AMBIGUOUS),
        ("slack", "500", ErrorKind.AMBIGUOUS),
        *((name, "502", ErrorKind.AMBIGUOUS) for name in NAMES),
        *((name, "503", ErrorKind.AMBIGUOUS) for name in NAMES),
        *((name, "blocked", ErrorKind.TARGET_GONE) for name in NAMES),
        ("telegram", "kicked", ErrorKind.TARGET_GONE),
        ("discord", "kicked", ErrorKind.FORBIDDEN),
        ("slack", "kicked", ErrorKind.FORBIDDEN),
        *((name, "revoked", ErrorKind.AUTH) for name in NAMES),
    ],
)
def test_every_fault_is_classified_and_accepts_nothing(
    name: str, fault: str, kind: ErrorKind
) -> None:
    async def scenario(post: Post) -> None:
        await post.fault(platform=name, fault=fault, times=1)
        failure = await post.fail(name)
        assert failure.kind is kind
        assert not any(token in failure.text for token in TOKENS.values())
        assert await post.told() == []
        assert isinstance(await post.send(name), Receipt)

    over_http(scenario)


@pytest.mark.parametrize(("name", "told_s"), [("telegram", 3.0), ("discord", 2.25), ("slack", 3.0)])
def test_a_429_says_when_in_each_platforms_own_place_and_unit(name: str, told_s: float) -> None:
    async def scenario(post: Post) -> None:
        await post.fault(platform=name, fault="429", retry_after=2.25)
        failure = await post.fail(name)
        assert failure.kind is ErrorKind.RATE_LIMITED
        assert (failure.retry_after_s, failure.scope) == (told_s, Scope.CHAT)

    over_http(scenario)


def test_discords_global_429_holds_the_bot() -> None:
    async def scenario(post: Post) -> None:
        await post.fault(platform="discord", fault="429", retry_after=1.5, **{"global": True})
        failure = await post.fail("discord")
        assert (failure.retry_after_s, failure.scope) == (1.5, Scope.BOT)

    over_http(scenario)


@pytest.mark.parametrize("name", NAMES)
def test_a_503_that_says_when_is_not_sent(name: str) -> None:
    async def scenario(post: Post) -> None:
        await post.fault(platform=name, fault="503", retry_after=4)
        failure = await post.fail(name)
        assert (failure.kind, failure.retry_after_s) == (ErrorKind.TRANSIENT, 4.0)

    over_http(scenario)


def test_a_migrated_group_is_sent_to_at_once_under_its_new_id() -> None:
    async def scenario(post: Post) -> None:
        await post.fault(platform="telegram", chat="-55", fault="migrated", to=-10077)
        failure = await post.fail("telegram", chat_id="-55")
        assert (failure.kind, failure.moved_to) == (ErrorKind.TARGET_MOVED, "-10077")
        assert await post.told() == []
        assert isinstance(await post.send("telegram", chat_id="-10077"), Receipt)

    over_http(scenario)


@pytest.mark.parametrize("name", NAMES)
def test_drop_accepts_and_cuts_the_connection(name: str) -> None:
    async def scenario(post: Post) -> None:
        await post.fault(platform=name, fault="drop", times=1)
        with pytest.raises(aiohttp.ClientError):
            await post.send(name)
        assert len(await post.told()) == 1
        assert await post.asked() == {name: {"drop": 1}}

    over_http(scenario)


@pytest.mark.parametrize("name", NAMES)
def test_hang_accepts_and_never_answers(name: str) -> None:
    async def scenario(post: Post) -> None:
        await post.fault(platform=name, fault="hang", times=1)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await post.send(name)
        assert len(await post.told()) == 1
        assert await post.asked() == {name: {"hang": 1}}

    over_http(scenario)


def test_a_dropped_discord_message_sent_again_is_one_message() -> None:
    async def scenario(post: Post) -> None:
        await post.fault(platform="discord", fault="drop", times=1)
        with pytest.raises(aiohttp.ClientError):
            await post.send("discord")
        outcome = await post.send("discord")
        assert isinstance(outcome, Receipt)
        (told,) = await post.told()
        assert outcome.message_ids == (told["id"],)
        assert isinstance(await post.send("discord", delivery_id="d2"), Receipt)
        assert len(await post.told()) == 2

    over_http(scenario)


def test_a_dropped_telegram_message_sent_again_is_two() -> None:
    async def scenario(post: Post) -> None:
        await post.fault(platform="telegram", fault="drop", times=1)
        with pytest.raises(aiohttp.ClientError):
            await post.send("telegram")
        await post.send("telegram")
        assert len(await post.told()) == 2

    over_http(scenario)


def test_a_dropped_slack_message_is_found_by_its_metadata() -> None:
    async def scenario(post: Post) -> None:
        await post.fault(platform="slack", fault="drop", times=1)
        with pytest.raises(aiohttp.ClientError):
            await post.send("slack")
        url = f"{post.sandbox.url}/slack/api/conversations.history"
        asked = {"channel": CHATS["slack"], "include_all_metadata": "true"}
        headers = {"Authorization": "Bearer xoxb-test"}
        async with post.session.get(url, params=asked, headers=headers) as answer:
            (found,) = (await answer.json())["messages"]
        assert found["metadata"]["event_payload"] == {"delivery_id": "d1"}

    over_http(scenario)


def test_a_person_on_discord_is_reached_through_one_direct_channel() -> None:
    async def scenario(post: Post) -> None:
        adapter = Discord()
        opening = adapter.opening("42", post.bot("discord"))
        channel = adapter.opened(await post.exchange(opening))
        assert isinstance(channel, str)
        assert channel == adapter.opened(await post.exchange(opening))
        await post.send("discord", chat_id=channel)
        (told,) = await post.told("messages?chat=42")
        assert (told["chat"], told["recipient"]) == (channel, "42")
        await post.fault(platform="discord", chat="42", fault="blocked")
        assert (await post.fail("discord", chat_id=channel)).kind is ErrorKind.TARGET_GONE

    over_http(scenario)


def test_a_person_on_slack_is_a_channel() -> None:
    async def scenario(post: Post) -> None:
        await post.send("slack", chat_id="U024BE7LH")
        (told,) = await post.told("messages?chat=U024BE7LH")
        assert told["text"] == "hello"

    over_http(scenario)


@pytest.mark.parametrize(
    ("name", "burst", "longest_wait_s"),
    [("telegram", 3, 1.0), ("discord", 5, 5.0), ("slack", 3, 1.0)],
)
def test_each_platforms_own_pace_holds(name: str, burst: int, longest_wait_s: float) -> None:
    async def scenario(post: Post) -> None:
        for number in range(burst):
            assert isinstance(await post.send(name, delivery_id=f"d{number}"), Receipt)
        failure = await post.fail(name, delivery_id="one-too-many")
        assert failure.kind is ErrorKind.RATE_LIMITED
        assert failure.retry_after_s is not None
        assert 0 < failure.retry_after_s <= longest_wait_s
        assert await post.asked() == {name: {"200": burst, "429": 1}}
        assert len(await post.told()) == burst

    over_http(scenario, limits=True)


@pytest.mark.parametrize(
    ("name", "variable", "token"),
    [
        ("telegram", "TELEGRAM_BOT_TOKEN", "no-such-shape"),
        ("discord", "DISCORD_BOT_TOKEN", ""),
        ("slack", "SLACK_BOT_TOKEN", "abc"),
        ("slack", "SLACK_BOT_TOKEN", ""),
    ],
)
def test_a_token_of_another_shape_is_auth(name: str, variable: str, token: str) -> None:
    async def scenario(post: Post) -> None:
        adapter = platform(name)
        bot = Bot(name, "", {**post.bot(name).values, variable: token})
        outcome = adapter.outcome(await post.exchange(adapter.request(hello(name), bot)))
        assert isinstance(outcome, Failure)
        assert outcome.kind is ErrorKind.AUTH

    over_http(scenario)


def webhook(post: Post, name: str) -> Message:
    return Message("d1", f"{post.sandbox.url}/webhook/{name}", "hello", 1_700_000_000)


def test_a_received_webhook_verifies_byte_for_byte() -> None:
    async def scenario(post: Post) -> None:
        outcome = await post.send("webhook", webhook(post, "mine"))
        (told,) = await post.told("messages?platform=webhook&chat=mine")
        assert outcome == Receipt((str(told["id"]),))
        assert (told["text"], told["nonce"]) == ("hello", "d1")
        judge = Judge(TOKENS["MIRRORPOST_WEBHOOK_SECRET"])
        headers = told["headers"]
        assert isinstance(headers, dict)
        judge.verify(str(told["body"]), headers)

    over_http(scenario)


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ("429", ErrorKind.RATE_LIMITED),
        ("500", ErrorKind.AMBIGUOUS),
        ("502", ErrorKind.AMBIGUOUS),
        ("blocked", ErrorKind.TARGET_GONE),
        ("revoked", ErrorKind.UNKNOWN_ERROR),
    ],
)
def test_a_failing_receiver_is_classified(fault: str, kind: ErrorKind) -> None:
    async def scenario(post: Post) -> None:
        await post.fault(platform="webhook", chat="mine", fault=fault)
        assert (await post.fail("webhook", webhook(post, "mine"))).kind is kind
        assert isinstance(await post.send("webhook", webhook(post, "other")), Receipt)

    over_http(scenario)
