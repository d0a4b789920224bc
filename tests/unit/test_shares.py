"""How the broadcasts of a bot share it: evenly, by tenant, and without leaving it idle."""

from hypothesis import given
from hypothesis import strategies as st

from scheduler.broadcasts.shares import Demand, even_shares, to_let_go

wants = st.lists(st.integers(0, 50), max_size=8)


@given(st.integers(0, 200), wants)
def test_nothing_is_left_while_somebody_wants_it(total: int, wanted: list[int]) -> None:
    assert sum(even_shares(total, wanted)) == min(total, sum(wanted))


@given(st.integers(0, 200), wants)
def test_nobody_gets_more_than_wanted_and_who_gets_less_has_as_much_as_anybody(
    total: int, wanted: list[int]
) -> None:
    shares = even_shares(total, wanted)
    for share, want in zip(shares, wanted, strict=True):
        assert 0 <= share <= want
        if share < want:
            assert share >= max(shares) - 1


demands = st.dictionaries(
    st.sampled_from("abcdefgh"),
    st.builds(Demand, st.sampled_from(["", "x", "y"]), st.integers(0, 40), st.integers(0, 40)),
)


@given(demands, st.integers(0, 60))
def test_a_bot_is_never_left_idle_nor_flooded(found: dict[str, Demand], room: int) -> None:
    let_go = to_let_go(found, room)
    assert let_go.keys() == found.keys()
    assert all(0 <= n <= found[name].waiting for name, n in let_go.items())
    under_way = sum(d.under_way for d in found.values())
    # Who has more under way than its share keeps it, so those may come on top once.
    assert under_way + sum(let_go.values()) <= max(under_way, 0) + max(room, len(found))
    if under_way < room:
        waiting = sum(d.waiting for d in found.values())
        assert sum(let_go.values()) >= min(room - under_way, waiting)


@given(demands, st.integers(0, 60))
def test_none_starves_however_slow_its_bot_is(found: dict[str, Demand], room: int) -> None:
    let_go = to_let_go(found, room)
    for name, demand in found.items():
        if demand.waiting and not demand.under_way:
            assert let_go[name] >= 1


def test_tenants_share_evenly_and_a_tenants_broadcasts_its_part() -> None:
    found = {
        "one": Demand("x", 0, 1000),
        "two": Demand("x", 0, 1000),
        "three": Demand("x", 0, 10),
        "other": Demand("y", 0, 1000),
    }
    assert to_let_go(found, 120) == {"one": 25, "two": 25, "three": 10, "other": 60}


def test_who_has_its_share_under_way_gets_nothing_more() -> None:
    found = {"old": Demand("", 120, 1000), "new": Demand("", 0, 1000)}
    assert to_let_go(found, 120) == {"old": 0, "new": 60}
