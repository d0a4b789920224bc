import json
import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]


def bench(*arguments: str) -> dict[str, list[dict[str, float]]]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench", "--json", *arguments],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, list[dict[str, float]]] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_every_contender_delivers_what_it_is_given(database: str) -> None:
    contenders = ["raw_httpx", "raw_aiohttp", f"usual_{database}", f"mirrorpost_{database}"]
    found = bench("--runs", "1", "--messages", "50", *contenders)["throughput"]
    assert [figure["contender"] for figure in found] == contenders
    # That each message arrived once is asserted by the bench itself.
    assert [figure["messages"] for figure in found] == [50, 50, 5, 50]
    assert all(figure["rate"] > 0 and figure["cpu_ms"] > 0 for figure in found)


def test_single_messages_and_idling_are_measured_on_both_databases() -> None:
    found = bench("idle", "--singles", "3", "--idle-seconds", "0.2")["idle"]
    assert [figure["database"] for figure in found] == ["sqlite", "postgresql"]
    assert all(0 < figure["p50_ms"] <= figure["p99_ms"] for figure in found)


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
