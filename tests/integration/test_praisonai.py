"""A session manager that we did not write: PraisonAI's, as it comes from PyPI."""

import json
import os
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.environments import optional_environment

PRAISONAI = ["praisonai-bot==0.1.16", "praisonaiagents==1.7.17"]
#: What our side of the conversation imports, as it is installed for this run.
OURS = ["filelock", "orjson", "redis", "sqlalchemy", "sqlmodel", "structlog"]

CHECKOUT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    home = tmp_path_factory.mktemp("praisonai")
    python = optional_environment(
        "praisonai", [*PRAISONAI, *(f"{name}=={version(name)}" for name in OURS)]
    )
    done = subprocess.run(
        [python, Path(__file__).with_name("praisonai_script.py"), home / "sessions"],
        env={
            **os.environ,
            "PYTHONPATH": str(CHECKOUT),
            "PYTHONDONTWRITEBYTECODE": "1",
            "HOME": str(home),
            "PRAISONAI_HOME": str(home),
            "PRAISONAI_TELEMETRY_DISABLED": "true",
        },
        cwd=home,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_what_we_mirror_is_what_they_load_after_a_restart(results):
    assert results["sync"]["answers"] == [True, True, True]
    assert results["sync"]["restarted"] == ["m0", "m1", "m2"]


def test_the_keys_of_their_store_are_the_ones_that_we_keep_to(results):
    assert results["sync"]["key"] == "bot_telegram_sync"


def test_flags_and_metadata_reach_them_and_it_is_their_store_that_drops_them(results):
    # Of an entry their store keeps role, content, time and tool calls; the one that was added
    # last is still whole in their memory.
    entry = results["sync"]["newest_in_memory"]
    assert (entry["content"], entry["role"], entry["mirror"]) == ("m2", "assistant", True)
    assert (entry["mirror_source"], entry["job"]) == ("cron", 2)


def test_a_coroutine_on_the_running_loop_neither_deadlocks_nor_is_told_false(results):
    assert results["coroutine"]["answers"] == [True] * 4
    assert results["coroutine"]["restarted"] == ["m0", "m1", "m2", "m3"]


@pytest.mark.parametrize("place", ["the loop", "a thread", "a tool"])
def test_a_mirror_during_their_turn_is_there_in_the_next_one(results, place):
    assert results[place]["answers"] == [True]
    turn = ["hello", "answer to hello", "reminder"]
    # Their turn joins a mirror to the answer before it, for models that want roles to alternate.
    assert "\n\n".join(results[place]["next_turn_saw"]) == "\n\n".join(turn)
    assert "reminder" in "\n\n".join(results[place]["restarted"])


def test_a_mirror_whose_loop_ended_is_written_all_the_same(results):
    assert results["ended"]["answers"] == [True, True]
    assert results["ended"]["restarted"] == ["still"]


def test_a_person_is_reached_by_unified_and_by_raw_id_and_refused_where_nobody_would_read(results):
    assert results["person"]["answers"] == [True, True, False]
    assert results["person"]["restarted"] == ["alice", "4711"]
