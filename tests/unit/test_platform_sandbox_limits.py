import time

from hypothesis import given
from hypothesis import strategies as st

from worker.platforms.discord import Discord
from worker.sandbox.discord import NONCE_S, Nonces
from worker.sandbox.ids import Ids
from worker.sandbox.limits import Limits, Pace, Window
from worker.sandbox.store import Accepted, Store


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def test_a_pace_lets_a_burst_through_and_then_one_each_time() -> None:
    pace = Pace(1.0, burst=3)
    for _ in range(3):
        assert pace.wait_s("a", 10.0) == 0.0
        pace.take("a", 10.0)
    assert pace.wait_s("a", 10.0) == 1.0
    assert pace.wait_s("b", 10.0) == 0.0
    assert pace.wait_s("a", 11.0) == 0.0


def test_a_window_is_used_up_and_opens_again() -> None:
    window = Window(5, 5.0)
    for used in range(5):
        assert window.left("a", 10.0)[0] == 5 - used
        window.take("a", 10.0)
    assert window.wait_s("a", 12.0) == 3.0
    assert window.left("a", 12.0) == (0, 3.0)
    assert window.wait_s("a", 15.0) == 0.0
    assert window.left("a", 15.0) == (5, 5.0)


def test_a_refused_request_counts_against_nothing() -> None:
    clock = Clock()
    limits = Limits(clock=clock)
    scopes = [(limits.telegram_bot, "bot"), (limits.telegram_chat, "chat")]
    for _ in range(3):
        assert limits.admit(scopes) == 0.0
    for _ in range(100):
        assert limits.admit(scopes) > 0.0
    other = [(limits.telegram_bot, "bot"), (limits.telegram_chat, "other")]
    assert limits.admit(other) == 0.0


def test_a_telegram_group_takes_twenty_a_minute() -> None:
    clock = Clock()
    limits = Limits(clock=clock)
    scopes = [(limits.telegram_chat, "g"), (limits.telegram_group, "g")]
    sent = 0
    for _ in range(60):
        sent += limits.admit(scopes) == 0.0
        clock.now_s += 1.0
    assert 20 <= sent <= 40
    clock.now_s += 60.0
    assert limits.admit(scopes) == 0.0


def test_limits_that_are_off_let_everything_through() -> None:
    limits = Limits(on=False)
    assert all(limits.admit([(limits.slack_channel, "c")]) == 0.0 for _ in range(100))


@given(st.lists(st.floats(min_value=0, max_value=5), min_size=1, max_size=60))
def test_whoever_waits_as_told_passes(gaps: list[float]) -> None:
    clock = Clock()
    limits = Limits(clock=clock)
    scopes = [(limits.discord_bot, "b"), (limits.discord_channel, "c")]
    for gap in gaps:
        clock.now_s += gap
        wait_s = limits.admit(scopes)
        if wait_s > 0:
            clock.now_s += wait_s + 1e-6
            assert limits.admit(scopes) == 0.0


def test_a_snowflake_holds_the_time_of_its_making() -> None:
    made_ms = (int(Ids().snowflake()) >> 22) + 1_420_070_400_000
    assert abs(made_ms - time.time() * 1000) < 60_000


def test_ids_made_at_once_are_all_different() -> None:
    ids = Ids()
    assert len({ids.snowflake() for _ in range(10_000)}) == 10_000
    assert len({ids.slack_ts() for _ in range(10_000)}) == 10_000
    assert [ids.telegram("a"), ids.telegram("a"), ids.telegram("b")] == [1, 2, 1]


def test_the_store_forgets_the_oldest_first() -> None:
    store = Store(kept=2)
    for number in range(3):
        store.add(Accepted("slack", "C1", str(number), "x"))
    assert [message.id for message in store.messages()] == ["1", "2"]


def test_a_discord_nonce_is_one_message_for_minutes_and_longer_than_we_rely_on_it() -> None:
    clock = Clock()
    nonces = Nonces(clock=clock)
    nonces.keep("bot", "n", {"id": "1"})
    window_s = Discord.capability.dedup_window_s
    assert window_s is not None
    clock.now_s += window_s
    assert nonces.find("bot", "n") == {"id": "1"}
    assert nonces.find("other", "n") is None
    clock.now_s += NONCE_S
    assert nonces.find("bot", "n") is None
