"""What a criterion says a deletion costs, beside what it costs."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from boxwood._internal.core import spec
from boxwood._internal.core.evidence import evidence_of
from boxwood._internal.core.examples import Examples, InBatches
from boxwood._internal.core.masks import apply, kept
from boxwood._internal.model.evaluation import evaluating
from boxwood._internal.model.evidence.calibration import Calibration
from boxwood._internal.model.evidence.gathering import gather
from boxwood._internal.model.layer_kinds import layouts_of
from boxwood._internal.model.oneshot import project_, prune
from boxwood._internal.model.prunable import Where, linear_and_conv
from boxwood._internal.model.scoring import Criterion, score
from boxwood._internal.recipes.phase import State, World
from boxwood._internal.train.losses import Loss
from boxwood._internal.train.metrics import device_of


@dataclass(frozen=True, kw_only=True)
class Predict:
    """Delete the lowest scores over a grid of sparsities, without retraining.

    For criteria of second order the sum of the scores that go is the predicted rise of the loss.

    Args:
        criterion: scores the weights.
        loss: outputs and targets to the mean over a batch.
        sparsities: the grid, each in [0, 1).
        where: which parameters may be deleted, ranked together.
        batch: examples at a time.
        label: a name for later phases.

    Source: LeCun, Denker and Solla (1990), section 3, figures 1 and 2.
    """

    revision: ClassVar[int] = 0

    criterion: Criterion
    loss: Loss
    sparsities: tuple[float, ...] = tuple(round(0.05 * k, 2) for k in range(1, 20))
    where: Where = linear_and_conv
    batch: int = 2048
    label: str = spec.field("", identity=False)

    def run(self, state: State, world: World) -> State:
        """Delete; the network passes through unchanged.

        The facts hold the ``loss`` before, and a row (sparsity, deleted weights, sum of their
        scores, loss after) for each sparsity.
        """
        model = world.network(state)
        parameters = self.where(model)
        batches = InBatches(world.data.train, self.batch)
        seen = Calibration(model, parameters, batches, self.loss)
        found = gather(evidence_of(self.criterion), seen)
        weights = {name: p.detach() for name, p in parameters.items()}
        layouts = layouts_of(model, parameters)
        scores = score(weights, self.criterion, evidence=found, layouts=layouts)
        before = _mean_loss(model, world.data.train, self.loss, self.batch)
        total = sum(each.numel() for each in scores.values())
        rows = []
        for sparsity in self.sparsities:
            masks = prune(
                model, sparsity, criterion=self.criterion, where=self.where, evidence=found
            )
            left = sum(float(each.double().sum()) for each in apply(scores, masks).values())
            predicted = sum(float(each.double().sum()) for each in scores.values()) - left
            pruned = world.network(state)
            project_(pruned, masks)
            after = _mean_loss(pruned, world.data.train, self.loss, self.batch)
            rows.append([sparsity, total - kept(masks), predicted, after])
        return State(state.weights, state.masks, {"loss": before, "deletions": rows})


@torch.no_grad()
def _mean_loss(model: nn.Module, examples: Examples, loss: Loss, batch: int) -> float:
    device = device_of(model)
    total = 0.0
    with evaluating(model):
        for inputs, targets in InBatches(examples, batch):
            total += float(loss(model(inputs.to(device)), targets.to(device))) * len(inputs)
    return total / len(examples)
