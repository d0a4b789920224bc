"""Fan-out: every recipient has one delivery, whoever dies and whoever is at it beside."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from scheduler.broadcasts import drafts, fanout
from scheduler.broadcasts.canary import canary_size
from scheduler.broadcasts.fanout import fan_out, waiting
from scheduler.broadcasts.start import start
from scheduler.broadcasts.states import BroadcastState
from scheduler.clock import fanning_out
from tests.broadcasts import audience, check, crowd, describe, draft, execute, link, opt_out, rows
from tests.waiting import wait_until
from tests.workers import DATABASES, Site, running_site
from worker import outbox
from worker.database import engine as open_engine
from worker.database import migrate
from worker.errors import NotFound, Refused
from worker.intake import check as check_delivery
from worker.order import WAITS_FOR_BROADCAST

#: Fans out one broadcast to its end in chunks of seven, whatever the others do.
_PROCESS = """
import sys
from scheduler.broadcasts.fanout import fan_out, waiting
from worker.database import engine
made, id_ = engine(sys.argv[1]), sys.argv[2]
print("ready", flush=True)
sys.stdin.readline()
while waiting(made):
    fan_out(made, id_, 7)
"""


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    made = open_engine(database_url)
    migrate(made)
    yield made
    made.dispose()


def running(engine: Engine, name: str = "spring", **fields: object) -> str:
    """Check and start a broadcast to everybody; give its id."""
    if not rows(engine, "SELECT name FROM audience"):
        audience(engine)
    draft(engine, name, **fields)  # type: ignore[arg-type]
    check(engine, name)
    return start(engine, name).id


def each_once(engine: Engine, id_: str) -> bool:
    """Tell whether every recipient has one delivery and nobody else has."""
    persons = [r.person for r in rows(engine, "SELECT person FROM recipient WHERE n IS NOT NULL")]
    keys = [row.key for row in rows(engine, "SELECT key FROM delivery")]
    return sorted(keys) == sorted(f"broadcast:{id_}:{person}" for person in persons)


def process(engine: Engine, id_: str, env: dict[str, str]) -> "subprocess.Popen[str]":
    url = engine.url.render_as_string(hide_password=False)
    made = subprocess.Popen(
        [sys.executable, "-c", _PROCESS, url, id_],
        env={**os.environ, **env},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert made.stdout is not None
    assert made.stdout.readline() == "ready\n"
    return made


def test_recipients_become_held_deliveries_as_the_door_would_make_them(engine: Engine) -> None:
    link(engine, "telegram", "5", "alice")
    link(engine, "discord", "6", "bob")
    opt_out(engine, "carl")
    link(engine, "telegram", "7", "carl")
    body = 'Grüße "an\talle" \\ 👋'
    id_ = running(engine, body=body, topic="offers", silent=True)
    assert fan_out(engine, id_) == 2
    assert fan_out(engine, id_) == 0
    made = rows(engine, "SELECT * FROM delivery ORDER BY target")
    for row, target, place in (
        (made[0], "telegram:5", ("telegram", "5")),
        (made[1], "user:bob", ("discord", None)),
    ):
        door = check_delivery(to=target, text=body, silent=True)
        assert (row.target, row.text, row.body_hash) == (target, body, door.body_hash)
        assert (row.platform, row.chat_id) == place
        assert (row.state, row.error_kind) == ("held", WAITS_FOR_BROADCAST)
        assert (row.lane, row.source, row.topic) == ("broadcast", "broadcast", "offers")
        assert (row.broadcast_id, row.order_key, bool(row.silent)) == (id_, None, True)
        assert re.fullmatch(r"[0-9a-f]{12}7[0-9a-f]{3}[89ab][0-9a-f]{15}", row.id)
        assert abs(int(row.id[:12], 16) - row.created_ms) < 2_000
        assert row.seq is not None
    with engine.begin() as connection:
        # Nothing but its broadcast lets it go.
        assert not outbox.claim(connection, owner="w", lease_ms=1, limit=9).claimed


def test_a_template_is_filled_for_each(engine: Engine) -> None:
    crowd(engine, 5)
    for n in range(1, 6):
        describe(engine, f"p{n}", name=f"N{n}")
    id_ = running(engine, body="Hello {{ name }}", templated=True)
    # What is said of them later does not break what was checked.
    execute(engine, "DELETE FROM person")
    while fan_out(engine, id_, 2):
        pass
    found = rows(engine, "SELECT target, text, body_hash FROM delivery ORDER BY target")
    assert [(row.target, row.text) for row in found] == [
        (f"telegram:{n}", f"Hello N{n}") for n in range(1, 6)
    ]
    assert found[0].body_hash == check_delivery(to="telegram:1", text="Hello N1").body_hash


def test_a_template_that_fails_after_all_halts_its_broadcast_and_not_the_others(
    engine: Engine,
) -> None:
    crowd(engine, 3)
    for n in range(1, 4):
        describe(engine, f"p{n}", name=f"N{n}")
    id_ = running(engine, body="Hello {{ name }}", templated=True)
    # As another version of a template engine might see it.
    execute(engine, "UPDATE broadcast SET body = 'Hello {{ surname }}'")
    assert fan_out(engine, id_) == 0
    [found] = rows(engine, "SELECT state, reason, fanned_out FROM broadcast")
    assert (found.state, found.fanned_out) == ("halted", 0)
    assert "'surname' is undefined" in found.reason
    assert rows(engine, "SELECT 1 FROM delivery") == []


def test_only_a_canary_is_fanned_out_until_it_is_done(engine: Engine) -> None:
    crowd(engine, 30)
    id_ = running(engine, canary_percent=5.0)
    assert waiting(engine) == [id_]
    assert fan_out(engine, id_) == 2
    assert waiting(engine) == []
    assert fan_out(engine, id_) == 0
    execute(engine, "UPDATE broadcast SET canary_done = true")
    assert fan_out(engine, id_) == 28
    assert each_once(engine, id_)


@pytest.mark.parametrize(
    ("recipients", "percent", "size"), [(1, 1.0, 1), (100, 1.0, 1), (101, 1.0, 2), (7, 99.9, 7)]
)
def test_a_canary_has_one_recipient_at_least(recipients: int, percent: float, size: int) -> None:
    assert canary_size(recipients, percent) == size


@pytest.mark.parametrize("state", [s for s in BroadcastState if s is not BroadcastState.RUNNING])
def test_what_does_not_run_is_not_fanned_out(engine: Engine, state: BroadcastState) -> None:
    crowd(engine, 1)
    id_ = running(engine)
    execute(engine, "UPDATE broadcast SET state = :state", state=state.value)
    assert waiting(engine) == []
    assert fan_out(engine, id_) == 0
    if state is not BroadcastState.CHECKED:
        with pytest.raises(Refused, match="spring is "):
            start(engine, "spring")


def test_what_is_not_there_is_not_started(engine: Engine) -> None:
    with pytest.raises(NotFound, match="no broadcast 'spring'"):
        start(engine, "spring")


@pytest.mark.parametrize("point", ["in_fan_out", "after_fan_out"])
def test_a_process_that_dies_in_it_leaves_nobody_twice_and_nobody_out(
    engine: Engine, tmp_path: Path, point: str
) -> None:
    crowd(engine, 100)
    id_ = running(engine)
    env = {
        "MIRRORPOST_FAILPOINT": f"{point}:kill:3",
        "MIRRORPOST_FAILPOINT_TOKENS": str(tmp_path / "tokens"),
    }
    (tmp_path / "tokens").mkdir()
    for token in ("1", "2"):
        (tmp_path / "tokens" / token).touch()
    codes = []
    for _ in range(3):
        made = process(engine, id_, env)
        made.communicate("go\n", timeout=60)
        codes.append(made.returncode)
    assert codes == [-9, -9, 0]
    assert each_once(engine, id_)
    assert drafts.get(engine, "spring").fanned_out == 100


def test_two_processes_at_once_do_each_recipient_once(engine: Engine) -> None:
    crowd(engine, 500)
    id_ = running(engine)
    both = [process(engine, id_, {}) for _ in range(2)]
    for made in both:
        assert made.stdin is not None
        made.stdin.write("go\n")
        made.stdin.flush()
    for made in both:
        made.communicate(timeout=60)
        assert made.returncode == 0
    assert each_once(engine, id_)


def test_a_pass_of_the_clock_takes_broadcasts_in_turns(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    crowd(engine, 3)
    first, second = running(engine, "first"), running(engine, "second")
    made: list[str] = []

    def one(engine: Engine, id_: str) -> int:
        made.append(id_)
        return fan_out(engine, id_, 2)

    monkeypatch.setattr("scheduler.clock.fan_out", one)
    duty = fanning_out(engine)
    assert duty.run() is None
    assert made[:4] == [first, second, first, second]
    assert rows(engine, "SELECT count(*) FROM delivery") == [(6,)]
    monkeypatch.setattr("scheduler.clock._FAN_OUT_S", -1.0)
    running(engine, "third")
    due_s = duty.run()
    assert due_s is not None
    assert due_s < 0.1


@pytest.fixture(params=DATABASES)
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    with running_site(request, request.param) as made:
        yield made


def test_a_scheduler_fans_out_what_was_started(site: Site) -> None:
    crowd(site.engine, 25)
    with site.scheduler():
        id_ = running(site.engine)
        wait_until(lambda: len(rows(site.engine, "SELECT id FROM delivery")) == 25, 20)
    assert each_once(site.engine, id_)


def test_the_next_chunk_is_found_by_its_index(engine: Engine) -> None:
    crowd(engine, 2_000)
    id_ = running(engine)
    sqlite = engine.dialect.name == "sqlite"
    statements = [fanout._RECIPIENTS] if sqlite else [fanout._RECIPIENTS, fanout._plain()]
    common = {"id": id_, "topic": "", "silent": False, "source": "", "body": "", "rest": ""}
    with engine.begin() as connection:
        if not sqlite:
            connection.execute(text("ANALYZE recipient"))
        for statement in statements:
            explain = "EXPLAIN QUERY PLAN" if sqlite else "EXPLAIN"
            plan = connection.execute(
                text(f"{explain} {statement.text}"), {**common, "first": 500, "last": 510}
            )
            assert "ix_recipient_n" in str(plan.all())
