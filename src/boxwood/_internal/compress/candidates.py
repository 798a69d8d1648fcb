"""Candidates: which units and weights each keeps, and how each is made."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from boxwood._internal.compress.costs import Costs
from boxwood._internal.compress.journal import Fact
from boxwood._internal.compress.knobs import (
    IN_BLOCKS,
    SINGLE,
    Knob,
    Setting,
    Watch,
    at_cost,
    descent,
    kept_units_at,
    masks_at,
    unit_knobs,
    weight_knobs,
)
from boxwood._internal.compress.teaching import divergence
from boxwood._internal.core.criteria.activations import wanda
from boxwood._internal.core.masks import Masks, apply_
from boxwood._internal.graph.compensate import compensate
from boxwood._internal.graph.scoring import UnitScores
from boxwood._internal.graph.selection import UnitSelection
from boxwood._internal.graph.surgery import cut
from boxwood._internal.graph.units import Units, find_units
from boxwood._internal.recipes.unit_selection import unit_scores

WHOLE = "whole network"
UNITS = (0.8, 0.6, 0.45, 0.35, 0.25, 0.17)
"""Costs of the candidates that lose units alone, as shares of the dense network's."""
WEIGHTS = (0.7, 0.5, 0.35, 0.25, 0.15)
"""Costs of those that lose weights alone, single ones or blocks."""
BEFORE = (0.7, 0.45)
"""Costs after units, of candidates that then lose weights."""
AFTER = (0.5, 0.3, 0.2)
"""Costs of those, as shares of what was left."""


@dataclass(frozen=True)
class Candidate:
    """Which units and weights one network keeps.

    Args:
        name: such as ``"units 55 %"``.
        units: share of each group of units to keep; other groups stay whole.
        weights: share of each matrix's weights to keep; other matrices stay whole.
        in_blocks: whether weights are pruned in blocks of four inputs.
        forecast: predicted cost in float32, in the unit of the target.
    """

    name: str
    units: Mapping[str, float]
    weights: Mapping[str, float]
    in_blocks: bool
    forecast: float


@dataclass(frozen=True, eq=False)
class Made:
    """A candidate as a network.

    Args:
        network: smaller, with zeros outside of the masks.
        selection: the units that it keeps.
        masks: of its weights; empty where none is zero.
    """

    network: nn.Module
    selection: UnitSelection
    masks: Masks = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Maker:
    """Makes networks out of a dense one.

    Args:
        dense: the network.
        units: of it.
        scores: of its units; the lowest go first.
        repair: inputs in batches, for least squares and statistics.
    """

    dense: nn.Module
    units: Units
    scores: UnitScores
    repair: Sequence[Any]

    @staticmethod
    def of(dense: nn.Module, example: Any, repair: Sequence[Any]) -> "Maker":
        """Find the units of a network, and score them by their weights and what enters these."""
        units = find_units(dense, example, freeze_unknown=True)
        scores = unit_scores(units, wanda, batches=repair) if len(units) else np.zeros(0)
        return Maker(dense, units, scores, repair)

    def unrepaired(self, shares: Mapping[str, float]) -> Made:
        """Remove units."""
        selection = UnitSelection(self.units, kept_units_at(self.units, self.scores, shares))
        return Made(cut(self.dense, selection)[0].eval(), selection)

    def cut(self, shares: Mapping[str, float]) -> Made:
        """Remove units, and refit what read them by least squares."""
        made = self.unrepaired(shares)
        if not made.selection.removed:
            return made
        repaired = compensate(self.dense, made.network, made.selection, self.repair)
        return Made(repaired, made.selection)

    def make(self, candidate: Candidate) -> Made:
        """Remove units, repair, and then set the smallest weights to zero."""
        made = self.cut(candidate.units)
        granularity = IN_BLOCKS if candidate.in_blocks else SINGLE
        masks = masks_at(made.network, candidate.weights, granularity)
        if masks:
            with torch.no_grad():
                apply_(dict(made.network.named_parameters()), masks)
        return Made(made.network, made.selection, masks)

    def loaded(self, candidate: Candidate, tensors: Mapping[str, Tensor]) -> Made:
        """Make a candidate again, from what `state_of` returned after it was trained."""
        made = self.unrepaired(candidate.units)
        masks = {
            name.removeprefix("mask/"): each
            for name, each in tensors.items()
            if name.startswith("mask/")
        }
        made.network.load_state_dict(
            {n: each for n, each in tensors.items() if not n.startswith("mask/")}
        )
        return Made(made.network, made.selection, masks)


def state_of(made: Made) -> dict[str, Tensor]:
    """Return the tensors of a network and its masks, no two of which share memory."""
    state = {name: each.detach().clone() for name, each in made.network.state_dict().items()}
    return state | {f"mask/{name}": mask for name, mask in made.masks.items()}


def candidates(maker: Maker, costs: Costs, fact: Fact, watch: Watch) -> list[Candidate]:
    """List the networks that are tried: fewer units, fewer weights, and both one after another.

    Of each kind there are several sizes. How much goes where is not one share for all: it is the
    descent that loses least by what a pass over all groups and matrices has measured.

    Args:
        maker: of the networks.
        costs: what is to fall.
        fact: remembers what was measured.
        watch: called with how many measurements are done, and of all.
    """
    found = fact("candidates", lambda: [asdict(e) for e in _candidates(maker, costs, fact, watch)])
    return [Candidate(**each) for each in found]


def _candidates(maker: Maker, costs: Costs, fact: Fact, watch: Watch) -> Iterator[Candidate]:
    def apart(network: nn.Module) -> float:
        return divergence(network, maker.dense, maker.repair)

    def cost_of(shares: Mapping[str, float]) -> float:
        return costs.of_units(kept_units_at(maker.units, maker.scores, shares))

    def thinned(
        name: str,
        network: nn.Module,
        units: Mapping[str, float],
        sizes: Sequence[float],
        *,
        in_blocks: bool,
    ) -> Iterator[Candidate]:
        granularity = IN_BLOCKS if in_blocks else SINGLE
        knobs = _remembered(fact, name, lambda: weight_knobs(network, granularity, apart, watch))
        cost_of_weights = costs.of_weights(network)
        way = descent(knobs, cost_of_weights)
        for size, setting in _settings(way, sizes, cost_of_weights):
            yield Candidate(f"{name} {size:.0%}", units, setting.shares, in_blocks, setting.cost)

    knobs = _remembered(
        fact, "units", lambda: unit_knobs(maker.dense, maker.units, maker.scores, apart, watch)
    )
    way = descent(knobs, cost_of)
    if "int8" in costs.precisions:
        yield Candidate(WHOLE, {}, {}, False, costs.whole)
    for size, setting in _settings(way, UNITS, cost_of):
        yield Candidate(f"units {size:.0%}", setting.shares, {}, False, setting.cost)
    yield from thinned("weights", maker.dense, {}, WEIGHTS, in_blocks=False)
    kinds = {"weights": False}
    if "int8" in costs.precisions:
        yield from thinned("blocks", maker.dense, {}, WEIGHTS, in_blocks=True)
        kinds["blocks"] = True
    for size, setting in _settings(way, BEFORE, cost_of):
        network = maker.cut(setting.shares).network
        for kind, in_blocks in kinds.items():
            name = f"units {size:.0%}, {kind}"
            yield from thinned(name, network, setting.shares, AFTER, in_blocks=in_blocks)


def _settings(
    way: Sequence[Setting], sizes: Sequence[float], cost: Callable[[Mapping[str, float]], float]
) -> Iterator[tuple[float, Setting]]:
    """Find on a descent the settings of some sizes; those that it does not reach are left out."""
    for size in sizes:
        setting = at_cost(way, size * way[0].cost, cost)
        if setting is not None and setting.shares:
            yield size, setting


def _remembered(fact: Fact, name: str, find: Callable[[], list[Knob]]) -> list[Knob]:
    found = fact(f"losses of {name}", lambda: [asdict(each) for each in find()])
    return [Knob(e["name"], tuple(e["shares"]), tuple(e["losses"])) for e in found]
