"""`python -m worker.sandbox --port N`: one line when it answers, then until a signal."""

import argparse
import asyncio
import signal
import sys

from worker.sandbox.server import start_sandbox


async def run(host: str, port: int, *, limits: bool) -> None:
    """Serve until SIGINT or SIGTERM."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(name, stop.set)
    async with await start_sandbox(host, port, limits=limits) as sandbox:
        sys.stdout.write(f"sandbox ready at {sandbox.url}\n")
        sys.stdout.flush()
        await stop.wait()


def main() -> int:
    """Read the command line and serve; 1 when the port is taken."""
    parser = argparse.ArgumentParser(prog="python -m worker.sandbox", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--no-limits", action="store_true", help="answer no 429 by itself")
    given = parser.parse_args()
    try:
        asyncio.run(run(given.host, given.port, limits=not given.no_limits))
    except (OSError, OverflowError) as error:
        sys.stderr.write(f"the sandbox cannot listen on {given.host}:{given.port}: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
