"""Laws of timing by turns, on a clock that the test moves."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from boxwood._internal.core.timing import (
    by_turns,
    calls_lasting,
    elapsed,
    median_interval,
    repeated,
    timed_turns,
)


class World:
    """Calls that take a known time on a clock of their own, and are written down."""

    def __init__(self, costs: dict[str, float]) -> None:
        self.now, self.ran = 0.0, []
        self.runs = {name: lambda name=name: self.work(name, costs[name]) for name in costs}

    def work(self, name: str, cost: float) -> None:
        self.now += cost
        self.ran.append(name)

    def clock(self) -> float:
        return self.now


costs = st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 9), min_size=1)


@given(costs, st.integers(0, 6), st.integers(1, 3), st.integers(0, 2))
def test_every_turn_times_every_call_once(costs, turns, calls, warm_up) -> None:
    """What is timed is what the calls take, however often each is called for one measurement."""
    world = World(costs)
    found = by_turns(world.runs, turns, calls=calls, clock=world.clock, warm_up=warm_up)
    assert found == {name: [cost] * turns for name, cost in costs.items()}
    assert all(world.ran.count(name) == (warm_up + turns) * calls for name in costs)


@given(costs, st.integers(1, 4))
def test_calls_may_be_counted_for_each(costs, turns) -> None:
    """As many as are given."""
    world, calls = World(costs), {name: index + 1 for index, name in enumerate(costs)}
    assert by_turns(world.runs, turns, calls=calls, clock=world.clock) == {
        name: [pytest.approx(cost)] * turns for name, cost in costs.items()
    }
    assert all(world.ran.count(name) == turns * calls[name] for name in costs)


@given(costs, st.integers(1, 4))
def test_what_comes_before_is_not_timed(costs, turns) -> None:
    """It is given what is timed next."""
    world = World(costs)
    found = by_turns(world.runs, turns, clock=world.clock, before=lambda run: run())
    assert found == {name: [cost] * turns for name, cost in costs.items()}
    assert world.ran[::2] == world.ran[1::2]


@given(costs, st.integers(1, 6))
def test_every_other_turn_is_the_one_before_backwards(costs, pairs) -> None:
    """So none profits from its place, even with two runs."""
    world = World(costs)
    by_turns(world.runs, 2 * pairs, clock=world.clock)
    turns = [world.ran[at : at + len(costs)] for at in range(0, len(world.ran), len(costs))]
    assert all(one == two[::-1] for one, two in zip(turns[::2], turns[1::2], strict=True))


def test_orders_differ_from_pair_to_pair() -> None:
    """Five runs in twenty turns follow one another in more than two ways."""
    world = World(dict.fromkeys("abcde", 1.0))
    by_turns(world.runs, 20, clock=world.clock)
    assert len({tuple(world.ran[at : at + 5]) for at in range(0, 100, 5)}) > 5


def test_turns_end_when_no_more_are_taken() -> None:
    """A caller that has seen enough stops."""
    world = World({"a": 1.0, "b": 2.0})
    for turn, seconds in enumerate(timed_turns(world.runs, 100, clock=world.clock)):
        assert seconds == {"a": 1.0, "b": 2.0}
        if turn == 1:
            break
    assert len(world.ran) == 4


@given(st.integers(1, 1000), st.integers(1, 2000), st.integers(1, 50))
def test_calls_last_as_long_as_asked(cost, seconds, most) -> None:
    """Unless that takes more calls than are allowed."""
    world = World({"a": float(cost)})
    calls = calls_lasting(world.runs["a"], seconds, most=most, clock=world.clock)
    assert 1 <= calls <= most
    assert calls == most or calls * cost >= seconds > (calls - 1) * cost or calls == 1
    assert elapsed(repeated(world.runs["a"], calls), world.clock) == calls * cost


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=40))
def test_a_median_lies_in_its_interval(values) -> None:
    """The interval's ends are two of the values, and enclose the median."""
    median, low, high = median_interval(values)
    assert {low, high} <= set(values)
    assert low <= median <= high
    assert median == np.median(values)


def test_the_median_interval_has_the_tables_ranks() -> None:
    """For 21 values the 95 % interval is from the 6th to the 16th."""
    assert median_interval(list(range(1, 22))) == (11, 6, 16)
