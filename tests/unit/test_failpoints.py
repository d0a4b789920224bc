"""Fail-points: nothing in production, and in a chaos test as often as there are tokens."""

import signal
import subprocess
import sys
from pathlib import Path

_REACH_TEN_TIMES = """
from worker.failpoints import reach
for n in range(10):
    reach("after_claim", f"message {n}")
    print(n, flush=True)
"""


def _run(setting: str | None, tokens: Path) -> "subprocess.CompletedProcess[str]":
    env = {"MIRRORPOST_FAILPOINT_TOKENS": str(tokens)}
    if setting is not None:
        env["MIRRORPOST_FAILPOINT"] = setting
    return subprocess.run(
        [sys.executable, "-c", _REACH_TEN_TIMES],
        env=env,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )


def test_without_the_variable_nothing_happens(tmp_path: Path) -> None:
    (tmp_path / "token").touch()
    assert _run(None, tmp_path).returncode == 0
    assert (tmp_path / "token").exists()


def test_a_process_dies_the_third_time_it_gets_there(tmp_path: Path) -> None:
    (tmp_path / "token").touch()
    ended = _run("after_claim:kill:3", tmp_path)
    assert ended.returncode == -signal.SIGKILL
    assert ended.stdout.split() == ["0", "1"]
    assert not (tmp_path / "token").exists()


def test_without_tokens_it_lives(tmp_path: Path) -> None:
    assert _run("after_claim:kill:3", tmp_path).returncode == 0


def test_another_name_is_not_meant(tmp_path: Path) -> None:
    (tmp_path / "token").touch()
    assert _run("after_settle:kill:1", tmp_path).returncode == 0


def test_a_marked_message_is_poison(tmp_path: Path) -> None:
    (tmp_path / "token").touch()
    ended = _run("after_claim:kill:~message 7", tmp_path)
    assert ended.returncode == -signal.SIGKILL
    assert ended.stdout.split() == list("0123456")


def test_it_may_raise_instead(tmp_path: Path) -> None:
    (tmp_path / "token").touch()
    ended = _run("after_claim:raise:1", tmp_path)
    assert "FailpointError" in ended.stderr
