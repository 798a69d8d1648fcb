"""Policies that keep the number of weights and replace some: dynamic sparse training."""

import math
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

from torch import Tensor

from boxwood._internal.core import spec
from boxwood._internal.core.allocation import Allocation, uniform
from boxwood._internal.core.criteria.weights import magnitude, random
from boxwood._internal.core.granularity import Elements, Granularity
from boxwood._internal.core.mask_changes import random_counts, random_masks, replaced
from boxwood._internal.core.masks import Masks
from boxwood._internal.core.schedules import check_every
from boxwood._internal.core.seeds import seed_for
from boxwood._internal.core.selection import Scores
from boxwood.errors import InvalidInput


@dataclass(frozen=True)
class Replacing:
    """What policies that replace weights have in common: when they do, and where they start."""

    sparsity: float
    _: KW_ONLY
    until: int
    every: int = 100
    fraction: float = 0.3
    allocation: Allocation = uniform
    seed: int | None = None
    criterion: Callable[..., Tensor] = magnitude
    granularity: Granularity = spec.field(Elements(), legacy=Elements())  # noqa: RUF009 - a declaration

    def __post_init__(self) -> None:
        check_every(self.every)
        if not 0 < self.fraction < 1:
            raise InvalidInput(
                f"Expected a fraction in (0, 1) of weights to replace, got {self.fraction}; try "
                f"0.3."
            )

    def init(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Draw the masks."""
        return random_masks(
            weights, self.sparsity, self.allocation, self.seed or 0, self.granularity
        )

    def counts(self, weights: Mapping[str, Tensor]) -> dict[str, int]:
        """Count what each tensor keeps by the sparsity and the allocation."""
        return random_counts(
            weights, self.sparsity, self.allocation, self.seed or 0, self.granularity
        )

    def due(self, step: int) -> bool:
        """Every ``every`` steps before ``until``."""
        return 0 < step < self.until and step % self.every == 0

    def annealed(self, step: int) -> float:
        """Return the fraction to replace at a step: half a cosine down to 0 at ``until``."""
        return self.fraction / 2 * (1 + math.cos(math.pi * step / self.until))

    def chance(self, scores: Scores, step: int) -> dict[str, Tensor]:
        """Draw numbers by which weights grow at random, others at every step."""
        seed = seed_for(self.seed or 0, type(self).__name__, step)
        return {name: random(score, name, seed=seed) for name, score in scores.items()}


@dataclass(frozen=True)
class SET(Replacing):
    """Sparse evolutionary training: drop the weights of least magnitude, grow as many at random.

    Args:
        sparsity: total fraction of zeros, in [0, 1), constant during the training.
        until: no update from this step on.
        every: steps between updates.
        fraction: fraction of each tensor's weights that an update replaces, in (0, 1).
        allocation: how the sparsity is distributed among the tensors at the start.
        seed: seed of the first masks and of grown weights; None is the run's seed in a recipe, and
            0 in your own loop.
        criterion: scores weights; the lowest are dropped.
        granularity: which weights are dropped and grown together; single weights by default.

    Example:
        >>> import torch
        >>> policy = SET(sparsity=0.5, until=1000)
        >>> masks = policy.init({"w": torch.zeros(4, 5)})
        >>> after = policy.update(100, masks, {"w": torch.rand(4, 5)}, {})
        >>> int(after["w"].sum()), torch.equal(after["w"], masks["w"])
        (10, False)

    Source: Mocanu et al. (2018), algorithm 1.
    Differs from the paper: new weights start at zero rather than at random, and updates come every
    some steps rather than every epoch.
    """

    wants_gradients: ClassVar[bool] = False

    def update(
        self,
        step: int,
        masks: Masks,
        scores: Scores,
        gradients: Mapping[str, Tensor],  # noqa: ARG002 - every policy has the same signature
    ) -> dict[str, Tensor]:
        """Replace weights, tensor by tensor."""
        return replaced(masks, scores, self.chance(scores, step), self.fraction, self.granularity)


@dataclass(frozen=True)
class RigL(Replacing):
    """Drop the weights of least magnitude, grow those whose gradient is largest.

    The replaced fraction falls along a cosine: ``fraction / 2 · (1 + cos(π t / until))``. A grown
    weight starts at zero with empty optimizer state. A weight that is dropped and grown in the same
    update keeps its value.

    Args:
        sparsity: total fraction of zeros, in [0, 1), constant during the training.
        until: no update from this step on; three quarters of the training in the paper.
        every: steps between updates.
        fraction: fraction that the first update replaces, in (0, 1).
        allocation: how the sparsity is distributed; ``erdos_renyi_kernel`` is best in the paper.
        seed: seed of the first masks; None is the run's seed in a recipe, and 0 in your own loop.
        criterion: scores weights; the lowest are dropped.
        granularity: which weights are dropped and grown together; single weights by default.

    Example:
        >>> import torch
        >>> policy = RigL(sparsity=0.5, until=1000)
        >>> masks = {"w": torch.tensor([True, True, True, True, False, False, False, False])}
        >>> scores = {"w": torch.tensor([4.0, 3.0, 2.0, 1.0, 0.0, 0.0, 0.0, 0.0])}
        >>> gradients = {"w": torch.tensor([0.0, 0.0, 0.0, 0.0, 1.0, -9.0, 2.0, 3.0])}
        >>> policy.update(100, masks, scores, gradients)["w"].int()
        tensor([1, 1, 1, 0, 0, 1, 0, 0], dtype=torch.int32)

    Source: Evci et al. (2020), algorithm 1.
    Differs from the paper: the step of an update is taken as well, before it.
    """

    wants_gradients: ClassVar[bool] = True

    def update(
        self, step: int, masks: Masks, scores: Scores, gradients: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Replace weights, tensor by tensor."""
        return replaced(masks, scores, sizes(gradients), self.annealed(step), self.granularity)


def sizes(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the absolute values, by which weights grow.

    Example:
        >>> import torch
        >>> sizes({"w": torch.tensor([-2.0, 1.0])})
        {'w': tensor([2., 1.])}
    """
    return {name: tensor.detach().abs() for name, tensor in tensors.items()}
