"""Policies with straight-through gradients, under which a pruned weight may return with its old value."""

from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

import torch
from torch import Tensor

from boxwood._internal.core import spec
from boxwood._internal.core.allocation import Allocation, uniform
from boxwood._internal.core.criteria.weights import magnitude
from boxwood._internal.core.granularity import Elements, Granularity, NofM
from boxwood._internal.core.mask_changes import all_kept, pruned
from boxwood._internal.core.masks import Masks
from boxwood._internal.core.schedules import Schedule, check_every, check_sparsity, end_of
from boxwood._internal.core.selection import Scores, select
from boxwood._internal.core.straight_through import Moment, StraightThrough
from boxwood.errors import InvalidInput


@dataclass(frozen=True)
class SRSTE(StraightThrough):
    """Train an n:m network from scratch: sparse-refined straight-through estimation.

    The forward pass uses the n largest of every m weights, chosen again after every step. All
    weights get the gradient with respect to the weights that were used. The pruned ones also decay,
    ``g + decay · (1 - mask) · w``, so that they are not chosen again at once.

    The optimizer's own weight decay and momentum act on all weights, pruned ones too.

    Args:
        pattern: which weights are kept, such as ``NofM(2, 4)``; n counts the kept ones.
        decay: λ, at least 0; 2e-4 in the paper, and 0 is the plain straight-through estimator.
        every: steps between choices of the mask, 1 in the paper.
        criterion: scores weights; the highest are used.

    Raises:
        InvalidInput: a setting is out of range; or, at the start, a tensor whose second dimension
            is no multiple of m.

    Example:
        >>> policy = SRSTE(NofM(1, 2), decay=0.5)
        >>> w = torch.tensor([[3.0, 1.0]])
        >>> mask = policy.init({"w": w})["w"]
        >>> mask, policy.backward(Moment(0, w, torch.tensor([[1.0, 1.0]]), mask, None, 0.1))
        (tensor([[ True, False]]), tensor([[1.0000, 1.5000]]))

    Source: Zhou et al. (2021), section 3, the update of SR-STE.
    """

    wants_gradients: ClassVar[bool] = False

    pattern: NofM
    _: KW_ONLY
    decay: float = 2e-4
    every: int = 1
    criterion: Callable[..., Tensor] = magnitude

    def __post_init__(self) -> None:
        check_every(self.every)
        if not self.decay >= 0:
            raise InvalidInput(f"Expected decay >= 0, got {self.decay}; the paper takes 2e-4.")

    @property
    def granularity(self) -> Granularity:
        """The pattern, whose groups run along the inputs of a layer."""
        return self.pattern

    def init(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Keep the largest weights."""
        return self._chosen({name: weight.abs() for name, weight in weights.items()})

    def due(self, step: int) -> bool:
        """Every ``every`` steps."""
        return step > 0 and step % self.every == 0

    def update(
        self,
        step: int,  # noqa: ARG002 - every policy has the same signature
        masks: Masks,  # noqa: ARG002
        scores: Scores,
        gradients: Mapping[str, Tensor],  # noqa: ARG002
    ) -> dict[str, Tensor]:
        """Choose among all weights."""
        return self._chosen(scores)

    def backward(self, moment: Moment) -> Tensor:
        """Let pruned weights decay."""
        return moment.gradient + self.decay * moment.weight.masked_fill(moment.mask, 0)

    def _chosen(self, scores: Scores) -> dict[str, Tensor]:
        sparsity = 1 - self.pattern.n / self.pattern.m
        return pruned(scores, sparsity, uniform, self.pattern, all_kept(scores))


@dataclass(frozen=True)
class TopKAST(StraightThrough):
    """Use the largest weights in the forward pass, and train a few more: sparse forward and backward.

    The forward pass uses the set A of the largest weights. The gradient reaches a larger set B: A
    and the next largest weights. So weights are trained in B before they enter A. A penalty
    prevents weights from growing only because they are chosen. The gradient in B is
    ``g + penalty · w`` in A and ``g + penalty · w / (1 - sparsity)`` in the rest.

    Weights outside B get no gradient and keep their values. Do not give the optimizer a weight
    decay, which would change them. Momentum still acts on weights that have just left B.

    Args:
        sparsity: of the forward pass, in [0, 1).
        backward_sparsity: of the gradient, in [0, ``sparsity``].
        penalty: strength of L2, at least 0; 1e-4 in the paper's experiments on ImageNet.
        every: steps between choices of both sets, at least 1; in the paper, 100 is as good as 1.
        allocation: how the forward sparsity is distributed; the rest of B has ``sparsity -
            backward_sparsity`` of every tensor.
        criterion: scores weights; the highest are used.

    Raises:
        InvalidInput: a setting is out of range.

    Example:
        >>> policy = TopKAST(0.5, backward_sparsity=0.25, penalty=0.0)
        >>> w = torch.tensor([4.0, 3.0, 2.0, 1.0])
        >>> moment = Moment(0, w, torch.ones(4), policy.init({"w": w})["w"], None, 0.1)
        >>> moment.mask, policy.remember(moment)
        (tensor([ True,  True, False, False]), tensor([ True,  True,  True, False]))

    Source: Jayakumar, Pascanu, Rae, Osindero and Elsen (2020), section 2.
    Differs from the paper: there the optimizer holds what it remembers of B alone.
    """

    wants_gradients: ClassVar[bool] = False

    sparsity: float
    _: KW_ONLY
    backward_sparsity: float
    penalty: float = 1e-4
    every: int = 1
    allocation: Allocation = uniform
    criterion: Callable[..., Tensor] = magnitude

    def __post_init__(self) -> None:
        check_sparsity(self.sparsity)
        check_every(self.every)
        if not 0 <= self.backward_sparsity <= self.sparsity or not self.penalty >= 0:
            raise InvalidInput(
                f"Expected backward_sparsity in [0, {self.sparsity}] and penalty >= 0, got "
                f"{self.backward_sparsity} and {self.penalty}; the backward pass is the denser one."
            )

    def init(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Read the largest weights."""
        return self._largest({name: weight.abs() for name, weight in weights.items()})

    def due(self, step: int) -> bool:
        """Every ``every`` steps."""
        return step > 0 and step % self.every == 0

    def update(
        self,
        step: int,  # noqa: ARG002 - every policy has the same signature
        masks: Masks,  # noqa: ARG002
        scores: Scores,
        gradients: Mapping[str, Tensor],  # noqa: ARG002
    ) -> dict[str, Tensor]:
        """Choose A among all weights."""
        return self._largest(scores)

    def remember(self, moment: Moment) -> Tensor:
        """Return B, a bool tensor, chosen where A has just been."""
        if moment.memory is not None and not self.due(moment.step):
            return moment.memory
        more = round((self.sparsity - self.backward_sparsity) * moment.mask.numel())
        keep = min(int(moment.mask.sum()) + more, moment.mask.numel())
        # A is of the highest scores under any criterion; the rest of B is of the largest weights.
        sizes = moment.weight.abs().masked_fill(moment.mask, torch.finfo(moment.weight.dtype).max)
        return select({"": sizes}, {"": keep})[""]

    def backward(self, moment: Moment) -> Tensor:
        """Return the gradient in B, with the penalty."""
        within = moment.memory
        assert within is not None  # noqa: S101 - it was just remembered
        pull = torch.where(moment.mask, moment.weight, moment.weight / (1 - self.sparsity))
        return (moment.gradient + self.penalty * pull).masked_fill(~within, 0)

    def _largest(self, scores: Scores) -> dict[str, Tensor]:
        return pruned(scores, self.sparsity, self.allocation, Elements(), all_kept(scores))


@dataclass(frozen=True)
class MovementPruning(StraightThrough):
    """Prune weights that move towards zero; they come back if they move away again.

    Every weight has a score ``S ← S - g · w``, also while it is pruned, with g the gradient with
    respect to the weights that the forward pass used. Every update keeps the highest scores of all
    weights. Pruned weights get no gradient. They keep their values, except for the optimizer's
    weight decay and momentum, and return with them.

    Args:
        schedule: total sparsity at each step; the paper uses `Cubic` with dense steps before and
            after.
        every: steps between updates, 1 in the paper.
        granularity, allocation: as for `boxwood.find_masks`; ``uniform`` ranks each layer by itself.

    Raises:
        InvalidInput: ``every`` is below 1.

    Example:
        >>> from boxwood.schedules import OneShot
        >>> policy = MovementPruning(OneShot(final=0.5))
        >>> w, g, whole = torch.tensor([1.0, -2.0]), torch.tensor([1.0, 1.0]), torch.tensor([True, True])
        >>> score = policy.remember(Moment(0, w, g, whole, None, 0.1))
        >>> score, policy.update(1, {"w": whole}, {"w": w.abs()}, {"w": score})["w"]
        (tensor([-1.,  2.]), tensor([False,  True]))

    Source: Sanh, Wolf and Rush (2020), equations 4 and 5, hard movement pruning.
    Differs from the paper: there scores are parameters of an Adam optimizer of their own; here they
    are the sums that plain gradient descent would make, whose scale no ranking sees. `movement` is
    the score without return.
    """

    wants_gradients: ClassVar[bool] = False

    schedule: Schedule
    _: KW_ONLY
    every: int = 1
    granularity: Granularity = spec.field(Elements(), legacy=Elements())  # noqa: RUF009 - a declaration
    allocation: Allocation = uniform

    def __post_init__(self) -> None:
        check_every(self.every)

    @property
    def criterion(self) -> Callable[..., Tensor]:
        """Nothing that is scored at an update counts."""
        return magnitude

    @property
    def final(self) -> float | None:
        """The sparsity at the end of the schedule; None where it cannot say."""
        return end_of(self.schedule)

    def init(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Keep everything."""
        return all_kept(weights)

    def due(self, step: int) -> bool:
        """Every ``every`` steps from where the schedule prunes at all."""
        return step > 0 and step % self.every == 0 and self.schedule(step) > 0

    def update(
        self,
        step: int,
        masks: Masks,
        scores: Scores,  # noqa: ARG002 - every policy has the same signature
        gradients: Mapping[str, Tensor],
    ) -> dict[str, Tensor]:
        """Keep the highest sums of all weights; one without any gradient so far has none."""
        sums = {n: gradients.get(n, torch.zeros(mask.shape)).to(mask.device) for n, mask in masks.items()}  # fmt: skip
        whole = all_kept(masks)
        return pruned(sums, self.schedule(step), self.allocation, self.granularity, whole)

    def remember(self, moment: Moment) -> Tensor:
        """Return the sum after a step, in float32 or wider."""
        wide = torch.promote_types(moment.weight.dtype, torch.float32)
        moved = moment.gradient.to(wide) * moment.weight.to(wide)
        return -moved if moment.memory is None else moment.memory - moved

    def backward(self, moment: Moment) -> Tensor:
        """Return the gradient of the weights that were read."""
        return moment.gradient.masked_fill(~moment.mask, 0)
