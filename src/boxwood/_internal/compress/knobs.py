"""Knobs: groups of units and matrices of weights that can be reduced, and what each step costs."""

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from boxwood._internal.core.allocation import keep_of
from boxwood._internal.core.blocks import Blocks
from boxwood._internal.core.granularity import Elements, Granularity
from boxwood._internal.core.masks import apply_
from boxwood._internal.core.selection import select
from boxwood._internal.graph.scoring import UnitScores
from boxwood._internal.graph.selection import UnitSelection
from boxwood._internal.graph.surgery import cut
from boxwood._internal.graph.units import Units
from boxwood._internal.model.layer_kinds import as_stored, layouts_of, outputs_first
from boxwood._internal.model.prunable import linear_and_conv
from boxwood.errors import SelectionWarning

SHARES = (1.0, 0.75, 0.5, 0.25, 0.125)
"""Of the units of a group; halfway between two of them the loss is interpolated."""
DENSITIES = (1.0, 0.5, 0.3, 0.2, 0.1, 0.05)
"""Of the weights of a matrix."""

SINGLE, IN_BLOCKS = Elements(), Blocks(1, 4)
"""Single weights, and four inputs of an output, which int8 kernels skip together."""
_HALVINGS = 8
"""Of the interval in which the last share lies."""

Measure = Callable[[nn.Module], float]
"""How far a network is from the dense one."""
Watch = Callable[[int, int], None]


@dataclass(frozen=True)
class Knob:
    """Something of which a share may stay, and how far the outputs move for it.

    Args:
        name: of a group of units, or of a parameter.
        shares: that may stay; 1 first, then falling.
        losses: how far the network is from the dense one with this share of it alone; 0 first,
            never falling.
    """

    name: str
    shares: tuple[float, ...]
    losses: tuple[float, ...]


@dataclass(frozen=True)
class Setting:
    """One share for every knob.

    Args:
        shares: by name; what is not named stays whole.
        cost: of the network, in the unit of what it is compressed for.
        loss: sum of the knobs' losses.
    """

    shares: Mapping[str, float]
    cost: float
    loss: float


def descent(knobs: Sequence[Knob], cost: Callable[[Mapping[str, float]], float]) -> list[Setting]:
    """Repeatedly turn down the knob that saves most for the loss that it adds.

    From a setting each knob may go to any lower share; taken is the one with the greatest

        (cost now - cost then) / (loss then - loss now)

    until nothing saves any more. Since a knob's saving depends on the others (a layer has the
    units of two groups as its rows and columns), costs are computed again at every turn.

    Args:
        knobs: with their losses.
        cost: shares by name to the cost of the network.

    Returns:
        All settings on the way; the whole network first.

    Example:
        >>> knobs = [Knob("a", (1.0, 0.5), (0.0, 1.0)), Knob("b", (1.0, 0.5), (0.0, 3.0))]
        >>> way = descent(knobs, lambda at: 10.0 * at.get("a", 1) + 10 * at.get("b", 1))
        >>> [(dict(each.shares), each.cost) for each in way]
        [({}, 20.0), ({'a': 0.5}, 15.0), ({'a': 0.5, 'b': 0.5}, 10.0)]
    """
    place = dict.fromkeys((knob.name for knob in knobs), 0)
    shares: dict[str, float] = {}
    way = [Setting({}, cost({}), 0.0)]
    while True:
        now, best, taken = way[-1], 0.0, None
        for knob in knobs:
            at = place[knob.name]
            for lower in range(at + 1, len(knob.shares)):
                then = cost(shares | {knob.name: knob.shares[lower]})
                saved, added = now.cost - then, knob.losses[lower] - knob.losses[at]
                worth = saved / max(added, 1e-12)
                if saved > 0 and worth > best:
                    best, taken = worth, (knob, lower, then, added)
        if taken is None:
            return way
        knob, lower, then, added = taken
        place[knob.name] = lower
        shares = shares | {knob.name: knob.shares[lower]}
        way.append(Setting(shares, then, now.loss + added))


def at_cost(
    way: Sequence[Setting], most: float, cost: Callable[[Mapping[str, float]], float]
) -> Setting | None:
    """Return the setting of a descent at a cost, None if it does not get that far.

    The last knob is turned down only as far as is needed, between the two shares that were measured.

    Args:
        way: a descent.
        most: what the setting may cost.
        cost: as for `descent`.

    Example:
        >>> way = [Setting({}, 2.0, 0.0), Setting({"a": 0.5}, 1.0, 1.0)]
        >>> at_cost(way, 1.5, lambda shares: 2 * shares.get("a", 1.0)).shares
        {'a': 0.75}
    """
    place = next((number for number, each in enumerate(way) if each.cost <= most), None)
    if not place:
        return None if place is None else way[0]
    above, below = way[place - 1], way[place]
    (name,) = (n for n, share in below.shares.items() if share != above.shares.get(n, 1.0))
    high, low = above.shares.get(name, 1.0), below.shares[name]
    found = below
    for _ in range(_HALVINGS):
        middle = (high + low) / 2
        shares = {**below.shares, name: middle}
        if (then := cost(shares)) <= most:
            part = (above.shares.get(name, 1.0) - middle) / (
                above.shares.get(name, 1.0) - below.shares[name]
            )
            found = Setting(shares, then, above.loss + part * (below.loss - above.loss))
            low = middle
        else:
            high = middle
    return found


def kept_units_at(
    units: Units, scores: UnitScores, shares: Mapping[str, float]
) -> NDArray[np.bool_]:
    """Keep of each group the share with the highest scores, a multiple of four where it is large.

    Args:
        units: of the network.
        scores: one for each.
        shares: by name of the group; others stay whole.

    Example:
        >>> from boxwood import find_units
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> found = find_units(net, torch.ones(1, 4))
        >>> kept_units_at(found, np.arange(8.0), {"0.weight": 0.25}).nonzero()[0].tolist()
        [6, 7]
    """
    kept = np.ones(len(units), dtype=np.bool_)
    for group in units.groups:
        share = shares.get(group.name, 1.0)
        if share < 1:
            size = len(group.units)
            multiple = 4 if size >= 32 else 1  # kernels work on four channels at a time
            count = min(size, max(1, -(-round(share * size) // multiple) * multiple))
            order = np.lexsort((np.arange(size), -scores[group.units]))
            kept[group.units[order[count:]]] = False
    return kept


def masks_at(
    model: nn.Module, shares: Mapping[str, float], granularity: Granularity = SINGLE
) -> dict[str, Tensor]:
    """Keep of each matrix the share of its weights, or groups of them, with the largest magnitudes.

    Args:
        model: the network.
        shares: by name of the parameter; others stay whole and have no mask.
        granularity: which weights are pruned together.

    Example:
        >>> net = nn.Linear(4, 2)
        >>> int(masks_at(net, {"weight": 0.25})["weight"].sum())
        2
    """
    weights = {name: each for name, each in model.named_parameters() if shares.get(name, 1.0) < 1}
    layouts = layouts_of(model, weights)
    scores = outputs_first(layouts, {name: w.detach().abs() for name, w in weights.items()})
    groups = {name: granularity.pool(each).numel() for name, each in scores.items()}
    keep = {name: max(1, keep_of(count, 1 - shares[name])) for name, count in groups.items()}
    return as_stored(layouts, select(scores, keep, granularity))


def prunable(model: nn.Module) -> dict[str, Tensor]:
    """List the matrices and kernels of a network by name.

    Example:
        >>> list(prunable(nn.Linear(4, 2)))
        ['weight']
    """
    with warnings.catch_warnings():
        # Embeddings that are left out are looked up, not multiplied with.
        warnings.simplefilter("ignore", SelectionWarning)
        return {name: each.detach() for name, each in linear_and_conv(model).items()}


def unit_knobs(
    model: nn.Module, units: Units, scores: UnitScores, apart: Measure, watch: Watch
) -> list[Knob]:
    """Remove shares of one group of units after another, and measure how far the outputs move.

    Args:
        model: the network.
        units: of it.
        scores: which units of a group go first: the lowest.
        apart: how far a network is from the dense one.
        watch: called with how many measurements are done, and of all.
    """
    groups = [group for group in units.groups if len(group.units) > 1]
    found = []
    for number, group in enumerate(groups):
        losses = []
        for step, share in enumerate(SHARES[1:]):
            kept = kept_units_at(units, scores, {group.name: share})
            losses.append(apart(cut(model, UnitSelection(units, kept))[0].eval()))
            watch(number * (len(SHARES) - 1) + step + 1, len(groups) * (len(SHARES) - 1))
        found.append(_between(Knob(group.name, SHARES, _rising(losses))))
    return found


def weight_knobs(
    model: nn.Module, granularity: Granularity, apart: Measure, watch: Watch
) -> list[Knob]:
    """Zero shares of one matrix after another, and measure how far the outputs move.

    Args:
        model: the network; it is put back.
        granularity: which weights are pruned together.
        apart: how far a network is from the dense one.
        watch: called with how many measurements are done, and of all.
    """
    names = list(prunable(model))
    parameters = dict(model.named_parameters())
    found = []
    for number, name in enumerate(names):
        whole, losses = parameters[name].detach().clone(), []
        for step, density in enumerate(DENSITIES[1:]):
            with torch.no_grad():
                apply_(parameters, masks_at(model, {name: density}, granularity))
                losses.append(apart(model))
                parameters[name].copy_(whole)
            watch(number * (len(DENSITIES) - 1) + step + 1, len(names) * (len(DENSITIES) - 1))
        found.append(Knob(name, DENSITIES, _rising(losses)))
    return found


def _rising(losses: Iterable[float]) -> tuple[float, ...]:
    """Put 0 in front, and let none be below the one before: less kept is never taken for better."""
    return tuple(np.maximum.accumulate([0.0, *losses]).tolist())


def _between(knob: Knob) -> Knob:
    """Add the shares halfway between two, with the mean of their losses."""
    shares: list[Any] = [knob.shares[0]]
    losses: list[Any] = [knob.losses[0]]
    for place in range(1, len(knob.shares)):
        shares += [(knob.shares[place - 1] + knob.shares[place]) / 2, knob.shares[place]]
        losses += [(knob.losses[place - 1] + knob.losses[place]) / 2, knob.losses[place]]
    return Knob(knob.name, tuple(shares), tuple(losses))
