"""Soft thresholds that are learned with the weights and so determine the sparsity."""

from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

import torch
from torch import Tensor

from boxwood._internal.core.criteria.weights import magnitude
from boxwood._internal.core.masks import Masks
from boxwood._internal.core.selection import Scores
from boxwood._internal.core.straight_through import Moment, StraightThrough
from boxwood.errors import InvalidInput


@dataclass(frozen=True)
class STR(StraightThrough):
    """Soft threshold weight reparametrisation: each tensor learns the threshold of its weights.

    The forward pass uses ``S(w, s) = sign(w) · max(|w| - σ(s), 0)`` with one number s for each
    tensor and σ the sigmoid. With g the gradient with respect to S,

    ``∂E/∂w = g · 1[|w| > σ(s)]`` and ``∂E/∂s = -σ'(s) Σ g · sign(w) · 1[|w| > σ(s)]``.

    s is trained by stochastic gradient descent, at the learning rate of its weight:
    ``v ← momentum · v + ∂E/∂s + decay · s`` and ``s ← s - rate · v``. ``initial`` is far below
    zero, so at first only decay raises s. The sparsity of each tensor follows from ``initial`` and
    ``decay``, which you tune: more decay gives more zeros.

    A weight below its threshold gets no gradient, but the optimizer's weight decay and momentum
    still act on it. It returns when the threshold falls below it. The masks change after every
    step. The network contains ``S(w, s)``, so at the end it is an ordinary sparse network.

    Args:
        initial: s before the first step; -3200 for ResNet-50 at 90 % in the authors' code, where
            ``σ(s) = 0`` and nothing is pruned until decay has raised s.
        decay: of s, at least 0; in the paper that of the weights.
        momentum: of s, in [0, 1); in the paper that of the weights.

    Raises:
        InvalidInput: ``decay`` or ``momentum`` is out of range.

    Example:
        >>> policy = STR(initial=0.0, decay=1e-4)
        >>> w = torch.tensor([2.0, -1.0, 0.25])
        >>> masks = policy.init({"w": w})
        >>> masks["w"], policy.shown(w, masks["w"], None)
        (tensor([ True,  True, False]), tensor([ 1.5000, -0.5000,  0.0000]))

    Source: Kusupati et al. (2020), equations 5 to 7 and algorithm 1.
    Differs from the paper: s is trained by SGD whatever optimizer trains the weights, and one that
    skips a weight, or has no learning rate, does not move it.
    """

    wants_gradients: ClassVar[bool] = False

    initial: float
    _: KW_ONLY
    decay: float
    momentum: float = 0.0

    def __post_init__(self) -> None:
        if not (self.decay >= 0 and 0 <= self.momentum < 1):
            raise InvalidInput(
                f"Expected decay >= 0 and momentum in [0, 1), got {self.decay} and "
                f"{self.momentum}; take those of the weights."
            )

    @property
    def criterion(self) -> Callable[..., Tensor]:
        """What thresholds are compared with."""
        return magnitude

    def init(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Keep what is above the threshold at the start."""
        return {n: w.abs() > self.threshold(None, w) for n, w in weights.items()}

    def due(self, step: int) -> bool:
        """After every step."""
        return step > 0

    def update(
        self,
        step: int,  # noqa: ARG002 - every policy has the same signature
        masks: Masks,  # noqa: ARG002
        scores: Scores,
        gradients: Mapping[str, Tensor],
    ) -> dict[str, Tensor]:
        """Keep what is above the threshold."""
        return {n: each > self.threshold(gradients.get(n), each) for n, each in scores.items()}

    def remember(self, moment: Moment) -> Tensor:
        """Return s and its velocity v after a step."""
        before = self._start(moment.weight) if moment.memory is None else moment.memory
        s, velocity = before
        threshold = torch.sigmoid(s)
        inside = torch.where(moment.mask, moment.gradient * moment.weight.sign(), 0)
        slope = -threshold * (1 - threshold) * inside.sum(dtype=s.dtype)
        velocity = self.momentum * velocity + slope + self.decay * s
        return torch.stack((s - moment.rate * velocity, velocity))

    def backward(self, moment: Moment) -> Tensor:
        """Return the gradient of the weights above the threshold."""
        return moment.gradient.masked_fill(~moment.mask, 0)

    def shown(self, weight: Tensor, mask: Tensor, memory: Tensor | None) -> Tensor:
        """Shrink the weights by the threshold."""
        shrunken = weight.sign() * (weight.abs() - self.threshold(memory, weight))
        return shrunken.masked_fill(~mask, 0)

    def threshold(self, memory: Tensor | None, like: Tensor) -> Tensor:
        """Return ``σ(s)``, a number of the type of ``like``."""
        s = self._start(like)[0] if memory is None else memory[0]
        return torch.sigmoid(s).to(like.dtype)

    def _start(self, weight: Tensor) -> Tensor:
        kind = torch.promote_types(weight.dtype, torch.float32)
        return torch.tensor((self.initial, 0.0), dtype=kind, device=weight.device)
