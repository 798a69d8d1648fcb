"""Choose by measurement how a layer's product runs at each number of positions."""

import enum
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from boxwood._internal.core.timing import by_turns, calls_lasting, clock_for

Product = Callable[[Tensor], Tensor]


class Way(enum.Enum):
    """How a product runs."""

    DENSE = "torch"
    FEW = "a few positions at a time"
    MANY = "many positions at a time"


POINTS = (1, 2, 4, 7, 15, 33, 65, 129)
"""Numbers of positions that are measured: ends of what the kernels take at a time, and just after."""

MARGIN = 0.97
"""A sparse way is taken where it needs at most this share of torch's time."""

TURNS = 5
BOUND_BY_MEMORY = 7
"""Positions up to which reading the weights may take the longest."""
LASTING = 2e-4
"""Seconds that one measurement lasts at least."""
LONG = 0.02
"""Seconds of one product after which larger numbers of positions are not measured."""

Times = Mapping[int, Mapping[Way, float]]
"""Seconds by number of positions and way."""


def measure(
    products: Mapping[Way, Sequence[Product]], inputs: int, dtype: torch.dtype, threads: int
) -> Times:
    """Return the least seconds of each way at each number of positions.

    Where reading the weights takes the longest, layers of one kind run one after the other, so
    that weights are as far away as they are when a whole network runs.

    Args:
        products: of layers of one kind, for each way, torch's among them.
        inputs: features of a position.
        dtype: of the features.
        threads: that they run on.
    """
    clock, found = clock_for(threads), {}
    for positions in POINTS:
        x = torch.ones(positions, inputs, dtype=dtype)
        count = None if positions <= BOUND_BY_MEMORY else 1
        runs = {way: partial(_each, layers[:count], x) for way, layers in products.items()}
        calls = {
            way: calls_lasting(run, LASTING, most=200, clock=clock) for way, run in runs.items()
        }
        times = by_turns(runs, TURNS, calls=calls, clock=clock)
        layers = len(products[Way.DENSE][:count])
        found[positions] = {way: min(each) / layers for way, each in times.items()}
        if max(found[positions].values()) > LONG:
            break
    return found


def _each(products: Sequence[Product], x: Tensor) -> None:
    for product in products:
        product(x)


def ways_by_positions(times: Times) -> tuple[Way, ...]:
    """Return the way for 0, 1, 2, … positions; the last one is for all larger numbers.

    Between two measured numbers it has to win at both.

    Example:
        >>> slow, fast = {Way.DENSE: 1.0, Way.FEW: 2.0}, {Way.DENSE: 1.0, Way.FEW: 0.5}
        >>> [way.name for way in ways_by_positions({1: fast, 2: fast, 4: slow})]
        ['DENSE', 'FEW', 'FEW', 'DENSE', 'DENSE']
    """
    found, points = [Way.DENSE], list(times)
    for positions in range(1, points[-1] + 1):
        below = max(point for point in points if point <= positions)
        above = min(point for point in points if point >= positions)
        ratios = {
            way: max(_ratio(times[point], way) for point in (below, above)) for way in times[1]
        }
        best = min(ratios, key=ratios.__getitem__)
        found.append(best if ratios[best] <= MARGIN else Way.DENSE)
    return tuple(found)


def speedup(times: Times, positions: int) -> float:
    """How many times as fast as torch the fastest way is, at the nearest measured number.

    Example:
        >>> speedup({1: {Way.DENSE: 3.0, Way.FEW: 1.5}}, 1)
        2.0
    """
    point = min(times, key=lambda each: abs(math.log(each / positions)))
    return 1 / min(_ratio(times[point], way) for way in times[point])


def _ratio(times: Mapping[Way, float], way: Way) -> float:
    return times[way] / times[Way.DENSE]
