"""`/_sandbox`: what was accepted, how often was asked, which faults are on.

GET messages?platform=&chat=   a list of objects, oldest first      DELETE messages
GET requests                   {platform: {status: count}}          DELETE requests
GET faults                     a list of objects                    DELETE faults
POST faults                    {"platform": "slack", "fault": "429", "times": 1, ...}
"""

import orjson
from aiohttp import web

from worker.sandbox.faults import PLATFORMS, BadControl, read_fault
from worker.sandbox.state import SANDBOX, answer_json


def routes() -> list[web.RouteDef]:
    """Give the paths below `/_sandbox`."""
    return [
        web.get("/_sandbox/messages", _messages),
        web.delete("/_sandbox/messages", _forget_messages),
        web.get("/_sandbox/requests", _requests),
        web.delete("/_sandbox/requests", _forget_requests),
        web.get("/_sandbox/faults", _faults),
        web.post("/_sandbox/faults", _add_fault),
        web.delete("/_sandbox/faults", _clear_faults),
    ]


async def _messages(request: web.Request) -> web.Response:
    platform, chat = request.query.get("platform"), request.query.get("chat")
    if platform is not None and platform not in PLATFORMS:
        return _refuse(f"platform must be one of {', '.join(PLATFORMS)}, not {platform!r}")
    found = request.app[SANDBOX].store.messages(platform, chat)
    return answer_json([message.as_json() for message in found])


async def _forget_messages(request: web.Request) -> web.Response:
    request.app[SANDBOX].store.forget_messages()
    return web.Response(status=204)


async def _requests(request: web.Request) -> web.Response:
    return answer_json(request.app[SANDBOX].store.answers())


async def _forget_requests(request: web.Request) -> web.Response:
    request.app[SANDBOX].store.forget_answers()
    return web.Response(status=204)


async def _faults(request: web.Request) -> web.Response:
    return answer_json([fault.as_json() for fault in request.app[SANDBOX].faults.listed()])


async def _add_fault(request: web.Request) -> web.Response:
    try:
        fault = read_fault(orjson.loads(await request.read()))
    except orjson.JSONDecodeError as error:
        return _refuse(f"the body is not JSON: {error}")
    except BadControl as error:
        return _refuse(str(error))
    request.app[SANDBOX].faults.add(fault)
    return answer_json(fault.as_json(), 201)


async def _clear_faults(request: web.Request) -> web.Response:
    request.app[SANDBOX].faults.clear()
    return web.Response(status=204)


def _refuse(why: str) -> web.Response:
    return answer_json({"error": why}, 400)
