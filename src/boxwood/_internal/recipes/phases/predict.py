"""Compare the cost of a deletion that a criterion predicts with the actual cost."""

from dataclasses import dataclass

import torch
from torch import nn

from boxwood._internal.core import spec
from boxwood._internal.core.chance import draws, seeded
from boxwood._internal.core.evidence import evidence_of
from boxwood._internal.core.examples import Examples, InBatches
from boxwood._internal.core.masks import apply, kept
from boxwood._internal.core.seeds import seed_for
from boxwood._internal.model.evaluation import evaluating
from boxwood._internal.model.evidence.calibration import Calibration
from boxwood._internal.model.evidence.gathering import gather
from boxwood._internal.model.layer_kinds import layouts_of
from boxwood._internal.model.oneshot import apply_masks_, find_masks
from boxwood._internal.model.prunable import Layers, linear_and_conv
from boxwood._internal.model.scoring import Criterion, score
from boxwood._internal.recipes.phase import State, World
from boxwood._internal.train.losses import Loss
from boxwood._internal.train.metrics import device_of


@dataclass(frozen=True, kw_only=True)
class Predict:
    """Delete the lowest scores over a grid of sparsities, without retraining.

    For second-order criteria, the sum of the deleted scores is the predicted rise of the loss.

    Args:
        criterion: scores the weights; a random one uses the run's seed, as in `Prune`.
        loss: outputs and targets to the mean over a batch.
        sparsities: the grid, each in [0, 1).
        layers: which parameters may be deleted, ranked together.
        batch: examples at a time.
        decay: strength λ of the penalty ``λ · Σ w²`` on all parameters that training minimised with
            the loss, as in `Descend`; it is part of the losses that are measured. A criterion of
            second order is given it too: ``Call.of(optimal_brain_damage, decay=λ)``.
        label: a name for later phases.

    Source: LeCun, Denker and Solla (1990), section 3, figures 1 and 2.
    """

    criterion: Criterion
    loss: Loss
    sparsities: tuple[float, ...] = tuple(round(0.05 * k, 2) for k in range(1, 20))
    layers: Layers = linear_and_conv
    batch: int = 2048
    decay: float = spec.field(0.0, legacy=0.0)
    label: str = spec.field("", identity=False)

    @property
    def revision(self) -> int:
        """1 for criteria that score by chance: their numbers were once the same for every seed."""
        return int(draws(self.criterion))

    def run(self, state: State, world: World) -> State:
        """Delete; the network passes through unchanged.

        The facts hold the ``loss`` before, and a row (sparsity, deleted weights, sum of their
        scores, loss after) for each sparsity.
        """
        model = world.network(state)
        parameters = self.layers(model)
        batches = InBatches(world.data.train, self.batch)
        seen = Calibration(model, parameters, batches, self.loss)
        criterion = seeded(self.criterion, seed_for(world.seed, "criterion"))
        found = gather(evidence_of(criterion), seen)
        weights = {name: p.detach() for name, p in parameters.items()}
        layouts = layouts_of(model, parameters)
        scores = score(weights, criterion, evidence=found, layouts=layouts)
        before = self._objective(model, world.data.train)
        total = sum(each.numel() for each in scores.values())
        rows = []
        for sparsity in self.sparsities:
            masks = find_masks(
                model, sparsity, criterion=criterion, layers=self.layers, evidence=found
            )
            left = sum(float(each.double().sum()) for each in apply(scores, masks).values())
            predicted = sum(float(each.double().sum()) for each in scores.values()) - left
            pruned = world.network(state)
            apply_masks_(pruned, masks)
            after = self._objective(pruned, world.data.train)
            rows.append([sparsity, total - kept(masks), predicted, after])
        return State(state.weights, state.masks, {"loss": before, "deletions": rows})

    @torch.no_grad()
    def _objective(self, model: nn.Module, examples: Examples) -> float:
        device, total = device_of(model), 0.0
        with evaluating(model):
            for inputs, targets in InBatches(examples, self.batch):
                loss = self.loss(model(inputs.to(device)), targets.to(device))
                total += float(loss) * len(inputs)
        squares = sum(float(p.double().square().sum()) for p in model.parameters())
        return total / len(examples) + self.decay * squares
