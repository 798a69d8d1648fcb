"""Decide new masks from the weights as they are."""

from dataclasses import dataclass
from typing import ClassVar

from boxwood.core import spec
from boxwood.core.allocation import Scope, global_
from boxwood.core.criteria import magnitude
from boxwood.core.examples import InBatches
from boxwood.core.granularity import Elements, Granularity
from boxwood.core.masks import sparsity
from boxwood.model.evidence.calibration import Loss
from boxwood.model.oneshot import project_, prune
from boxwood.model.prunable import Where, linear_and_conv
from boxwood.model.scoring import Criterion
from boxwood.recipes.phase import State, World, state_of


@dataclass(frozen=True, kw_only=True)
class Prune:
    """Prune to a total sparsity; what was pruned before stays pruned.

    Args:
        sparsity: total fraction of zeros over the tensors of ``where``; None where the scope
            carries its own numbers.
        criterion, scope, granularity, where, floor: as for `boxwood.prune`.
        loss: outputs and targets to the mean over a batch, for criteria that ask for gradients.
        evidence: how many of the first training examples such criteria see; None for all.
        batch: examples at a time.
        label: a name for later phases.
    """

    revision: ClassVar[int] = 0

    sparsity: float | None
    criterion: Criterion = magnitude
    scope: Scope = global_
    granularity: Granularity = Elements()
    where: Where = linear_and_conv
    floor: int = 0
    loss: Loss | None = spec.field(None, legacy=None)  # noqa: RUF009 - a declaration
    evidence: int | None = spec.field(None, legacy=None)
    batch: int = spec.field(256, legacy=256)
    label: str = spec.field("", identity=False)

    def run(self, state: State, world: World) -> State:
        """Prune; the facts hold what each tensor kept."""
        model = world.network(state)
        masks = prune(
            model,
            self.sparsity,
            criterion=self.criterion,
            scope=self.scope,
            granularity=self.granularity,
            where=self.where,
            floor=self.floor,
            within=state.masks,
            loss=self.loss,
            batches=InBatches(world.data.train, self.batch, self.evidence),
        )
        masks = {**state.masks, **masks}
        project_(model, masks)
        kept = {name: int(mask.sum()) for name, mask in masks.items()}
        return state_of(model, masks, {"kept": kept, "sparsity": sparsity(masks)})
