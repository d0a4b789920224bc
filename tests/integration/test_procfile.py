import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


def test_honcho_start_runs_the_procfile_on_an_empty_postgresql(home, postgres_url, redis_url):
    environment = {
        **os.environ,
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "DATABASE_URL": postgres_url,
        "REDIS_URL": redis_url,
        "PYTHONUNBUFFERED": "1",
    }
    log = Path(home).parent / "honcho.log"
    with log.open("wb") as output:
        honcho = subprocess.Popen(
            [BIN / "honcho", "-f", ROOT / "Procfile", "-d", ROOT, "start"],
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        wait_until(
            lambda: b" ready." in log.read_bytes(), timeout_s=40, what=f"a worker: see {log}"
        )
        sent = subprocess.run(
            [BIN / "mirrorpost", "send", "console:me", "hello", "--wait", "--json"],
            env=environment,
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert json.loads(sent.stdout)["status"] == "sent", sent.stderr
        assert b"[me] hello" in log.read_bytes()
        assert honcho.poll() is None
    finally:
        os.killpg(honcho.pid, signal.SIGTERM)
        try:
            honcho.wait(30)
        finally:
            if honcho.poll() is None:
                os.killpg(honcho.pid, signal.SIGKILL)
                honcho.wait()
