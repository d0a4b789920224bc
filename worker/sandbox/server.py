"""Start and stop the sandbox: one loopback server, the platforms under path prefixes."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from aiohttp import web

from worker.sandbox import control, discord, slack, telegram, webhook
from worker.sandbox.faults import PLATFORMS
from worker.sandbox.limits import Limits
from worker.sandbox.state import SANDBOX, Sandbox, Unanswered

#: Seconds that open connections get when the sandbox stops.
_SHUTDOWN_S = 1.0


@dataclass(frozen=True, slots=True)
class RunningSandbox:
    """A sandbox that answers; leave it as an async context manager, or `stop` it."""

    url: str
    state: Sandbox
    runner: web.AppRunner

    def base_urls(self) -> dict[str, str]:
        """Give the base addresses that point Mirrorpost here, by environment variable."""
        return base_urls(self.url)

    async def stop(self) -> None:
        """Stop answering; requests that hang are let go."""
        self.state.stopping.set()
        await self.runner.cleanup()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()


def base_urls(url: str) -> dict[str, str]:
    """Give the base addresses below the URL of a sandbox, by environment variable."""
    return {
        "TELEGRAM_API_BASE": f"{url}/telegram",
        "DISCORD_API_BASE": f"{url}/discord/api/v10",
        "SLACK_API_BASE": f"{url}/slack/api",
    }


async def start_sandbox(
    host: str = "127.0.0.1", port: int = 0, *, limits: bool = True
) -> RunningSandbox:
    """Start a sandbox and give it once it answers.

    Args:
        host: Where to listen; the control paths need no credential, so keep it loopback.
        port: 0 takes a free one.
        limits: Whether the platforms' rate limits hold.

    Raises:
        OSError: The port is taken.
    """
    state = Sandbox(Limits(on=limits))
    app = web.Application(middlewares=[_count])
    app[SANDBOX] = state
    for part in (telegram, discord, slack, webhook, control):
        app.router.add_routes(part.routes())
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=_SHUTDOWN_S)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError:
        await runner.cleanup()
        raise
    bound = runner.addresses[0][1]
    shown = f"[{host}]" if ":" in host else host
    return RunningSandbox(f"http://{shown}:{bound}", state, runner)


@web.middleware
async def _count(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Count every request to a platform by how it was answered."""
    platform = request.path.split("/", 2)[1]
    store = request.app[SANDBOX].store
    try:
        answer = await handler(request)
    except web.HTTPException as error:
        if platform in PLATFORMS:
            store.count(platform, str(error.status))
        raise
    if platform in PLATFORMS and not isinstance(answer, Unanswered):
        store.count(platform, str(answer.status))
    return answer
