"""Contenders `raw_httpx` and `raw_aiohttp`: the limits, nothing but requests."""

import subprocess
import sys
from functools import partial
from pathlib import Path

import orjson

from tests.bench.measure import TEXT_LENGTH, WARM_UP, Contender, Measurement, Surroundings, chat
from worker.platforms.base import Bot, Message
from worker.platforms.telegram import Telegram

#: As many as Mirrorpost has in flight.
_IN_FLIGHT = 64
_CLIENT = Path(__file__).with_name("raw_client.py")


def _run(client: str, surroundings: Surroundings, messages: int) -> Measurement:
    platform = surroundings.platform
    bot = Bot("telegram", "", {"TELEGRAM_BOT_TOKEN": "1:bench", "TELEGRAM_API_BASE": platform.url})
    # The very requests that Mirrorpost makes of the same messages.
    requests = [
        Telegram().request(Message(str(n), str(chat(n)), f"{n:0{TEXT_LENGTH}}", 0), bot)
        for n in range(WARM_UP + messages)
    ]
    platform.reset()
    done = subprocess.run(
        [sys.executable, str(_CLIENT), client, requests[0].url, str(WARM_UP), str(_IN_FLIGHT)],
        input=b"\n".join(request.content for request in requests),
        stdout=subprocess.PIPE,
        check=True,
        timeout=300,
    )
    arrived = platform.count()
    assert arrived == WARM_UP + messages, f"{arrived} arrived"
    took = orjson.loads(done.stdout)
    return Measurement(messages, took["seconds"], took["cpu_s"])


RAW_HTTPX = Contender("raw_httpx", partial(_run, "httpx"))
RAW_AIOHTTP = Contender("raw_aiohttp", partial(_run, "aiohttp"))
