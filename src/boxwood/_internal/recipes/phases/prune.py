"""Choose new masks from the current weights."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from boxwood._internal.core import spec
from boxwood._internal.core.allocation import Allocation, global_
from boxwood._internal.core.chance import draws, seeded
from boxwood._internal.core.criteria.weights import magnitude
from boxwood._internal.core.examples import Chosen, Examples, InBatches
from boxwood._internal.core.granularity import Elements, Granularity
from boxwood._internal.core.masks import sparsity
from boxwood._internal.core.schedules import Geometric
from boxwood._internal.core.seeds import generator_for, seed_for
from boxwood._internal.core.selection import candidates
from boxwood._internal.model.dead import set_biases_
from boxwood._internal.model.effective import without_dead
from boxwood._internal.model.evidence.calibration import Loss
from boxwood._internal.model.oneshot import apply_masks_, find_masks, find_masks_in_rounds
from boxwood._internal.model.prunable import Layers, linear_and_conv
from boxwood._internal.model.scoring import Criterion
from boxwood._internal.recipes.phase import State, World, state_of
from boxwood.errors import InvalidInput


@dataclass(frozen=True, kw_only=True)
class Prune:
    """Prune to a total sparsity; weights pruned earlier stay pruned.

    Args:
        sparsity: total fraction of zeros over the tensors of ``layers``; None if the allocation has
            its own numbers.
        criterion, allocation, granularity, where, floor: as for `boxwood.find_masks`. A criterion that scores
            by chance, such as `random`, takes its numbers from the run's seed, unless its own
            ``seed`` is given.
        loss: a function of outputs and targets that returns the mean over a batch, for criteria
            that need gradients.
        evidence: number of training examples that such criteria see; None for all.
        batch: examples at a time.
        rounds: how often to score the remaining weights and prune further, without training in
            between; each round removes the same fraction of them.
        sample: which of the seed's random samples of training examples is the evidence; None takes
            the first examples, which are the same for every seed.
        effective: also prune dead units, as `RemoveDead` does, and count them: ``sparsity`` is met
            after that, so that networks of one sparsity have the same number of effective weights.
            For plain feed-forward networks.
        label: a name for later phases.

    Raises:
        InvalidInput: there is less than one round; or there is no sparsity, although there are
            several rounds or dead units count.

    Example:
        >>> from boxwood.criteria import synflow
        >>> Prune(sparsity=0.99, criterion=synflow, rounds=100).rounds
        100

    Source of ``effective``: Han, Pool, Tran and Dally (2015), section 3.5.
    """

    sparsity: float | None
    criterion: Criterion = magnitude
    allocation: Allocation = global_
    granularity: Granularity = Elements()
    layers: Layers = linear_and_conv
    floor: int = 0
    loss: Loss | None = spec.field(None, legacy=None)  # noqa: RUF009 - a declaration
    evidence: int | None = spec.field(None, legacy=None)
    batch: int = spec.field(256, legacy=256)
    rounds: int = spec.field(1, legacy=1)
    sample: int | None = spec.field(None, legacy=None)
    effective: bool = spec.field(False, legacy=False)
    label: str = spec.field("", identity=False)

    def __post_init__(self) -> None:
        total = self.rounds > 1 or self.effective
        if self.rounds < 1 or (total and self.sparsity is None):
            raise InvalidInput(
                f"Expected rounds >= 1, and a total sparsity if there are several rounds or "
                f"dead units count, got rounds={self.rounds}, effective={self.effective}, "
                f"sparsity={self.sparsity}; give the sparsity after the last round and an allocation "
                f"without numbers of its own, or rounds=1."
            )

    @property
    def revision(self) -> int:
        """1 for criteria that score by chance: their numbers were once the same for every seed."""
        return int(draws(self.criterion))

    def run(self, state: State, world: World) -> State:
        """Prune; the facts hold what each tensor kept."""
        model = world.network(state)
        settings: dict[str, Any] = {
            "criterion": seeded(self.criterion, seed_for(world.seed, "criterion")),
            "allocation": self.allocation,
            "granularity": self.granularity,
            "layers": self.layers,
            "floor": self.floor,
            "masks": state.masks,
            "loss": self.loss,
            "batches": InBatches(self._seen(world), self.batch, self.evidence),
        }

        def choose(sparsity: float | None) -> dict[str, Tensor]:
            if sparsity is None or self.rounds == 1:
                return find_masks(model, sparsity, **settings)
            weights = self.layers(model)
            left = sum(candidates(weights, state.masks).values())
            pruned = 1 - left / sum(weight.numel() for weight in weights.values())
            schedule = Geometric(final=sparsity, end=self.rounds, initial=pruned)
            return find_masks_in_rounds(model, schedule, self.rounds, **settings)

        more: dict[str, Any] = {}
        if self.effective and self.sparsity is not None:
            left = sum(candidates(self.layers(model), state.masks).values())
            shape = world.data.shape
            done = without_dead(model, choose, self.sparsity, shape, available=left)
            masks = {**state.masks, **done.masks}
            set_biases_(model, done)
            more = {"removed": dict(done.removed), "kept_constant": dict(done.kept_constant)}
        else:
            masks = {**state.masks, **choose(self.sparsity)}
        apply_masks_(model, masks)
        kept = {name: int(mask.sum()) for name, mask in masks.items()}
        return state_of(model, masks, {"kept": kept, "sparsity": sparsity(masks), **more})

    def _seen(self, world: World) -> Examples:
        """The training examples, those that serve as evidence first."""
        train = world.data.train
        if self.sample is None:
            return train
        chance = generator_for(world.seed, "evidence", self.sample)
        return Chosen(train, torch.randperm(len(train), generator=chance))
