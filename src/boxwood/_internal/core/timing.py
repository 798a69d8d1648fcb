"""Time repeated calls in turn, so that a temporary slowdown of the machine affects all of them equally."""

import math
import random
import statistics
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import TypeVar

Run = Callable[[], object]
"""Something to time; what it returns is dropped."""

Clock = Callable[[], float]
"""Seconds since any moment, such as ``time.perf_counter``."""

Name = TypeVar("Name", bound=Hashable)


def elapsed(run: Run, clock: Clock = time.perf_counter) -> float:
    """Return the seconds that one call takes."""
    begin = clock()
    run()
    return clock() - begin


def clock_for(threads: int) -> Clock:
    """Return the clock that a busy machine disturbs least: of one thread, its own time.

    Args:
        threads: that the timed calls run on.
    """
    return time.thread_time if threads == 1 else time.perf_counter


def repeated(run: Run, calls: int) -> Run:
    """Return a function that makes a number of calls, and only one call where that number is 1."""
    if calls == 1:
        return run

    def block() -> None:
        for _ in range(calls):
            run()

    return block


def calls_lasting(run: Run, seconds: float, *, most: int, clock: Clock = time.perf_counter) -> int:
    """Return how many calls last a number of seconds, by timing the second call.

    Args:
        run: what is called.
        seconds: that the calls last at least, so that the clock's own cost is small.
        most: the greatest number to return.
        clock: seconds.
    """
    run()
    return min(most, max(1, math.ceil(seconds / max(elapsed(run, clock), 1e-9))))


def timed_turns(
    runs: Mapping[Name, Run],
    turns: int,
    *,
    calls: int | Mapping[Name, int] = 1,
    clock: Clock = time.perf_counter,
    warm_up: int = 0,
    before: Callable[[Run], object] = lambda _: None,
) -> Iterator[dict[Name, float]]:
    """Time every run once in each turn, and give the seconds per call of each after its turn.

    The order is random, and reversed in every other turn: what ran before costs a run some per
    cent, so none follows the same one every time.

    Args:
        runs: what to time, by name.
        turns: how often.
        calls: how many calls are one measurement, for all runs or for each.
        clock: seconds; of the wall, or ``time.thread_time`` for one thread on a busy machine.
        warm_up: measurements of each run that do not count.
        before: called with the measurement to come, untimed: to make it once for nothing, or to
            collect garbage.

    Example:
        >>> [sorted(turn) for turn in timed_turns({"a": list, "b": dict}, 2)]
        [['a', 'b'], ['a', 'b']]
    """
    counts = {name: calls if isinstance(calls, int) else calls[name] for name in runs}
    blocks = {name: repeated(run, counts[name]) for name, run in runs.items()}
    for block in blocks.values():
        for _ in range(warm_up):
            block()
    for turn in range(turns):
        order = random.Random(turn // 2).sample(list(blocks), len(blocks))
        seconds: dict[Name, float] = {}
        for name in order[:: -1 if turn % 2 else 1]:
            before(blocks[name])
            seconds[name] = elapsed(blocks[name], clock) / counts[name]
        yield seconds


def by_turns(
    runs: Mapping[Name, Run],
    turns: int,
    *,
    calls: int | Mapping[Name, int] = 1,
    clock: Clock = time.perf_counter,
    warm_up: int = 0,
    before: Callable[[Run], object] = lambda _: None,
) -> dict[Name, list[float]]:
    """Return the seconds per call of every run, turn by turn; arguments as in `timed_turns`.

    Example:
        >>> ticks = iter(range(4))
        >>> by_turns({"nothing": lambda: None}, 2, clock=lambda: next(ticks))
        {'nothing': [1.0, 1.0]}
    """
    found: dict[Name, list[float]] = {name: [] for name in runs}
    for seconds in timed_turns(
        runs, turns, calls=calls, clock=clock, warm_up=warm_up, before=before
    ):
        for name, each in seconds.items():
            found[name].append(each)
    return found


def median_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the median, and the order statistics that enclose it in 95 % of samples.

    With fewer than six values there are none; the ends are then the least and the greatest.

    Args:
        values: at least one.

    Example:
        >>> median_interval([3.0, 1.0, 2.0, 4.0, 5.0, 6.0, 7.0])
        (4.0, 1.0, 7.0)

    Reference: H. A. David and H. N. Nagaraja, Order Statistics, 2003, section 7.1.
    """
    ordered, count = sorted(values), len(values)
    rank, below = 0, 0.5**count  # chance that fewer than rank + 1 values lie below the median
    while rank + 1 < count / 2 and below + math.comb(count, rank + 1) * 0.5**count <= 0.025:
        rank += 1
        below += math.comb(count, rank) * 0.5**count
    return statistics.median(ordered), ordered[rank], ordered[count - 1 - rank]
