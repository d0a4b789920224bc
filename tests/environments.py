"""Separate virtual environments for what tests run against but must not live beside us.

An environment is made once and kept outside the checkout, in the folder that
`MIRRORPOST_TEST_ENVS` names, else in the user's cache. It takes a minute or two the first time.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock

#: Seconds for `pip install`, which downloads what is not in its cache.
INSTALL_LIMIT_S = 900


def optional_environment(name: str, requirements: Sequence[str]) -> Path:
    """Return the Python of an environment that holds exactly these requirements and their own.

    Pin them: an environment that was made once is used as it is. Test runs beside each other
    wait for the one that makes it.

    Raises:
        AssertionError: The requirements cannot be installed; says what pip said.
    """
    described = "\n".join([sys.version, *sorted(requirements)])
    digest = hashlib.sha256(described.encode()).hexdigest()[:12]
    folder = _root() / f"{name}-{digest}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    python = folder / "bin" / "python"
    finished = folder / "finished"
    with FileLock(folder.with_suffix(".lock")):
        if not finished.exists():
            shutil.rmtree(folder, ignore_errors=True)
            _run([sys.executable, "-m", "venv", str(folder)])
            _run([str(python), "-m", "pip", "install", "--quiet", *requirements])
            finished.write_text(described)
    return python


def _root() -> Path:
    named = os.environ.get("MIRRORPOST_TEST_ENVS")
    if named:
        return Path(named).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "mirrorpost-tests"


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=INSTALL_LIMIT_S, check=False
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
