"""Dynamic sparse training in which every neuron of a layer has the same number of inputs."""

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

import torch
from torch import Tensor

from boxwood._internal.core.masks import Masks
from boxwood._internal.core.replacing_policies import Replacing, sizes
from boxwood._internal.core.selection import Scores, select
from boxwood.errors import InvalidInput


@dataclass(frozen=True)
class SRigL(Replacing):
    """RigL with a constant fan-in: every active neuron of a layer keeps the same number of weights.

    An update replaces K weights of a tensor. A weight is salient if it is active and not among the
    K of least magnitude, or inactive and among the K of largest gradient. A neuron with fewer than
    ``salient · k`` salient weights, with k the fan-in, is removed permanently, and the others share
    its weights: with a active neurons, the new fan-in is the tensor's count of weights over a. Then
    the K least magnitudes are dropped, and each neuron grows its largest gradients up to the new
    fan-in. The layer can then run as dense rows with an index, which is fast.

    A neuron is one index of the tensor's first dimension: an output or a filter. Its bias is kept.
    Counts are rounded to whole fan-ins, at least 1, so the sparsity is met up to one weight per
    neuron.

    Args:
        sparsity: total fraction of zeros, in [0, 1), nearly constant during the training.
        until: no update from this step on.
        every: steps between updates.
        fraction: fraction that the first update replaces, in (0, 1); it falls along half a cosine.
        salient: γ, the least fraction of salient weights of a neuron, in [0, 1]; 0 removes no
            neuron. The paper uses 0.3 for convolutional networks and 0.95 for transformers.
        allocation: how the sparsity is distributed among the tensors, from their shapes.
        seed: seed of the first masks; None is the run's seed in a recipe, and 0 in your own loop.
        criterion: scores weights; the lowest are dropped.

    Raises:
        InvalidInput: a setting is out of range, or it has a granularity.

    Example:
        >>> policy = SRigL(0.5, until=1000)
        >>> masks = policy.init({"w": torch.zeros(3, 8)})
        >>> masks["w"].sum(1)
        tensor([4, 4, 4])
        >>> after = policy.update(100, masks, {"w": torch.rand(3, 8)}, {"w": torch.rand(3, 8)})
        >>> after["w"].sum(1)
        tensor([4, 4, 4])

    Source: Lasby, Golubeva, Evci, Nica and Ioannou (2023), section 3.
    """

    wants_gradients: ClassVar[bool] = True

    _: KW_ONLY
    salient: float = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.salient <= 1:
            raise InvalidInput(f"Expected salient in [0, 1], got {self.salient}; try 0.3.")
        if self.granularity != type(self).granularity:
            raise InvalidInput(
                f"Expected single weights under a constant fan-in, got {self.granularity}; leave "
                f"granularity out."
            )

    def init(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Draw as many inputs for each neuron."""
        counts, chance = self.counts(weights), self.chance(weights, 0)
        masks = {}
        for name, weight in weights.items():
            rows = chance[name].reshape(len(weight), -1)
            fan_in = _fan_in(counts[name], len(rows), rows.shape[1])
            masks[name] = _first(rows.argsort(dim=1, descending=True, stable=True), fan_in, weight)
        return masks

    def update(
        self, step: int, masks: Masks, scores: Scores, gradients: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Ablate neurons, let weights go and grow others, tensor by tensor."""
        counts, growth = self.counts(masks), sizes(gradients)
        return {
            name: self._changed(step, mask, scores[name], growth[name], counts[name])
            for name, mask in masks.items()
        }

    def _changed(
        self, step: int, mask: Tensor, score: Tensor, growth: Tensor, count: int
    ) -> Tensor:
        kept = int(mask.sum())
        moved = min(int(self.annealed(step) * kept), mask.numel() - kept)
        stayed = select({"": score}, {"": kept - moved}, masks={"": mask})[""]
        wanted = select({"": growth}, {"": moved}, masks={"": ~mask})[""]
        rows, active = mask.reshape(len(mask), -1), mask.reshape(len(mask), -1).any(1)
        salient = (stayed | wanted).reshape(rows.shape).sum(1)
        enough = active & (salient >= self.salient * int(rows.sum(1).max()))
        active = enough if bool(enough.any()) else active
        fan_in = _fan_in(count, int(active.sum()), rows.shape[1])
        # In each row first what stayed, by its size, then the rest, by its growth.
        mine = stayed.reshape(rows.shape)
        by = torch.where(mine, score.reshape(rows.shape), growth.reshape(rows.shape))
        order = by.argsort(dim=1, descending=True, stable=True)
        order = order.gather(
            1, mine.gather(1, order).int().argsort(dim=1, descending=True, stable=True)
        )
        new = _first(order, fan_in, mask).reshape(rows.shape) & active.unsqueeze(1)
        return new.reshape(mask.shape)


def _fan_in(count: int, neurons: int, inputs: int) -> int:
    return min(max(round(count / max(neurons, 1)), 1), inputs)


def _first(order: Tensor, count: int, like: Tensor) -> Tensor:
    """Keep the first columns of each row of an order."""
    mask = torch.zeros(order.shape, dtype=torch.bool, device=order.device)
    return mask.scatter_(1, order[:, :count], True).reshape(like.shape)
