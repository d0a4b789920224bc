"""The sandbox: loopback servers that answer as Telegram, Discord and Slack do.

For trying Mirrorpost out without tokens, and the tests' other side. It sends nothing
anywhere, keeps what it accepted and can be told to fail; see `worker.sandbox.control`.
"""

from worker.sandbox.server import RunningSandbox, start_sandbox

__all__ = ["RunningSandbox", "start_sandbox"]
