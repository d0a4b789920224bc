"""Where a figure was measured, and the two cores that every process of a run shares."""

import os
import platform
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import psutil

_CORES = 2
_PACKAGES = ("celery", "httpx", "httpx-aiohttp", "aiohttp", "uvloop", "SQLAlchemy", "psycopg")


@dataclass(frozen=True, slots=True)
class Machine:
    """What a figure depends on besides the code."""

    cpu: str
    cores: str
    kernel: str
    python: str
    versions: dict[str, str]


def pin() -> list[int]:
    """Keep this process, and all that it starts, on the same two cores; give them."""
    if not hasattr(os, "sched_setaffinity"):
        return []
    cores = sorted(os.sched_getaffinity(0))[:_CORES]
    os.sched_setaffinity(0, cores)
    return cores


def describe(pinned: list[int]) -> Machine:
    """Describe this machine."""
    on = f"pinned to {' and '.join(map(str, pinned))}" if pinned else "not pinned"
    return Machine(
        cpu=_cpu_model(),
        cores=f"{psutil.cpu_count()} cores, {on}",
        kernel=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        versions={name: version(name) for name in _PACKAGES},
    )


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
