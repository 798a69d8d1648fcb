"""Budgets: limits of a smaller network on parameters, multiply-adds, or any measured cost."""

from collections.abc import Callable
from dataclasses import dataclass

from boxwood._internal.core.arguments import check_function, check_kind
from boxwood._internal.graph.selection import UnitSelection
from boxwood.errors import InvalidInput

Measure = Callable[[UnitSelection], float]
"""What a budget limits, of the network that a `UnitSelection` leaves."""


@dataclass(frozen=True)
class Budget:
    """A limit that the smaller network meets.

    Args:
        fraction: of what the whole network has, in (0, 1].
        of: `multiply_adds`, `parameters`, or any other measure, such as one of measured time.
        steps: number of bisection steps in the search for the fraction of units.

    Example:
        >>> Budget(0.5, multiply_adds).fraction
        0.5
    """

    fraction: float
    of: Measure
    steps: int = 30

    def __post_init__(self) -> None:
        do = "give Budget(0.5, multiply_adds), the fraction to keep and of what"
        check_kind(self.fraction, (int, float), "a budget in (0, 1]", do)
        if not 0 < self.fraction <= 1:
            raise InvalidInput(f"Expected a budget in (0, 1], got {self.fraction}; {do}.")
        check_function(self.of, "a measure", __name__)


def multiply_adds(selection: UnitSelection) -> float:
    """Count the remaining multiply-adds: a measure for a `Budget`.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from boxwood import find_units, select_units
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> multiply_adds(select_units(find_units(net, torch.ones(1, 4)), 0.5))
        24
    """
    return selection.units.multiply_adds(selection.kept)


def parameters(selection: UnitSelection) -> float:
    """Count the remaining parameters: a measure for a `Budget`.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from boxwood import find_units, select_units
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> parameters(select_units(find_units(net, torch.ones(1, 4)), 0.5))
        30
    """
    return selection.units.parameters(selection.kept)
