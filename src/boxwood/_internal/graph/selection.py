"""Which units stay: scores, floors, multiples, budgets."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np
from numpy.typing import NDArray

from boxwood._internal.core.arguments import check_function, check_kind
from boxwood._internal.graph.constraints import Kept
from boxwood._internal.graph.scoring import UnitScores
from boxwood._internal.graph.units import Group, Units, kept_indices, table_of
from boxwood.errors import InvalidInput, NoEffect


@dataclass(frozen=True, repr=False)
class UnitSelection:
    """What stays of a network: what `shrink` is given.

    Args:
        units: of the network.
        kept: bool [units].
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


Measure = Callable[[UnitSelection], float]
"""What a budget limits, of the network that a `UnitSelection` leaves."""


@dataclass(frozen=True)
class Budget:
    """A limit that the smaller network meets.

    Args:
        fraction: of what the whole network has, in (0, 1].
        of: `multiply_adds`, `parameters`, or any other measure, such as one of measured time.
        steps: halvings of the interval in which the right fraction of units is searched.

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
    """Count the multiply-adds that are left: a measure for a `Budget`.

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
    """Count the parameters that are left: a measure for a `Budget`.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from boxwood import find_units, select_units
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> parameters(select_units(find_units(net, torch.ones(1, 4)), 0.5))
        30
    """
    return selection.units.parameters(selection.kept)


def best_units(
    units: Units,
    scores: UnitScores,
    keep: float | None = None,
    *,
    budget: Budget | None = None,
    ranked_together: bool = False,
    floor: int = 1,
    multiple: int | Callable[[Group], int] = 1,
    protect: Sequence[str] = (),
) -> UnitSelection:
    """Keep the units with the highest scores.

    Args:
        units: of the network.
        scores: one per unit.
        keep: fraction of units that stay, in (0, 1]; of every group, or over all together.
        budget: instead of ``keep``: as many units as this allows.
        ranked_together: one ranking over all groups, where otherwise each group keeps its share.
        floor: units that each group keeps at least.
        multiple: every group keeps a multiple of this many units, where it has as many; a function
            of the group for multiples that differ.
        protect: patterns of parameter names, as in a shell; units that own part of one stay.

    Raises:
        InvalidInput: a number is out of range, a pattern matches nothing, there is nothing to
            remove, or the budget cannot be met.

    Warns:
        NoEffect: every unit stays.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from boxwood._internal.graph.units import find_units
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> found = find_units(net, torch.ones(1, 4))
        >>> best_units(found, np.arange(8.0), 0.25).kept.nonzero()[0].tolist()
        [6, 7]
    """
    if (keep is None) == (budget is None):
        raise InvalidInput(
            "Expected either the fraction of units to keep or a budget, got "
            f"{'neither' if keep is None else 'both'}; give one of them."
        )
    if budget is not None:
        check_kind(budget, Budget, "a budget", "give Budget(0.5, multiply_adds)")
    if keep is not None and not 0 < keep <= 1:
        raise InvalidInput(f"Expected keep in (0, 1], got {keep}; give the fraction to keep.")
    multiples = [multiple if isinstance(multiple, int) else multiple(g) for g in units.groups]
    if min([floor, *multiples]) < 1:
        raise InvalidInput(
            f"Expected floor and multiple of at least 1, got {floor} and {min(multiples)}; a layer "
            "without units is no layer."
        )
    if len(units) == 0:
        raise InvalidInput(
            f"Expected a network with removable units, got one with none: {_why_none(units)}; "
            "Units.reasons() tells it of every axis."
        )
    if scores.shape != (len(units),) or not np.isfinite(scores).all():
        raise InvalidInput(
            f"Expected a finite score for each of {len(units)} units, got an array of shape "
            f"{scores.shape}; score the units of this network."
        )
    small = [group for group in units.groups if len(group.units) < floor]
    if len(small) == len(units.groups):
        raise InvalidInput(
            f"Expected a floor that some group can go down to, got floor={floor}, where the "
            f"largest has {max(len(group.units) for group in units.groups)} units; lower it."
        )
    plan = _Plan(units, scores, floor, multiples, _protected(units, protect), ranked_together)
    made = UnitSelection(units, plan.at(keep)) if keep is not None else _meeting(plan, budget)  # type: ignore[arg-type]
    if not made.removed:
        warnings.warn(
            "Expected to remove units, got a choice that keeps all of them; keep fewer, or lower "
            "the floor.",
            NoEffect,
            stacklevel=2,
        )
    return made


def _why_none(units: Units) -> str:
    """Tell of one axis what keeps it whole, rather of one that the model does not return."""
    told = [
        (name, dim, why) for (name, dim), why in units.reasons().items() if name in units.shapes
    ]
    told.sort(key=lambda each: (each[2] == "the model returns it", each[1]))
    if not told:
        return "it has no parameters with more than one index along an axis"
    name, dim, why = told[0]
    return f"axis {dim} of {name!r} stays, for {why}"


@dataclass(frozen=True)
class _Plan:
    """Everything that decides what is kept at a given fraction of units."""

    units: Units
    scores: UnitScores
    floor: int
    multiples: Sequence[int]
    protected: Kept
    together: bool

    def at(self, fraction: float) -> Kept:
        kept = self.protected.copy()
        cut = -np.inf
        if self.together:
            count = max(1, round(fraction * len(self.units)))
            cut = np.sort(self.scores)[len(self.units) - count]
        for group, multiple in zip(self.units.groups, self.multiples, strict=True):
            scores = self.scores[group.units]
            wanted = int((scores >= cut).sum()) if self.together else round(fraction * len(scores))
            kept[group.units[self._best(scores, wanted, group.units, multiple)]] = True
        return kept

    def _best(
        self, scores: UnitScores, wanted: int, numbers: NDArray[np.int64], multiple: int
    ) -> NDArray[np.int64]:
        size = len(scores)
        wanted = min(size, max(wanted, self.floor, 1))
        wanted = min(size, -(-wanted // multiple) * multiple)
        order = np.lexsort((-scores, ~self.protected[numbers]))  # protected first, ties in order
        return order[:wanted]


def _protected(units: Units, patterns: Sequence[str]) -> Kept:
    kept = np.zeros(len(units), dtype=np.bool_)
    names = sorted({name for axis in units.axes for name in axis.names} | set(units.shapes))
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise InvalidInput(
                f"Expected patterns that match a parameter, got {pattern!r}, which matches none of "
                f"{', '.join(names[:8])}; correct the pattern."
            )
        for axis in units.axes:
            if any(fnmatchcase(name, pattern) for name in axis.names):
                kept[axis.units[axis.units >= 0]] = True
    return kept


def _meeting(plan: _Plan, budget: Budget) -> UnitSelection:
    """Find the largest fraction of units that meets a budget, by halving."""
    whole = budget.of(UnitSelection(plan.units, np.ones(len(plan.units), dtype=np.bool_)))
    best = UnitSelection(plan.units, plan.at(0.0))
    least = budget.of(best)
    if least > budget.fraction * whole:
        raise InvalidInput(
            f"Expected a budget that can be met, got {budget.fraction}, where removing all but the "
            f"floor still leaves {least / whole:.3f}; raise the budget, lower the floor, or protect "
            "less."
        )
    low, high = 0.0, 1.0
    for _ in range(budget.steps):
        middle = (low + high) / 2
        tried = UnitSelection(plan.units, plan.at(middle))
        if budget.of(tried) <= budget.fraction * whole:
            low, best = middle, tried
        else:
            high = middle
    return best
