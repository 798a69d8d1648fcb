"""The law of structural pruning as one function, for tests of single networks."""

import numpy as np

from boxwood._internal.graph.equivalence import shrink, verify
from boxwood._internal.graph.selection import Keep
from boxwood._internal.graph.units import kept_indices, units


def some_keep(found, seed):
    """Remove units at random, and nothing entirely."""
    random = np.random.default_rng(seed)
    kept = random.random(len(found)) < 0.6
    for axis in found.axes:
        if not kept_indices(axis, kept).any():
            kept[axis.units[random.integers(len(axis.units))]] = True
    return Keep(found, kept)


def check_law(net, example):
    """Hold a network to the law for three removals; return what can go."""
    found = units(net, example)
    assert len(found) >= 2
    for seed in range(3):
        keep = some_keep(found, seed)
        certificate = verify(net, shrink(net, keep), keep, gradients=seed == 0)
        assert certificate.proved, str(certificate)
    return found
