"""Accepted mirrors at the ends and beginnings of processes."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path

MANAGER = """
import asyncio, json, os, pathlib, sys, time, warnings
from worker.sessions import flush_mirrors, mirror_to_session

class Files:
    def __init__(self, path): self.path = pathlib.Path(path)
    def _storage_key(self, user_id): return user_id
    def _load_history(self, user_id):
        return json.loads(self.path.read_text()) if self.path.exists() else []
    def _save_history(self, user_id, history):
        time.sleep(0.05)
        self.path.write_text(json.dumps(history))

class OnItsLoop(Files):
    def _add_mirror_entry_sync(self, user_id, entry):
        self._save_history(user_id, [*self._load_history(user_id), entry])
        return True
    async def _add_mirror_entry_async(self, user_id, entry):
        await asyncio.sleep(60)

path = sys.argv[1]
"""


def run(tmp_path, script):
    path = tmp_path / "history.json"
    done = subprocess.run(
        [sys.executable, "-c", MANAGER + textwrap.dedent(script), path],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return path


def contents(path):
    return [entry["content"] for entry in json.loads(path.read_text())]


def test_the_interpreters_exit_waits_for_accepted_mirrors(tmp_path):
    script = """
        async def main():
            files = Files(path)
            assert all([mirror_to_session(files, "1", str(n)) for n in range(5)])
        asyncio.run(main())
    """
    assert contents(run(tmp_path, script)) == ["0", "1", "2", "3", "4"]


def test_a_mirror_that_waits_for_a_loop_which_was_just_left_is_written_at_exit(tmp_path):
    script = """
        async def main():
            assert mirror_to_session(OnItsLoop(path), "1", "left behind") is True
            await asyncio.sleep(0.01)
        loop = asyncio.new_event_loop()
        loop.run_until_complete(main())
    """
    assert contents(run(tmp_path, script)) == ["left behind"]


def test_a_forked_child_writes_with_threads_of_its_own(tmp_path):
    # From 3.12 on Python warns of a fork beside threads, which prefork workers do all the same.
    script = """
        files = Files(path)
        async def mirror(text):
            assert mirror_to_session(files, "1", text) is True
        asyncio.run(mirror("parent"))
        assert flush_mirrors(10)
        warnings.simplefilter("ignore")
        child = os.fork()
        if child == 0:
            asyncio.run(mirror("child"))
            os._exit(0 if flush_mirrors(10) else 1)
        assert os.waitpid(child, 0)[1] == 0
    """
    assert contents(run(tmp_path, script)) == ["parent", "child"]
