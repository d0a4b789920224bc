"""The installed console script against a home of its own, as a person would run it."""

import json
import os
import re
import sqlite3
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

#: Variables of whoever runs the tests that would lead away from the test's own home.
_FOREIGN = re.compile(
    r"MIRRORPOST_|DATABASE_URL|REDIS_URL|CELERY_|(TELEGRAM|DISCORD|SLACK|MATRIX)_|NO_COLOR|COLUMNS"
)
SCRIPT = Path(sysconfig.get_path("scripts")) / "mirrorpost"


@dataclass(frozen=True)
class Answer:
    """What one run of the script gave."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        """Give standard output as JSON, which must be all of it."""
        assert self.code == 0, self.err
        return json.loads(self.out)

    def refusal(self) -> str:
        """Give the one line that says why nothing was done."""
        assert self.code == 1, (self.code, self.out, self.err)
        assert self.out == ""
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("mirrorpost: ")
        return lines[0]


@dataclass
class CommandLine:
    """One data directory and working directory, and the script that is run in them."""

    folder: Path
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def database(self) -> Path:
        return self.home / "mirrorpost.db"

    @property
    def env(self) -> dict[str, str]:
        own = {name: value for name, value in os.environ.items() if not _FOREIGN.match(name)}
        return own | {"MIRRORPOST_HOME": str(self.home)} | self.variables

    def __call__(self, *arguments: str, code: int | None = None) -> Answer:
        """Run the script to its end."""
        done = subprocess.run(
            [SCRIPT, *arguments],
            env=self.env,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert code is None or done.returncode == code, (done.stdout, done.stderr)
        return Answer(done.returncode, done.stdout, done.stderr)

    @contextmanager
    def begun(self, *arguments: str) -> "Iterator[subprocess.Popen[str]]":
        """Start the script; it is killed when the block ends before it does."""
        with subprocess.Popen(
            [SCRIPT, *arguments],
            env=self.env,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    def killed_in(self, where: str, *arguments: str, after: int = 0) -> int:
        """Run the script until it calls a function, given as `module.function`; give its code.

        Args:
            after: Calls of it that are let pass.
        """
        module, _, function = where.rpartition(".")
        code = (
            "import itertools, os, signal\n"
            f"import {module} as module\n"
            f"real, calls = module.{function}, itertools.count()\n"
            "def killing(*given, **named):\n"
            f"    if next(calls) >= {after}:\n"
            "        os.kill(os.getpid(), signal.SIGKILL)\n"
            "    return real(*given, **named)\n"
            f"module.{function} = killing\n"
            "from scheduler.cli import main\n"
            "main()\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            env=self.env,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=60,
            check=False,
        )
        return done.returncode

    def rows(self, table: str) -> int:
        """Count the rows of a table, none where there is no database yet."""
        if not self.database.exists():
            return 0
        with closing(sqlite3.connect(self.database)) as connection:
            count: int = connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
        return count
