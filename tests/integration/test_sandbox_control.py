import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import pytest

from worker.sandbox import RunningSandbox, start_sandbox

TELEGRAM = "/telegram/bot1:a/"
SLACK = {"Authorization": "Bearer xoxb-1"}
DISCORD = {"Authorization": "Bot t"}
Scenario = Callable[[RunningSandbox, aiohttp.ClientSession], Awaitable[None]]


def over_http(scenario: Scenario, *, limits: bool = False) -> None:
    async def run() -> None:
        async with (
            await start_sandbox(limits=limits) as sandbox,
            aiohttp.ClientSession(sandbox.url) as session,
        ):
            await scenario(sandbox, session)

    asyncio.run(run())


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"{", "the body is not JSON"),
        (b"[]", "a fault is a JSON object"),
        (b"{}", "platform must be one of telegram, discord, slack, webhook"),
        (b'{"platform":"fax","fault":"429"}', "platform must be one of"),
        (b'{"platform":"slack"}', "fault must be one of 429, 500"),
        (b'{"platform":"slack","fault":"bad"}', "fault must be one of 429, 500"),
        (b'{"platform":"slack","fault":"429","x":1}', "unknown field 'x'"),
        (b'{"platform":"slack","fault":"429","times":0}', "'times' must be a whole number"),
        (b'{"platform":"slack","fault":"429","times":true}', "'times' must be a whole number"),
        (b'{"platform":"slack","fault":"429","retry_after":-1}', "'retry_after' must be seconds"),
        (b'{"platform":"slack","fault":"hang","seconds":"1"}', "'seconds' must be seconds"),
        (b'{"platform":"slack","fault":"slow","jitter":-1}', "'jitter' must be seconds"),
        (b'{"platform":"slack","fault":"429","chat":[]}', "'chat' must be a chat id"),
        (b'{"platform":"telegram","fault":"migrated"}', "takes the new chat id as 'to'"),
        (b'{"platform":"slack","fault":"migrated","to":"1"}', "migrated is Telegram's"),
        (b'{"platform":"telegram","fault":"429","to":"1"}', "migrated is Telegram's"),
        (b'{"platform":"telegram","fault":"migrated","to":"x"}', "a whole number"),
        (b'{"platform":"discord","fault":"missing_scope"}', "missing_scope is Slack's"),
    ],
)
def test_a_wrong_fault_is_refused_with_one_clear_line(body: bytes, why: str) -> None:
    async def scenario(_: RunningSandbox, session: aiohttp.ClientSession) -> None:
        async with session.post("/_sandbox/faults", data=body) as answer:
            assert answer.status == 400
            error = (await answer.json())["error"]
        assert why in error
        assert "\n" not in error
        async with session.get("/_sandbox/faults") as answer:
            assert await answer.json() == []

    over_http(scenario)


def test_faults_are_listed_used_up_and_cleared() -> None:
    async def scenario(_: RunningSandbox, session: aiohttp.ClientSession) -> None:
        twice = {"platform": "telegram", "chat": 5, "fault": "blocked", "times": 2}
        always = {"platform": "telegram", "fault": "502"}
        for fault in (twice, always):
            async with session.post("/_sandbox/faults", json=fault) as answer:
                assert answer.status == 201
        statuses = []
        for chat in (5, 5, 5, 6):
            body = {"chat_id": chat, "text": "x"}
            async with session.post(TELEGRAM + "sendMessage", json=body) as answer:
                statuses.append(answer.status)
        assert statuses == [403, 403, 502, 502]
        async with session.get("/_sandbox/faults") as answer:
            assert [fault["fault"] for fault in await answer.json()] == ["502"]
        async with session.delete("/_sandbox/faults") as answer:
            assert answer.status == 204
        async with session.post(TELEGRAM + "sendMessage", json=body) as answer:
            assert answer.status == 200

    over_http(scenario)


def test_messages_are_told_in_order_by_platform_and_chat_and_forgotten_when_told_to() -> None:
    async def scenario(_: RunningSandbox, session: aiohttp.ClientSession) -> None:
        async def told(query: str = "") -> list[str]:
            async with session.get(f"/_sandbox/messages{query}") as answer:
                return [message["text"] for message in await answer.json()]

        for chat, text in (("1", "a"), ("2", "b"), ("1", "c")):
            async with session.post(
                TELEGRAM + "sendMessage", json={"chat_id": chat, "text": text}
            ) as answer:
                assert answer.status == 200
        async with session.post(
            "/slack/api/chat.postMessage", json={"channel": "C1", "text": "d"}, headers=SLACK
        ) as answer:
            assert (await answer.json())["ok"] is True
        assert await told() == ["a", "b", "c", "d"]
        assert await told("?platform=telegram") == ["a", "b", "c"]
        assert await told("?platform=telegram&chat=1") == ["a", "c"]
        async with session.get("/_sandbox/messages?platform=fax") as answer:
            assert answer.status == 400
        async with session.get("/_sandbox/requests") as answer:
            assert await answer.json() == {"telegram": {"200": 3}, "slack": {"200": 1}}
        for path in ("messages", "requests"):
            async with session.delete(f"/_sandbox/{path}") as answer:
                assert answer.status == 204
        assert await told() == []
        async with session.get("/_sandbox/requests") as answer:
            assert await answer.json() == {}

    over_http(scenario)


def test_a_slow_answer_comes_late_and_is_accepted() -> None:
    async def scenario(_: RunningSandbox, session: aiohttp.ClientSession) -> None:
        fault = {"platform": "telegram", "fault": "slow", "seconds": 0.3, "times": 1}
        async with session.post("/_sandbox/faults", json=fault) as answer:
            assert answer.status == 201
        loop = asyncio.get_running_loop()
        began = loop.time()
        body = {"chat_id": 1, "text": "x"}
        async with session.post(TELEGRAM + "sendMessage", json=body) as answer:
            assert answer.status == 200
        assert loop.time() - began >= 0.3

    over_http(scenario)


def test_a_revoked_token_is_known_to_every_method() -> None:
    async def scenario(_: RunningSandbox, session: aiohttp.ClientSession) -> None:
        async def ask() -> list[object]:
            async with session.get(TELEGRAM + "getMe") as answer:
                telegram = answer.status
            async with session.get("/discord/api/v10/users/@me", headers=DISCORD) as answer:
                discord = answer.status
            as_slacks_client = {**SLACK, "Content-Type": "application/json"}
            async with session.post("/slack/api/auth.test", headers=as_slacks_client) as answer:
                return [telegram, discord, (await answer.json())["ok"]]

        assert await ask() == [200, 200, True]
        for platform in ("telegram", "discord", "slack"):
            fault = {"platform": platform, "fault": "revoked"}
            async with session.post("/_sandbox/faults", json=fault) as answer:
                assert answer.status == 201
        assert await ask() == [401, 401, False]

    over_http(scenario)


def test_telegram_takes_forms_as_well_as_json() -> None:
    async def scenario(sandbox: RunningSandbox, session: aiohttp.ClientSession) -> None:
        form = {"chat_id": "@news", "text": " hi ", "disable_notification": "true"}
        async with session.post(TELEGRAM + "sendMessage", data=form) as answer:
            result = (await answer.json())["result"]
        assert (result["text"], result["chat"]["username"]) == ("hi", "news")
        (told,) = sandbox.state.store.messages()
        assert told.silent

    over_http(scenario)


def test_a_reply_to_a_message_that_never_was_is_refused_unless_allowed() -> None:
    async def scenario(_: RunningSandbox, session: aiohttp.ClientSession) -> None:
        statuses = []
        for allowed in (False, True):
            reply = {"message_id": 9, "allow_sending_without_reply": allowed}
            body = {"chat_id": 1, "text": "x", "reply_parameters": reply}
            async with session.post(TELEGRAM + "sendMessage", json=body) as answer:
                statuses.append(answer.status)
        assert statuses == [400, 200]

    over_http(scenario)


def test_slack_cuts_above_forty_thousand_and_only_warns() -> None:
    async def scenario(sandbox: RunningSandbox, session: aiohttp.ClientSession) -> None:
        body = {"channel": "C1", "text": "x" * 40_001}
        async with session.post("/slack/api/chat.postMessage", json=body, headers=SLACK) as answer:
            told = await answer.json()
        assert told["ok"] is True
        assert told["response_metadata"] == {"warnings": ["message_truncated"]}
        (kept,) = sandbox.state.store.messages()
        assert len(kept.text) == 40_000

    over_http(scenario)


def test_discord_tells_its_bucket_while_limits_are_on() -> None:
    async def scenario(_: RunningSandbox, session: aiohttp.ClientSession) -> None:
        left = []
        while len(left) < 2:
            async with session.post(
                "/discord/api/v10/channels/1/messages", json={"content": "x"}, headers=DISCORD
            ) as answer:
                left.append(answer.headers["X-RateLimit-Remaining"])
                assert answer.headers["X-RateLimit-Limit"] == "5"
                assert 0 < float(answer.headers["X-RateLimit-Reset-After"]) <= 5
        assert left == ["4", "3"]

    over_http(scenario, limits=True)


def test_a_discord_nonce_that_is_not_enforced_makes_two_messages() -> None:
    async def scenario(sandbox: RunningSandbox, session: aiohttp.ClientSession) -> None:
        for enforced in (False, False, True, True):
            body = {"content": "x", "nonce": "n", "enforce_nonce": enforced}
            async with session.post(
                "/discord/api/v10/channels/1/messages", json=body, headers=DISCORD
            ) as answer:
                assert answer.status == 200
        assert len(sandbox.state.store.messages()) == 3

    over_http(scenario)


def test_discord_messages_are_read_back_with_their_nonce() -> None:
    async def scenario(_: RunningSandbox, session: aiohttp.ClientSession) -> None:
        path = "/discord/api/v10/channels/1/messages"
        for text in ("a", "b"):
            body = {"content": text, "nonce": text}
            async with session.post(path, json=body, headers=DISCORD) as answer:
                assert answer.status == 200
        async with session.get(path + "?limit=1", headers=DISCORD) as answer:
            (newest,) = await answer.json()
        assert (newest["content"], newest["nonce"]) == ("b", "b")

    over_http(scenario)


def test_a_slack_thread_is_read_back_oldest_first_and_not_in_the_channel() -> None:
    async def scenario(_: RunningSandbox, session: aiohttp.ClientSession) -> None:
        async def call(method: str, **fields: str) -> dict[str, object]:
            async with session.post(f"/slack/api/{method}", json=fields, headers=SLACK) as answer:
                told: dict[str, object] = await answer.json()
                return told

        parent = str((await call("chat.postMessage", channel="C1", text="parent"))["ts"])
        await call("chat.postMessage", channel="C1", text="child", thread_ts=parent)
        channel = await call("conversations.history", channel="C1")
        thread = await call("conversations.replies", channel="C1", ts=parent)
        texts = [[message["text"] for message in told["messages"]] for told in (channel, thread)]
        assert texts == [["parent"], ["parent", "child"]]
        assert await call("no.such") == {"ok": False, "error": "unknown_method"}

    over_http(scenario)


def test_slacks_history_goes_by_time_and_page_and_shows_metadata_only_when_asked_to() -> None:
    async def scenario(sandbox: RunningSandbox, session: aiohttp.ClientSession) -> None:
        for text in ("a", "b", "c"):
            about = {"event_type": "t", "event_payload": {"text": text}}
            body = {"channel": "C1", "text": text, "metadata": about}
            async with session.post(
                "/slack/api/chat.postMessage", json=body, headers=SLACK
            ) as answer:
                assert (await answer.json())["ok"] is True

        async def history(**fields: str) -> dict[str, Any]:
            path = "/slack/api/conversations.history"
            query = {"channel": "C1", **fields}
            async with session.get(path, params=query, headers=SLACK) as answer:
                told: dict[str, Any] = await answer.json()
                return told

        def texts(told: dict[str, Any]) -> list[str]:
            return [message["text"] for message in told["messages"]]

        first = await history(limit="2", include_all_metadata="true")
        assert (texts(first), first["has_more"]) == (["c", "b"], True)
        assert first["messages"][0]["metadata"]["event_payload"] == {"text": "c"}
        second = await history(limit="2", cursor=first["response_metadata"]["next_cursor"])
        assert (texts(second), second["has_more"]) == (["a"], False)
        assert second["response_metadata"]["next_cursor"] == ""
        assert "metadata" not in second["messages"][0]
        middle = first["messages"][1]["ts"]
        assert texts(await history(oldest=middle)) == ["c"]
        assert texts(await history(latest=middle)) == ["a"]
        assert (await history(cursor="nonsense"))["error"] == "invalid_cursor"
        assert len(sandbox.state.store.messages()) == 3

    over_http(scenario)


@pytest.mark.parametrize(
    "method", ["conversations.history", "conversations.replies", "conversations.open"]
)
def test_a_slack_bot_that_only_writes_may_not_read(method: str) -> None:
    async def scenario(_: RunningSandbox, session: aiohttp.ClientSession) -> None:
        fault = {"platform": "slack", "fault": "missing_scope"}
        async with session.post("/_sandbox/faults", json=fault) as answer:
            assert answer.status == 201
        body = {"channel": "C1", "text": "x"}
        async with session.post("/slack/api/chat.postMessage", json=body, headers=SLACK) as answer:
            assert (await answer.json())["ok"] is True
        async with session.get(f"/slack/api/{method}", headers=SLACK) as answer:
            told = await answer.json()
        assert (told["ok"], told["error"]) == (False, "missing_scope")
        assert told["provided"] == "chat:write"
        async with session.get(f"/slack/api/{method}") as answer:
            assert (await answer.json())["error"] == "not_authed"

    over_http(scenario)


def test_slacks_history_is_limited_by_itself_not_by_its_channel() -> None:
    async def scenario(_: RunningSandbox, session: aiohttp.ClientSession) -> None:
        path, body = "/slack/api/conversations.history?channel=C1", {"channel": "C1", "text": "x"}
        for _ in range(100):
            async with session.get(path, headers=SLACK) as answer:
                if answer.status == 429:
                    break
        assert answer.status == 429
        assert int(answer.headers["Retry-After"]) > 0
        async with session.post("/slack/api/chat.postMessage", json=body, headers=SLACK) as answer:
            assert answer.status == 200

    over_http(scenario, limits=True)


def test_a_hanging_request_does_not_hold_up_the_stop() -> None:
    async def run() -> float:
        loop = asyncio.get_running_loop()
        sandbox = await start_sandbox(limits=False)
        async with aiohttp.ClientSession(sandbox.url) as session:
            fault = {"platform": "telegram", "fault": "hang", "seconds": 600}
            async with session.post("/_sandbox/faults", json=fault) as answer:
                assert answer.status == 201
            body = {"chat_id": 1, "text": "x"}
            hanging = asyncio.create_task(session.post(TELEGRAM + "sendMessage", json=body))
            async with asyncio.timeout(10):
                while not sandbox.state.store.messages():  # noqa: ASYNC110 - the store tells nobody
                    await asyncio.sleep(0.01)
            began = loop.time()
            await sandbox.stop()
            with pytest.raises(aiohttp.ClientError):
                await hanging
            return loop.time() - began

    assert asyncio.run(run()) < 5


def test_a_taken_port_is_said_in_one_line_and_a_signal_ends_the_command() -> None:
    async def run() -> None:
        environment = {**os.environ, "PYTHONWARNINGS": "error"}
        command = (sys.executable, "-m", "worker.sandbox", "--port")
        pipe = asyncio.subprocess.PIPE
        first = await asyncio.create_subprocess_exec(
            *command, "0", stdout=pipe, stderr=pipe, env=environment
        )
        assert first.stdout is not None
        line = (await asyncio.wait_for(first.stdout.readline(), 30)).decode()
        assert line.startswith("sandbox ready at http://127.0.0.1:")
        url = line.split()[-1]
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{url}/_sandbox/messages") as answer,
        ):
            assert await answer.json() == []
        second = await asyncio.create_subprocess_exec(
            *command, url.rsplit(":", 1)[1], stdout=pipe, stderr=pipe, env=environment
        )
        _, told = await asyncio.wait_for(second.communicate(), 30)
        assert second.returncode == 1
        assert told.decode().startswith("the sandbox cannot listen on 127.0.0.1:")
        assert told.count(b"\n") == 1
        first.send_signal(signal.SIGTERM)
        _, complaints = await asyncio.wait_for(first.communicate(), 30)
        assert (first.returncode, complaints) == (0, b"")

    asyncio.run(run())
