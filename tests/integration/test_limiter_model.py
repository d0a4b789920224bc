"""The limiter's script against its model, and both against the limits themselves."""

import heapq
import random
from collections import defaultdict
from pathlib import Path

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redis import Redis

from worker.lanes import Lane
from worker.limiter import limiter
from worker.limiter.limiter import Ask
from worker.limiter.scopes import Line, Paced, Paused, Row, Spec, Windowed
from worker.limiter.share import Share

_SCRIPT = Path(limiter.__file__).with_name("ask.lua").read_text()
_CLOCK = "local now = time[1] * 1000 + time[2] / 1000"
START = 1_800_000_000_000.0
#: Distinct scopes: what two bots, three chats and a group fall under.
SPECS: dict[str, Spec] = {
    "bot": Paced(100.0, 400.0),
    "bot#broadcast": Paced(110.0, 0.0),
    "chat1": Paced(1000.0, 1000.0),
    "chat2": Paced(1000.0, 1000.0),
    "group": Windowed(5, 4000.0),
    "pause": Paused(),
    "line": Line("bot#broadcast"),
}
REPLY = ("bot", 1)
ROWS = {
    "reply to 1": Row(250.0, 1.0, None, (REPLY, ("chat1", 1), ("pause", 1))),
    "reply to 2": Row(250.0, 1.0, None, (REPLY, ("chat2", 1), ("pause", 1))),
    "opening": Row(250.0, 0.5, None, (("bot", 2), ("pause", 1))),
    "group": Row(250.0, 0.8, None, (REPLY, ("group", 1), ("pause", 1))),
    "broadcast": Row(250.0, 0.0, "line", (REPLY, ("bot#broadcast", 1), ("pause", 1))),
}


class Script:
    """The script with the clock of the test."""

    def __init__(self, url: str) -> None:
        assert _CLOCK in _SCRIPT
        self._redis = Redis.from_url(url)
        self._redis.flushall()
        self._run = self._redis.register_script(
            _SCRIPT.replace(_CLOCK, "local now = tonumber(ARGV[3])")
        )

    def ask(self, now: float, rows: list[Row]) -> list[float]:
        number = {key: n for n, key in enumerate(SPECS, 1)}
        told = orjson.dumps([limiter._told(spec, number) for spec in SPECS.values()])
        asked = orjson.dumps(
            [
                (
                    row.horizon_ms,
                    row.slack,
                    number[row.line] if row.line else 0,
                    *(n for key, permits in row.scopes for n in (number[key], permits)),
                )
                for row in rows
            ]
        )
        answers = self._run(keys=list(SPECS), args=[told, asked, f"{now:.3f}"])
        return [answer / 1000 for answer in answers]

    def pause(self, until: float) -> None:
        self._redis.set("pause", f"{until:.3f}")

    def close(self) -> None:
        self._redis.close()


STEPS = st.lists(
    st.tuples(
        st.integers(0, 1500),
        st.lists(st.sampled_from(sorted(ROWS)), max_size=12),
        st.integers(0, 2000).filter(lambda n: n == 0 or n > 1000),
    ),
    min_size=1,
    max_size=25,
)


@settings(max_examples=60, deadline=None)
@given(steps=STEPS)
def test_script_and_model_decide_alike_and_no_scope_is_ever_over_its_limit(
    redis_server_url: str, steps: list[tuple[int, list[str], int]]
) -> None:
    script, share = Script(redis_server_url), Share()
    granted: defaultdict[str, list[float]] = defaultdict(list)
    now = START
    try:
        for wait, names, pause in steps:
            now += wait
            if pause:
                script.pause(now + pause)
                share.paused["pause"] = now + pause
            rows = [ROWS[name] for name in names]
            told, mine = script.ask(now, rows), share.ask(now, SPECS, rows)
            assert told == pytest.approx(mine, abs=0.01)
            for row, answer in zip(rows, mine, strict=True):
                if answer >= 0:
                    assert now + answer >= share.paused.get("pause", 0) - 0.01
                    for key, permits in row.scopes:
                        granted[key] += [now + answer] * permits
    finally:
        script.close()
    for key, times in granted.items():
        assert_within(SPECS[key], sorted(times))


def assert_within(spec: Spec, times: list[float]) -> None:
    """Look at every window that begins with a permit."""
    for first, begin in enumerate(times):
        for last in range(first, len(times)):
            number, long = last - first + 1, times[last] - begin
            match spec:
                case Paced():
                    # One message may cost two permits, which leave together.
                    assert number <= long / spec.pace_ms + 1 + spec.slack_ms / spec.pace_ms + 1.01
                case Windowed():
                    assert number <= spec.count or long >= spec.period_ms - 0.01
                case _:
                    pass


@pytest.mark.parametrize("lanes", [(Lane.BROADCAST,), (Lane.REPLY,), tuple(Lane)])
def test_with_demand_over_97_percent_of_a_limit_are_used_whatever_the_lanes(
    lanes: tuple[Lane, ...],
) -> None:
    """Three workers ask as they please: what is not granted asks again when it was told to."""
    rng, share, learned = random.Random(7), Share(), dict[str, Windowed]()
    specs: dict[str, Spec] = {}
    until = 60_000.0
    waiting = [
        (rng.uniform(0, 500), n, limiter._row(_ask(n, rng.choice(lanes)), specs, learned))
        for n in range(4_000)
    ]
    waiting.sort()
    sent: list[float] = []
    now = 0.0
    while waiting and now < until:
        now = max(now, waiting[0][0]) + rng.uniform(0, 3)
        most = rng.randint(1, 64)
        batch: list[tuple[float, int, Row]] = []
        while waiting and waiting[0][0] <= now and len(batch) < most:
            batch.append(heapq.heappop(waiting))
        for (_, n, row), answer in zip(
            batch, share.ask(now, specs, [row for *_, row in batch]), strict=True
        ):
            if answer >= 0:
                sent.append(now + answer)
            else:
                heapq.heappush(waiting, (now - answer + rng.uniform(0, 20), n, row))
    in_time = [at for at in sent if at < until]
    assert len(in_time) / (until / 1000) > 0.97 * 30
    assert_within(Paced(1000 / 30, 9 * 1000 / 30), sorted(sent))


def _ask(number: int, lane: Lane) -> Ask:
    return Ask("telegram", "", str(number + 1), lane)
