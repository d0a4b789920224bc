"""A receiver of webhooks at `/webhook/<name>`: keeps what came, the exact bytes as text."""

import math

import orjson
from aiohttp import web

from worker.sandbox.faults import Answers, Fault, Kind, answer_fault, edge_answer
from worker.sandbox.state import SANDBOX, answer_json, as_object
from worker.sandbox.store import Accepted


def routes() -> list[web.RouteDef]:
    """Give the paths below `/webhook`."""
    return [web.post("/webhook/{name}", _receive)]


async def _receive(request: web.Request) -> web.Response:
    sandbox, name = request.app[SANDBOX], request.match_info["name"]
    body = (await request.read()).decode(errors="replace")
    fault = await sandbox.begin(request, "webhook", (name,))
    refused = answer_fault(_FAULTS, fault)
    if refused is not None:
        return refused
    received = sandbox.store.add(
        Accepted(
            platform="webhook",
            chat=name,
            id=sandbox.ids.webhook(),
            text=_text(body),
            nonce=request.headers.get("webhook-id"),
            extra={
                "body": body,
                "headers": {name.lower(): value for name, value in request.headers.items()},
            },
        )
    )
    return await sandbox.finish(request, fault, answer_json({"id": received.id}))


def _text(body: str) -> str:
    try:
        event = orjson.loads(body)
    except orjson.JSONDecodeError:
        return body
    return str(as_object(as_object(event).get("data")).get("text", body))


def _too_many(fault: Fault) -> web.Response:
    wait_s = 1.0 if fault.retry_after_s is None else fault.retry_after_s
    return web.Response(status=429, headers={"Retry-After": str(math.ceil(wait_s))})


_FAULTS: Answers = {
    Kind.RATE_LIMITED: _too_many,
    Kind.ERROR: lambda _: web.Response(status=500),
    Kind.BAD_GATEWAY: edge_answer,
    Kind.UNAVAILABLE: edge_answer,
    Kind.BLOCKED: lambda _: web.Response(status=410),
    Kind.KICKED: lambda _: web.Response(status=410),
    Kind.REVOKED: lambda _: web.Response(status=401),
}
