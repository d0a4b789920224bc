"""The start page: what `mirrorpost up` shows once it runs. Pure but for the environment.

One screen: what is where, which platform lacks what, and what to try.
"""

from scheduler.stand_ins import STOOD_IN
from worker.database import masked
from worker.platforms import platforms
from worker.settings import Settings, missing_variables

_INDENT = " " * 14


def start_page(config: Settings, *, sandbox_url: str | None) -> str:
    """Give the page."""
    redis = masked(config.redis)
    own = "  (started here, ends with this)" if config.redis_url is None else ""
    lines = [
        "",
        "Mirrorpost is up. Ctrl-C ends it.",
        "",
        f"  {'home':<12}{config.data_dir}",
        f"  {'database':<12}{masked(config.database)}",
        f"  {'redis':<12}{redis}{own}",
        f"  {'broker':<12}{masked(config.broker)}",
    ]
    if sandbox_url is not None:
        lines += [
            f"  {'sandbox':<12}{sandbox_url}/_sandbox/messages lists what it accepted",
            f"{_INDENT}{', '.join(STOOD_IN)} go there, also what was waiting: nobody else gets it",
        ]
    lines += ["", *_platform_lines(in_sandbox=sandbox_url is not None)]
    to = "telegram:1001" if sandbox_url is not None else "console:me"
    lines += ["", f'  Try, in another terminal:   mirrorpost send {to} "hello"', ""]
    return "\n".join(lines) + "\n"


def _platform_lines(*, in_sandbox: bool) -> list[str]:
    lines = []
    for name, platform in sorted(platforms().items()):
        missing = missing_variables(platform)
        if in_sandbox and name in STOOD_IN:
            state = "sandbox"
        elif missing:
            state = f"waits for {' and '.join(missing)}; what is sent there is held until then"
        else:
            state = "ready"
        lines.append(f"  {name:<12}{state}")
    return lines
