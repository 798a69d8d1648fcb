"""Policies that replace weights by more than the gradient of a step: GraNet, SNFS and MEST."""

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

import torch
from torch import Tensor

from boxwood._internal.core.allocation import Allocation, global_
from boxwood._internal.core.allocation_by_layer import exactly
from boxwood._internal.core.granularity import Granularity
from boxwood._internal.core.mask_changes import (
    all_kept,
    groups_kept,
    grown,
    pruned,
    random_masks,
    replaced,
)
from boxwood._internal.core.masks import Masks
from boxwood._internal.core.replacing_policies import Replacing, sizes
from boxwood._internal.core.schedules import Cubic, check_sparsity
from boxwood._internal.core.selection import Scores, select
from boxwood._internal.core.shard_groups import over_shards
from boxwood._internal.core.straight_through import Moment
from boxwood.errors import InvalidInput


@dataclass(frozen=True)
class GraNet(Replacing):
    """Prune gradually, and at every update drop some weights and grow others by their gradient.

    An update at step t prunes to ``s_t``, the cubic schedule of Zhu and Gupta from ``start`` to
    ``sparsity``. Then it replaces a fraction of each tensor's weights as `RigL` does: it drops the
    least magnitudes and grows the largest gradients. So pruned weights may return, from zero and
    with empty optimizer state, and the number of weights does not grow.

    Args:
        sparsity: total fraction of zeros from ``until`` on, in [0, 1).
        until: step at which the schedule ends.
        begin: step at which it begins.
        start: sparsity before ``begin``, of random masks: 0 is dense-to-sparse, and 0.5 is the
            paper's sparse-to-sparse training.
        every: steps between updates; 1000 in the paper.
        fraction: fraction that the first update replaces, in (0, 1); it falls along half a cosine;
            0.5 in the paper.
        start_allocation: how ``start`` is distributed among the tensors; ``erdos_renyi_kernel`` in
            the paper.
        allocation: how the sparsity of an update is distributed; ``global_`` in the paper.
        seed: seed of the random masks; None is the run's seed in a recipe, and 0 in your own loop.
        criterion: scores weights; the lowest are dropped.
        granularity: which weights are dropped and grown together; single weights by default.

    Raises:
        InvalidInput: a setting is out of range.

    Example:
        >>> policy = GraNet(0.5, until=200, every=100, fraction=0.5, allocation=global_)
        >>> masks = {"w": torch.ones(8, dtype=torch.bool)}
        >>> scores, g = {"w": torch.arange(8.0)}, {"w": torch.tensor([9.0, 0, 0, 0, 0, 0, 0, 0])}
        >>> policy.update(100, masks, scores, g)["w"].int()  # four go, then w_4, and w_0 comes
        tensor([1, 0, 0, 0, 0, 1, 1, 1], dtype=torch.int32)

    Source: Liu et al. (2021), "Sparse training via boosting pruning plasticity with
    neuroregeneration", algorithm 1.
    """

    wants_gradients: ClassVar[bool] = True

    _: KW_ONLY
    begin: int = 0
    start: float = 0.0
    fraction: float = 0.5
    start_allocation: Allocation = global_
    allocation: Allocation = global_

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sparsity(self.start, "start")
        if not self.start <= self.sparsity or not 0 <= self.begin < self.until:
            raise InvalidInput(
                f"Expected start <= sparsity and 0 <= begin < until, got {self.start}, "
                f"{self.sparsity}, {self.begin} and {self.until}; the sparsity rises."
            )

    @property
    def final(self) -> float:
        """The sparsity at the end."""
        return self.sparsity

    def init(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Keep everything, or draw the masks."""
        if not self.start:
            return all_kept(weights)
        return random_masks(
            weights, self.start, self.start_allocation, self.seed or 0, self.granularity
        )

    def due(self, step: int) -> bool:
        """Every ``every`` steps from ``begin`` on, until the rise has ended."""
        return self.begin < step < self.until + self.every and step % self.every == 0

    def update(
        self, step: int, masks: Masks, scores: Scores, gradients: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Prune, then replace."""
        rise = Cubic(final=self.sparsity, initial=self.start, begin=self.begin, end=self.until)
        fewer = pruned(scores, rise(step), self.allocation, self.granularity, masks)
        fraction = self.annealed(min(step, self.until))
        return replaced(fewer, scores, sizes(gradients), fraction, self.granularity)


@dataclass(frozen=True)
class SNFS(Replacing):
    """Sparse networks from scratch: drop weights and grow others by momentum, also in other tensors.

    The policy keeps a smoothed dense gradient, ``m ← momentum · m + (1 - momentum) · g``. An update
    drops the same fraction of every tensor's weights, those of least magnitude. It grows the same
    number in total: each tensor gets a share in proportion to the mean of ``|m|`` over its kept
    weights, and grows the weights with the largest ``|m|``. What a full tensor cannot take is given
    to the others.

    The policy stores m, whichever optimizer trains. It takes as much memory as the weights, and
    does not include weight decay.

    Args:
        sparsity: total fraction of zeros, in [0, 1), constant during the training.
        until: no update from this step on.
        every: steps between updates; an epoch in the paper.
        fraction: fraction that the first update drops, in (0, 1); it falls along half a cosine.
        momentum: of the gradients, in [0, 1).
        allocation: how the sparsity is distributed at the start.
        seed: seed of the first masks; None is the run's seed in a recipe, and 0 in your own loop.
        criterion: scores weights; the lowest are dropped.
        granularity: which weights are dropped and grown together; single weights by default.

    Raises:
        InvalidInput: a setting is out of range.

    Example:
        >>> policy = SNFS(0.5, until=10**9, every=100, fraction=0.6)
        >>> masks = {"a": torch.tensor([True, True, False, False]), "b": torch.tensor([True, True, False, False])}
        >>> scores = {"a": torch.tensor([2.0, 1.0, 0.0, 0.0]), "b": torch.tensor([2.0, 1.0, 0.0, 0.0])}
        >>> m = {"a": torch.tensor([0.0, 0.0, 0.0, 0.0]), "b": torch.tensor([1.0, 1.0, 3.0, 2.0])}
        >>> [mask.int().tolist() for mask in policy.update(100, masks, scores, m).values()]
        [[1, 0, 0, 0], [1, 0, 1, 1]]

    Source: Dettmers and Zettlemoyer (2019), algorithm 1 and section 3.
    Differs from the paper: m is of the gradients for Adam too, where the authors divide by the root
    of its second moment; and a tensor with few zeros lets as large a fraction go as any other.
    """

    wants_gradients: ClassVar[bool] = True

    _: KW_ONLY
    fraction: float = 0.5
    momentum: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.momentum < 1:
            raise InvalidInput(f"Expected momentum in [0, 1), got {self.momentum}; try 0.9.")

    def remember(self, moment: Moment) -> Tensor:
        """Smooth the dense gradient."""
        new = (1 - self.momentum) * moment.gradient
        return new if moment.memory is None else self.momentum * moment.memory + new

    def update(
        self, step: int, masks: Masks, scores: Scores, gradients: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Let weights go everywhere, and grow them where the momentum is."""
        growth, granularity = sizes(gradients), self.granularity
        kept = groups_kept(masks, granularity)
        stay = {name: count - int(self.annealed(step) * count) for name, count in kept.items()}
        stayed = select(scores, stay, granularity, masks=masks)
        room = {name: _groups(mask, granularity) - stay[name] for name, mask in masks.items()}
        shares = {
            name: float(growth[name][mask].mean()) if kept[name] else 0.0
            for name, mask in masks.items()
        }
        counts = exactly(shares, sum(kept.values()) - sum(stay.values()), room)
        return grown(stayed, growth, counts, granularity)


@dataclass(frozen=True)
class MEST(Replacing):
    """Memory-economic sparse training: drop by weight and gradient, grow at random.

    An update drops the weights with the least ``|w| + scale · |g|``, with g their gradient at that
    step, and grows the same number at random (elastic mutation). With a ``soft`` memory bound,
    weights grow at one update and others are dropped at the next, so that new weights are trained
    before they are compared. Between updates each tensor then keeps that many more weights, and
    none more after ``until``. The gradient is used only where weights are kept.

    Args:
        sparsity: total fraction of zeros, in [0, 1); with ``soft``, from step ``until`` on.
        until: no weight grows from this step on.
        every: steps between updates.
        fraction: fraction of each tensor's weights that the first update replaces, in (0, 1); it
            falls along half a cosine.
        soft: whether weights grow one interval before others are dropped.
        scale: λ, at least 0.
        allocation: how the sparsity is distributed among the tensors, from their shapes.
        seed: seed of all random choices; None is the run's seed in a recipe, and 0 in your own
            loop.
        criterion: scores to which the gradient term is added.
        granularity: which weights are dropped and grown together; single weights by default.

    Raises:
        InvalidInput: a setting is out of range.

    Example:
        >>> policy = MEST(0.5, until=10**9, fraction=0.6, scale=1.0)
        >>> masks = {"w": torch.tensor([True, True, False, False])}
        >>> scores = {"w": torch.tensor([2.0, 1.0, 0.0, 0.0])}
        >>> after = policy.update(100, masks, scores, {"w": torch.tensor([0.0, 3.0, 9.0, 9.0])})["w"]
        >>> after[1], after.sum()  # w_1 has more in weight and gradient
        (tensor(True), tensor(2))

    Source: Yuan et al. (2021), section 3, MEST with EM and EM&S.
    Differs from the paper: the fraction falls along a cosine, as in `RigL`; in the paper it falls in
    steps. The removal of training examples is not part of it.
    """

    wants_gradients: ClassVar[bool] = True

    _: KW_ONLY
    soft: bool = False
    scale: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.scale >= 0:
            raise InvalidInput(f"Expected scale >= 0, got {self.scale}; try 0.01.")

    @property
    def final(self) -> float:
        """The sparsity at the end."""
        return self.sparsity

    def init(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Draw the masks."""
        masks = super().init(weights)
        return self._more(masks, self.chance(weights, 0), 0) if self.soft else masks

    def due(self, step: int) -> bool:
        """Every ``every`` steps before ``until``; with ``soft`` also where it has been reached."""
        end = self.until + self.every if self.soft else self.until
        return 0 < step < end and step % self.every == 0

    def update(
        self, step: int, masks: Masks, scores: Scores, gradients: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Let weights go, and draw others."""
        judged = {n: score + self.scale * gradients[n].abs() for n, score in scores.items()}
        keep = self.counts(masks)
        if not self.soft:
            keep = {name: count - self._turn(step, count) for name, count in keep.items()}
        stayed = select(judged, keep, self.granularity, masks=masks)
        return self._more(stayed, self.chance(scores, step), step)

    def _more(self, masks: Masks, chance: Scores, step: int) -> dict[str, Tensor]:
        kept, whole = groups_kept(masks, self.granularity), self.counts(masks)
        counts = {
            name: min(self._turn(step, whole[name]), _groups(mask, self.granularity) - kept[name])
            for name, mask in masks.items()
        }
        return grown(masks, chance, counts, self.granularity)

    def _turn(self, step: int, count: int) -> int:
        """How many of a tensor's weights are replaced at a step."""
        return int(self.annealed(min(step, self.until)) * count)


def _groups(mask: Tensor, granularity: Granularity) -> int:
    return over_shards(granularity).alive(torch.ones_like(mask)).numel()
