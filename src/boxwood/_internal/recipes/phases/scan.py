"""Sensitivity: how much accuracy is lost when one layer alone is pruned."""

from dataclasses import dataclass

from boxwood._internal.core import spec
from boxwood._internal.core.allocation import uniform
from boxwood._internal.core.chance import draws, seeded
from boxwood._internal.core.criteria.weights import magnitude
from boxwood._internal.core.granularity import Elements, Granularity
from boxwood._internal.core.seeds import seed_for
from boxwood._internal.model.oneshot import apply_masks_, find_masks
from boxwood._internal.model.prunable import Layers, Named, linear_and_conv
from boxwood._internal.model.scoring import Criterion
from boxwood._internal.recipes.phase import State, World
from boxwood._internal.train.metrics import accuracy


@dataclass(frozen=True, kw_only=True)
class Scan:
    """Prune one tensor at a time over a grid, without retraining, and measure validation accuracy.

    Args:
        sparsities: the grid, each in [0, 1).
        criterion: scores the weights; a random one uses the run's seed, as in `Prune`.
        layers: which tensors to scan.
        granularity: as for `boxwood.find_masks`.
        label: a name for later phases.

    Source: Han, Pool, Tran and Dally (2015), section 5, figure 6.
    """

    sparsities: tuple[float, ...] = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98)
    criterion: Criterion = magnitude
    layers: Layers = linear_and_conv
    granularity: Granularity = spec.field(Elements(), legacy=Elements())  # noqa: RUF009 - a declaration
    label: str = spec.field("", identity=False)

    @property
    def revision(self) -> int:
        """1 for criteria that score by chance: their numbers were once the same for every seed."""
        return int(draws(self.criterion))

    def run(self, state: State, world: World) -> State:
        """Scan; the facts hold a curve per tensor; the network passes through unchanged."""
        model = world.network(state)
        names = list(self.layers(model))
        criterion = seeded(self.criterion, seed_for(world.seed, "criterion"))
        dense = accuracy(model, world.data.validation).fraction
        curves: dict[str, list[list[float]]] = {}
        for position, name in enumerate(names):
            curves[name] = []
            for sparsity in self.sparsities:
                pruned = world.network(state)
                one = find_masks(
                    pruned,
                    sparsity,
                    criterion=criterion,
                    allocation=uniform,
                    granularity=self.granularity,
                    layers=Named((name,)),
                    masks=state.masks,
                )
                apply_masks_(pruned, one)
                found = accuracy(pruned, world.data.validation).fraction
                curves[name].append([sparsity, found])
            if world.progress is not None:
                world.progress(position + 1, len(names))
        return State(state.weights, state.masks, {"dense": dense, "curves": curves})
