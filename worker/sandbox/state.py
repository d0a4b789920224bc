"""What the handlers of one sandbox share, and the frame in which each of them accepts.

A handler reads its request, asks `begin` for a fault and `admit` of the limits, accepts,
and answers through `finish`, which is where a hang or a drop happens: after accepting.
"""

import asyncio
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import cast

import orjson
from aiohttp import web

from worker.sandbox.faults import Fault, Faults, Kind, drop, hang
from worker.sandbox.ids import Ids
from worker.sandbox.limits import Limits
from worker.sandbox.store import Store


class Unanswered(web.Response):
    """What a handler gives when the connection is cut; the request is counted already."""


@dataclass(slots=True)
class Sandbox:
    """The state of one sandbox."""

    limits: Limits
    store: Store = field(default_factory=Store)
    faults: Faults = field(default_factory=Faults)
    ids: Ids = field(default_factory=Ids)
    stopping: asyncio.Event = field(default_factory=asyncio.Event)

    async def begin(
        self, request: web.Request, platform: str, chats: Collection[str | None]
    ) -> Fault | None:
        """Give the fault that is on for a message, a slow one after its time."""
        fault = self.faults.take(platform, chats)
        if fault is not None and fault.kind is Kind.SLOW:
            await hang(request, fault, self.stopping)
        return fault

    async def finish(
        self, request: web.Request, fault: Fault | None, answer: web.Response
    ) -> web.Response:
        """Give the answer to an accepted message, unless the fault is that none comes."""
        if fault is None or fault.kind not in {Kind.HANG, Kind.DROP}:
            return answer
        self.store.count(fault.platform, fault.kind.value)
        if fault.kind is Kind.HANG:
            await hang(request, fault, self.stopping)
        drop(request)
        return Unanswered()


SANDBOX = web.AppKey("sandbox", Sandbox)


def answer_json(
    body: object, status: int = 200, headers: dict[str, str] | None = None
) -> web.Response:
    """Give a JSON answer."""
    return web.Response(
        body=orjson.dumps(body), status=status, headers=headers, content_type="application/json"
    )


async def read_fields(request: web.Request) -> dict[str, object] | None:
    """Read a JSON object, a form or a query; `None` when JSON was announced and is not there."""
    if request.content_type == "application/json":
        # Slack's own client announces JSON and sends nothing when it has no field to send.
        try:
            value = orjson.loads(await request.read() or b"{}")
        except orjson.JSONDecodeError:
            return None
        return cast("dict[str, object]", value) if isinstance(value, dict) else None
    return {**request.query, **await request.post()}


def as_object(value: object) -> dict[str, object]:
    """Read a field that is an object in JSON and JSON text in a form; else an empty one."""
    if isinstance(value, str):
        try:
            value = orjson.loads(value)
        except orjson.JSONDecodeError:
            return {}
    return cast("dict[str, object]", value) if isinstance(value, dict) else {}
