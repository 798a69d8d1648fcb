"""The units with the highest scores: fractions, budgets, floors, multiples."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np
from numpy.typing import NDArray

from boxwood._internal.core.arguments import check_kind
from boxwood._internal.graph.budgets import Budget
from boxwood._internal.graph.constraints import Kept
from boxwood._internal.graph.scoring import UnitScores
from boxwood._internal.graph.selection import UnitSelection
from boxwood._internal.graph.units import Group, Units
from boxwood.errors import InvalidInput, NoEffect


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
        budget: instead of ``keep``: keep as many units as this allows.
        ranked_together: rank all groups together; by default each group keeps its share.
        floor: the least number of units that each group keeps.
        multiple: every group keeps a multiple of this many units, where it has as many; a function
            of the group for multiples that differ.
        protect: patterns of parameter names, as in a shell; units that have weights in a matching
            parameter are kept.

    Raises:
        InvalidInput: a number is out of range, a pattern matches nothing, there is nothing to
            remove, or the budget cannot be met.

    Warns:
        NoEffect: every unit stays.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from boxwood import find_units
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
            f"Expected floor and multiple of at least 1, got {floor} and {min(multiples)}; a "
            f"layer needs at least one unit."
        )
    if len(units) == 0:
        raise InvalidInput(
            f"Expected a network with removable units, got one with none: {_why_none(units)}; "
            f"Units.reasons() gives the reason for every axis."
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
    """Say of one axis what keeps it whole, rather of one that the model does not return."""
    reasons = [
        (name, dim, why) for (name, dim), why in units.reasons().items() if name in units.shapes
    ]
    reasons.sort(key=lambda each: (each[2] == "the model returns it", each[1]))
    if not reasons:
        return "it has no parameters with more than one index along an axis"
    name, dim, why = reasons[0]
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
