"""Policies under which pruned weights continue to learn: the forward pass uses only some of the weights.

Between two steps of the optimizer a network holds what its forward pass reads, with zeros where the
masks prune. For a step, the whole weights come back: the optimizer moves all of them, by gradients
taken at what was read. So a weight that is pruned keeps its value, learns, and may return with it.
"""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Moment:
    """One weight before a step of the optimizer, as a policy sees it.

    Args:
        step: the steps taken so far.
        weight: the whole weight, before the optimizer changes it; if the policy is not a
            `StraightThrough`, the pruned weight, after the optimizer has changed it.
        gradient: dense gradient with respect to the weights that the forward pass used; pruned
            positions have one too.
        mask: True where the forward pass uses the weight.
        memory: what the policy has stored for this weight; None before the first step.
        rate: the learning rate of the weight's parameter group, 0 if its optimizer has none.
    """

    step: int
    weight: Tensor
    gradient: Tensor
    mask: Tensor
    memory: Tensor | None
    rate: float


class StraightThrough:
    """Base class of policies under which pruned weights continue to learn.

    `SparseTraining` restores the whole weights before each optimizer step and hides the pruned part
    after it. At an update, ``scores`` are those of the whole weights, and masks may keep weights
    that were pruned before. The optimizer keeps its state for pruned weights, and weight decay acts
    on them.

    A policy may also have a method ``remember(moment)`` that returns a tensor for each weight,
    called before every step; ``update`` then gets these instead of gradients. They are saved with
    the masks.

    Example:
        >>> import torch
        >>> w, m = torch.tensor([3.0, 1.0]), torch.tensor([True, False])
        >>> StraightThrough().shown(w, m, None)
        tensor([3., 0.])

    Source: Bengio, Léonard and Courville (2013), section 4: the straight-through estimator.
    """

    def backward(self, moment: Moment) -> Tensor:
        """Return the gradient that the optimizer steps by: by default that of what was read."""
        return moment.gradient

    def shown(self, weight: Tensor, mask: Tensor, memory: Tensor | None) -> Tensor:  # noqa: ARG002
        """Return what the forward pass reads of the whole weight, zero where the mask prunes."""
        return weight * mask  # several times as fast as filling, on a CPU
