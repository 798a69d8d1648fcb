"""The law of structural pruning as one function, for tests of single networks."""

import numpy as np

from boxwood._internal.graph.equivalence import check_equivalence
from boxwood._internal.graph.selection import UnitSelection
from boxwood._internal.graph.shrink import shrink
from boxwood._internal.graph.units import find_units, kept_indices


def some_selection(found, seed):
    """Remove units at random, and nothing entirely."""
    random = np.random.default_rng(seed)
    kept = random.random(len(found)) < 0.6
    for axis in found.axes:
        if not kept_indices(axis, kept).any():
            kept[axis.units[random.integers(len(axis.units))]] = True
    return UnitSelection(found, kept)


def check_law(net, example):
    """Hold a network to the law for three removals; return what can go."""
    found = find_units(net, example)
    assert len(found) >= 2
    for seed in range(3):
        selection = some_selection(found, seed)
        report = check_equivalence(net, shrink(net, selection), selection, gradients=seed == 0)
        assert report.equivalent, str(report)
    return found
