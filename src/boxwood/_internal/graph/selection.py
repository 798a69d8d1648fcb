"""Which units of a network stay."""

from dataclasses import dataclass

import numpy as np

from boxwood._internal.core.arguments import check_kind
from boxwood._internal.graph.constraints import Kept
from boxwood._internal.graph.units import Units, kept_indices, table_of
from boxwood.errors import InvalidInput


@dataclass(frozen=True, repr=False)
class UnitSelection:
    """The units of a network to keep: the input of `shrink`.

    Args:
        units: of the network.
        kept: bool [units].

    Raises:
        InvalidInput: ``kept`` is not one bool for each unit, or leaves nothing of an axis.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from boxwood import find_units
        >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> UnitSelection(find_units(net, torch.ones(1, 4)), np.array([True, False, True])).removed
        1
    """

    units: Units
    kept: Kept

    def __post_init__(self) -> None:
        if self.kept.shape != (len(self.units),) or self.kept.dtype != np.bool_:
            raise InvalidInput(
                f"Expected a bool for each of {len(self.units)} units, got {self.kept.dtype} of "
                f"shape {self.kept.shape}; index it by the numbers in units.groups."
            )
        for axis in self.units.axes:
            if not kept_indices(axis, self.kept).any():
                raise InvalidInput(
                    f"Expected every axis to keep something, got a removal that leaves nothing of "
                    f"{axis.names[0]!r} along axis {axis.dim}; keep at least one of its "
                    f"{len(np.unique(axis.units))} units."
                )

    def __repr__(self) -> str:
        """Return a short table: what stays of each group."""
        left, whole = len(self.units) - self.removed, len(self.units)
        parts = (self.units.parameters(self.kept), self.units.parameters())
        title = f"{left:,} of {whole:,} units kept, {parts[0]:,} of {parts[1]:,} parameters"
        rows = [
            (g.name, f"{int(self.kept[g.units].sum()):,} of {len(g.units):,}")
            for g in self.units.groups
        ]
        return table_of(title, rows)

    @property
    def removed(self) -> int:
        """How many units go."""
        return int((~self.kept).sum())


def check_selection(selection: object) -> None:
    """Refuse what does not say which units stay, such as a fraction of them or masks.

    Raises:
        InvalidInput: it does not.

    Example:
        >>> check_selection(0.5)
        Traceback (most recent call last):
        ...
        boxwood.errors.InvalidInput: Expected the units that stay, got 0.5; give what select_units(find_units(model, example), 0.5) returns.
    """
    do = "give what select_units(find_units(model, example), 0.5) returns"
    check_kind(selection, UnitSelection, "the units that stay", do)
