"""How long the smaller network takes, on this machine: a measure for a budget."""

import statistics
from functools import partial

import torch
from torch import nn

from boxwood._internal.core.timing import by_turns
from boxwood._internal.graph.budgets import Measure
from boxwood._internal.graph.examples import called, moved_to
from boxwood._internal.graph.selection import UnitSelection
from boxwood._internal.graph.surgery import cut
from boxwood.errors import InvalidInput


def latency(model: nn.Module, *, repeats: int = 7) -> Measure:
    """Make a measure of time for a `Budget`: each smaller network is built and timed on the example.

    Every measurement alternates with one of the whole network, and the result is the median of the
    ratios, so that a busy machine affects both equally. The whole network measures 1.

    Args:
        model: the network.
        repeats: pairs of runs.

    Raises:
        InvalidInput: repeats is below 1.

    Example:
        >>> from boxwood import find_units, select_units
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> latency(net)(select_units(find_units(net, torch.ones(1, 4)), 0.5)) > 0
        True
    """
    if repeats < 1:
        raise InvalidInput(f"Expected repeats of at least 1, got {repeats}; give a few.")

    def measure(selection: UnitSelection) -> float:
        if not selection.removed:
            return 1.0
        return statistics.median(
            after / before for before, after in turns(model, selection, repeats)
        )

    return measure


def turns(model: nn.Module, selection: UnitSelection, repeats: int) -> list[tuple[float, float]]:
    """Run the whole network and the cut one in turn, on the example of its units.

    Args:
        model: the network.
        selection: what the cut one keeps.
        repeats: how many turns.

    Returns:
        Seconds of both, turn by turn.

    Example:
        >>> from boxwood import find_units, select_units
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> len(turns(net, select_units(find_units(net, torch.ones(1, 4)), 0.5), 3))
        3
    """
    everything = UnitSelection(selection.units, selection.kept | True)
    pair = [cut(model, each)[0].eval() for each in (everything, selection)]
    example = moved_to(model, selection.units.example)
    runs = {place: partial(called, network, example) for place, network in enumerate(pair)}
    with torch.no_grad():
        whole, small = by_turns(runs, repeats, warm_up=1).values()
    return list(zip(whole, small, strict=True))
