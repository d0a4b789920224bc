"""The limiter's script against its model, and both against the limits themselves."""

import heapq
import random
from collections import defaultdict
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redis import Redis

from worker.lanes import Lane
from worker.limiter import limiter
from worker.limiter.scopes import Ask, Batch, Paced, Paused, Row, Spec, Windowed, batch
from worker.limiter.share import Share

_SCRIPT = Path(limiter.__file__).with_name("ask.lua").read_text()
_CLOCK = "local now = time[1] * 1000 + time[2] / 1000"
START = 1_800_000_000_000.0
#: What two kinds of bots, two chats and a group fall under.
SPECS: dict[str, Spec] = {
    "bot": Paced(100.0, 400.0),
    "bot#broadcast": Paced(110.0, 0.0),
    "chat1": Paced(1000.0, 1000.0),
    "chat2": Paced(1000.0, 1000.0),
    "group": Windowed(5, 4000.0),
    "pause": Paused(),
}
KEYS = list(SPECS)
#: For each kind of message its horizon, share of the burst, whether it keeps a line, and its
#: scopes with their permits.
ROWS: dict[str, Row] = {
    "reply to 1": [250.0, 1.0, 0, 0, 1, 2, 1, 5, 1],
    "reply to 2": [250.0, 1.0, 0, 0, 1, 3, 1, 5, 1],
    "opening": [250.0, 0.5, 0, 0, 2, 5, 1],
    "group": [250.0, 0.8, 0, 0, 1, 4, 1, 5, 1],
    "broadcast to 2": [250.0, 0.0, 1, 0, 1, 1, 1, 3, 1, 5, 1],
    "broadcast": [250.0, 0.0, 1, 0, 1, 1, 1, 5, 1],
}


class Script:
    """The script with the clock of the test."""

    def __init__(self, url: str) -> None:
        assert _CLOCK in _SCRIPT
        self._redis = Redis.from_url(url)
        self._redis.flushall()
        self._run = self._redis.register_script(
            _SCRIPT.replace(_CLOCK, "local now = tonumber(ARGV[2])")
        )

    def ask(self, now: float, asked: Batch) -> list[float]:
        answers = self._run(args=[limiter.in_json(asked), f"{now:.3f}"])
        return [answer / 1000 for answer in answers]

    def pause(self, until: float) -> None:
        self._redis.set("pause", f"{until:.3f}")

    def close(self) -> None:
        self._redis.close()


STEPS = st.lists(
    st.tuples(
        st.integers(0, 1500),
        st.lists(st.sampled_from(sorted(ROWS)), max_size=12),
        st.just(0) | st.integers(1001, 2000),
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
            asked = Batch(KEYS, list(SPECS.values()), [ROWS[n] for n in names], [])
            told, mine = script.ask(now, asked), share.ask(now, asked)
            assert told == pytest.approx(mine, abs=0.01)
            for row, answer in zip(asked.rows, mine, strict=True):
                if answer >= 0:
                    assert now + answer >= share.paused.get("pause", 0) - 0.01
                    for place, permits in zip(row[3::2], row[4::2], strict=True):
                        granted[KEYS[int(place)]] += [now + answer] * int(permits)
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
    rng, share = random.Random(7), Share()
    until = 60_000.0
    waiting = [(rng.uniform(0, 500), n, _ask(n, rng.choice(lanes))) for n in range(4_000)]
    waiting.sort()
    sent: list[float] = []
    now = 0.0
    while waiting and now < until:
        now = max(now, waiting[0][0]) + rng.uniform(0, 3)
        most = rng.randint(1, 64)
        due: list[tuple[float, int, Ask]] = []
        while waiting and waiting[0][0] <= now and len(due) < most:
            due.append(heapq.heappop(waiting))
        asked = batch([ask for *_, ask in due], {})
        for (_, n, ask), answer in zip(due, share.ask(now, asked), strict=True):
            if answer >= 0:
                sent.append(now + answer)
            else:
                heapq.heappush(waiting, (now - answer + rng.uniform(0, 20), n, ask))
    in_time = [at for at in sent if at < until]
    assert len(in_time) / (until / 1000) > 0.97 * 30
    assert_within(Paced(1000 / 30, 9 * 1000 / 30), sorted(sent))


def _ask(number: int, lane: Lane) -> Ask:
    return Ask("telegram", "", str(number + 1), lane)


@pytest.mark.parametrize("platform", ["telegram", "discord"])
def test_lanes_above_pass_broadcasts_that_ask_all_the_time(platform: str) -> None:
    """On Discord no burst lets a reply pass: it has to get a permit before the next of them."""
    rng, share, until = random.Random(7), Share(), 60_000.0
    waiting = [(rng.uniform(0, 300), n, Lane.BROADCAST, 0.0) for n in range(600)]
    for n, lane in enumerate((Lane.REPLY, Lane.REMINDER, Lane.CRON) * 60):
        at = rng.uniform(2_000, until - 5_000)
        waiting.append((at, 1_000 + n, lane, at))
    heapq.heapify(waiting)
    fresh, sent = 10_000, 0
    took: defaultdict[Lane, list[float]] = defaultdict(list)
    while waiting[0][0] < until:
        now, n, lane, since = heapq.heappop(waiting)
        (answer,) = share.ask(now, batch([Ask(platform, "", str(n + 1), lane)], {}))
        if answer < 0:
            heapq.heappush(waiting, (now - answer + rng.uniform(0, 5), n, lane, since))
            continue
        sent += 1
        if lane is not Lane.BROADCAST:
            took[lane].append(now + answer - since)
            continue
        fresh += 1
        heapq.heappush(waiting, (now + rng.uniform(0, 60), fresh, lane, now))
    assert {lane: len(each) for lane, each in took.items()} == dict.fromkeys(took, 60)
    assert max(took[Lane.REPLY]) < 500
    assert max(took[Lane.REMINDER]) < 1_000
    assert sent / (until / 1000) > 0.97 * {"telegram": 30, "discord": 50}[platform]
