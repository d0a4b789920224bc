import json
import subprocess
import sys
from pathlib import Path

_ROOT = Path(__file__).parents[2]


def test_every_contender_delivers_what_it_is_given_and_idling_is_measured() -> None:
    contenders = ["raw_httpx", "raw_aiohttp", "usual_sqlite", "mirrorpost_postgresql"]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tests.bench", "--json", "--runs", "1", "--messages", "50"),
            *("--singles", "3", "--idle-seconds", "0.2", *contenders, "idle"),
        ],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    throughput, idle = found["throughput"], found["idle"]
    assert [figure["contender"] for figure in throughput] == contenders
    # That each message arrived once is asserted by the bench itself.
    assert [figure["messages"] for figure in throughput] == [50, 50, 5, 50]
    assert all(figure["rate"] > 0 and figure["cpu_ms"] > 0 for figure in throughput)
    assert [figure["database"] for figure in idle] == ["sqlite", "postgresql"]
    assert all(0 < figure["p50_ms"] <= figure["p99_ms"] for figure in idle)


def test_an_unknown_contender_is_refused_by_name() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench", "raw_htpx"],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "unknown: raw_htpx" in done.stderr
