"""Remove as many filters as an agent did, but other ones: the agent's control."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import nn

from boxwood._internal.agent.environment import filters_of, group_named, worth_after
from boxwood._internal.core import spec
from boxwood._internal.core.chance import draws, seeded
from boxwood._internal.core.criteria.weights import magnitude
from boxwood._internal.core.evidence import evidence_of
from boxwood._internal.core.examples import InBatches
from boxwood._internal.core.seeds import seed_for
from boxwood._internal.graph.constraints import Kept
from boxwood._internal.graph.scoring import UnitScores, score_units
from boxwood._internal.graph.selection import UnitSelection
from boxwood._internal.graph.surgery import cut
from boxwood._internal.graph.units import Group, Units
from boxwood._internal.model.evidence.calibration import Calibration, Loss
from boxwood._internal.model.evidence.gathering import gather
from boxwood._internal.model.scoring import Criterion, score
from boxwood._internal.recipes.phase import Genesis, Recipe, Run, State, World
from boxwood._internal.recipes.phases.prune_units import kept_under, remove, units_of
from boxwood._internal.recipes.phases.search_filters import FirstExamples, Recovery

_BATCH = 250


@dataclass(frozen=True, kw_only=True)
class RemoveAsMany:
    """Keep as many filters of a layer as another run does: those with the highest scores.

    Args:
        layer: name of the group of units.
        like: recipe of the other run, from the same start; the facts of its last phase hold ``kept``.
        criterion: scores single weights; a filter's score is the sum over its own weights:
            with `magnitude` its L1 norm. `random` chooses at random, from the seed of the run;
            ``Call.of(random, draw=1)`` is another draw.
        loss: a function of outputs and targets that returns the mean over a batch, for criteria
            that need gradients.
        evidence: number of training examples, from the first on, that such criteria see.
        label: a name for later phases.

    Source of the L1 norm: Li, Kadav, Durdanovic, Samet and Graf (2017).
    """

    layer: str
    like: Recipe
    criterion: Criterion = magnitude
    loss: Loss | None = None
    evidence: int = 1000
    label: str = spec.field("", identity=False)

    @property
    def revision(self) -> int:
        """1 for criteria that score by chance: their numbers were once the same for every seed."""
        return int(draws(self.criterion))

    def needs(self, genesis: Genesis) -> tuple[Run, ...]:
        """The other run."""
        return ((genesis, self.like),)

    def run(self, state: State, world: World) -> State:
        """Remove; the facts are those of `PruneUnits`."""
        count = world.finished(*self.needs(world.genesis)[0]).facts["kept"][self.layer]
        model = world.network(state)
        found = units_of(model, world.data)
        group = group_named(found, self.layer)
        kept = kept_under(found, state.masks)
        scores = self._scores(model, found, group, world)
        left = group.units[kept[group.units]]
        order = np.argsort(-scores[kept[group.units]], kind="stable")
        kept[left[order[count:]]] = False
        return remove(model, UnitSelection(found, kept), state)

    def _scores(self, model: nn.Module, found: Units, group: Group, world: World) -> UnitScores:
        names = {name for name, dim in group.axes if dim == 0}
        weights = {n: p for n, p in model.named_parameters() if n in names and p.dim() > 1}
        batches = InBatches(world.data.train, _BATCH, self.evidence)
        seen = Calibration(model, weights, batches, self.loss)
        criterion = seeded(self.criterion, seed_for(world.seed, "criterion"))
        evidence = gather(evidence_of(criterion), seen)
        rows = filters_of(found, group, score(weights, criterion, evidence=evidence))
        return torch.cat(rows, 1).double().sum(1).cpu().numpy()


@dataclass(frozen=True, kw_only=True)
class RemoveBySensitivity:
    """Remove filters where they cost least, until another run's multiply-adds are reached.

    In each round, every layer is tried without a share of its filters, those of least magnitude.
    They are removed from the layer that loses the least accuracy for each multiply-add saved.

    Args:
        like: recipe of the other run, from the same start; its last phase counts
            ``multiply_adds`` as `PruneUnits` does.
        layers: names of the groups that may lose filters.
        share: share of a layer's original number of filters to remove at once, in (0, 1).
        statistics, examples: as for `SearchFilters`.
        label: a name for later phases.

    Source of the idea: Li, Kadav, Durdanovic, Samet and Graf (2017), section 3.2, who look at the
    sensitivity of each layer and choose by hand.
    """

    revision: ClassVar[int] = 1  # 0: the whole network was measured without recovery

    like: Recipe
    layers: tuple[str, ...]
    share: float = 0.125
    statistics: int = 0
    examples: int | None = None
    label: str = spec.field("", identity=False)

    def needs(self, genesis: Genesis) -> tuple[Run, ...]:
        """The other run."""
        return ((genesis, self.like),)

    def run(self, state: State, world: World) -> State:
        """Remove; the facts are those of `PruneUnits`, and the steps taken."""
        budget = world.finished(*self.needs(world.genesis)[0]).facts["multiply_adds"][1]
        model = world.network(state)
        found = units_of(model, world.data)
        kept = kept_under(found, state.masks)
        groups = [group_named(found, layer) for layer in self.layers]
        scores = score_units(found)
        worth = FirstExamples(world.data.validation, self.examples)
        recover = Recovery(world.data.train, None, self.statistics, world.seed)
        dense, whole = worth_after(recover, worth, model), found.multiply_adds(kept)
        steps: list[str] = []

        def price(tried: Kept) -> float:
            small, _ = cut(model, UnitSelection(found, tried))
            recover(small)
            return (dense - worth(small)) / (found.multiply_adds(kept) - found.multiply_adds(tried))

        while found.multiply_adds(kept) > budget:
            left = {
                group.name: tried
                for group in groups
                if (tried := _without_least(kept, group, scores, self.share)) is not None
            }
            if not left:
                break
            prices = {name: price(tried) for name, tried in left.items()}
            steps.append(min(prices, key=lambda name: prices[name]))
            kept = left[steps[-1]]
            if world.progress is not None:
                now = found.multiply_adds(kept)
                world.progress(whole - now, whole - budget)
        after = remove(model, UnitSelection(found, kept), state)
        return State(after.weights, after.masks, {**after.facts, "steps": steps})


def _without_least(kept: Kept, group: Group, scores: UnitScores, share: float) -> Kept | None:
    """Take a share of a group away, of what is left the least; None where too little is left."""
    left = group.units[kept[group.units]]
    gone = max(1, round(share * len(group.units)))
    if gone >= len(left):
        return None
    after = kept.copy()
    after[left[np.argsort(scores[left], kind="stable")[:gone]]] = False
    return after
