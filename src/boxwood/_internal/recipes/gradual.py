"""Gradual pruning during a training, and the sparsity at which a large network is as small as a small one.

Dense and sparse networks are trained for the same number of steps: pruning takes none of its own.

Source: Zhu and Gupta (2017), sections 3 and 4.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from boxwood._internal.core.allocation import Allocation, uniform
from boxwood._internal.core.criteria.weights import magnitude
from boxwood._internal.core.granularity import Elements, Granularity
from boxwood._internal.core.policies import Gradual, Policy
from boxwood._internal.core.schedules import Cubic, OneShot, Schedule
from boxwood._internal.model.counting import count_parameters
from boxwood._internal.model.prunable import Layers, linear_and_conv
from boxwood._internal.recipes.phase import Phase, Recipe
from boxwood._internal.recipes.phases.measure import Measure
from boxwood._internal.recipes.phases.train import Train
from boxwood._internal.train.settings import PolicyPruning, Training
from boxwood.errors import InvalidInput

Shape = Callable[..., Schedule]
"""Keywords ``final``, ``begin`` and ``end`` to a schedule: `Cubic`, `Linear` or `at_the_end`."""

_MEASURE = Measure()


def dense_training(*, train: Training, measure: Phase = _MEASURE) -> Recipe:
    """Train and measure without pruning: the reference for sparse networks.

    Args:
        train: how, and how long.
        measure: the phase after the training.

    Example:
        >>> from boxwood.optim import SGD
        >>> len(dense_training(train=Training(steps=100, batch=20, optimizer=SGD(lr=1.0))))
        2
    """
    return (Train(training=train), measure)


def sparse_training(
    *, train: Training, policy: Policy, layers: Layers = linear_and_conv, measure: Phase = _MEASURE
) -> Recipe:
    """Train as `dense_training` does, while a policy changes the masks, and measure.

    Args:
        train: the dense training.
        policy: such as `LayerByLayer` or `RigL`; for `Gradual` see `gradual_pruning`.
        layers: the parameters that are pruned.
        measure: the phase after the training.

    Example:
        >>> from boxwood.policies import LayerByLayer
        >>> from boxwood.optim import SGD
        >>> training = Training(steps=1000, batch=20, optimizer=SGD(lr=1.0))
        >>> recipe = sparse_training(train=training, policy=LayerByLayer(final=0.8, end=600))
        >>> recipe[0].training.steps
        1000
    """
    return (Train(training=replace(train, pruning=PolicyPruning(policy, layers))), measure)


def gradual_pruning(
    *,
    train: Training,
    sparsity: float,
    begin: int,
    end: int,
    every: int = 100,
    shape: Shape = Cubic,
    criterion: Callable[..., Tensor] = magnitude,
    granularity: Granularity = Elements(),
    allocation: Allocation = uniform,
    layers: Layers = linear_and_conv,
    measure: Phase = _MEASURE,
) -> Recipe:
    """Prune to ``sparsity`` between two steps of a training that is as long as the dense one.

    Args:
        train: the dense training.
        sparsity: sparsity at the end, in [0, 1); `Size` computes the one at which a large network
            has as many non-zeros, or bytes, as a small one.
        begin: step at which the sparsity starts to rise, after some dense training.
        end: step of the last update; training continues after it.
        every: steps between updates.
        shape: `Cubic` as in the paper; its controls are `Linear` and `at_the_end`.
        criterion: scores the weights.
        granularity: which weights are pruned together.
        allocation: how the sparsity is distributed; ``uniform`` prunes every layer to it by itself.
        layers: the parameters that are pruned.
        measure: the phase after the training.

    Raises:
        InvalidInput: the window reaches beyond the training, or is no multiple of ``every``.

    Example:
        >>> from boxwood.optim import SGD
        >>> training = Training(steps=1000, batch=20, optimizer=SGD(lr=1.0))
        >>> train, _ = gradual_pruning(train=training, sparsity=0.8, begin=100, end=500)
        >>> train.training.steps, round(train.training.pruning.policy.schedule(300), 3)  # 0.875 · 0.8
        (1000, 0.7)

    Source: Zhu and Gupta (2017), section 3.
    """
    if begin % every or end % every:
        raise InvalidInput(
            f"Expected a window whose ends are multiples of every={every} steps, at which updates "
            f"come, got {begin} to {end}; round them."
        )
    if train.steps is not None and end > train.steps:
        raise InvalidInput(
            f"Expected pruning to end within the {train.steps} steps of the training, got "
            f"end={end}; end earlier."
        )
    policy = Gradual(
        schedule=shape(final=sparsity, begin=begin, end=end),
        every=every,
        criterion=criterion,
        granularity=granularity,
        allocation=allocation,
    )
    return sparse_training(train=train, policy=policy, layers=layers, measure=measure)


def at_the_end(*, final: float, begin: int, end: int) -> OneShot:  # noqa: ARG001 - a Shape
    """Prune all at once at the last step of a window: the control of gradual pruning.

    Example:
        >>> schedule = at_the_end(final=0.8, begin=100, end=500)
        >>> schedule(499), schedule(500)
        (0.0, 0.8)
    """
    return OneShot(final=final, at=end)


@dataclass(frozen=True)
class Size:
    """How many parameters of a network may be pruned, and how many may not.

    Args:
        prunable: those that ``layers`` finds.
        rest: all others, such as biases and norms.

    Example:
        >>> large = Size(prunable=8000, rest=100)
        >>> large.sparsity_at(nonzero=2100)
        0.75
    """

    prunable: int
    rest: int

    @classmethod
    def of(cls, model: Callable[[], nn.Module], layers: Layers = linear_and_conv) -> "Size":
        """Count a network without making its weights.

        Args:
            model: returns a new network.
            layers: the parameters that are pruned.

        Example:
            >>> Size.of(lambda: nn.Linear(100, 10))
            Size(prunable=1000, rest=10)
        """
        with torch.device("meta"):
            network = model()
        prunable = sum(parameter.numel() for parameter in layers(network).values())
        return cls(prunable, count_parameters(network) - prunable)

    @property
    def total(self) -> int:
        """All parameters."""
        return self.prunable + self.rest

    def sparsity_at(self, nonzero: float) -> float:
        """Return the sparsity of the prunable parameters at which ``nonzero`` are left: ``1 - (n - rest) / prunable``.

        Pruned layer by layer to it, a network has ``nonzero`` parameters left up to the rounding
        of each layer's count.

        Args:
            nonzero: parameters that are left, the rest among them; above ``rest``, at most
                ``total``.

        Raises:
            InvalidInput: no sparsity leaves that number.

        Example:
            >>> Size(prunable=1000, rest=10).sparsity_at(260)
            0.75
        """
        if not self.rest < nonzero <= self.total:
            raise InvalidInput(
                f"Expected more than {self.rest} non-zeros, which are never pruned, and at most "
                f"{self.total}, got {nonzero}; compare with another network."
            )
        return 1 - (nonzero - self.rest) / self.prunable

    def sparsity_at_bytes(self, count: float) -> float:
        """Return the sparsity at which values, and one bit for every prunable place, take so much.

        ``4 n + prunable / 8 = count`` with n the parameters that are left, at 4 bytes each.

        Args:
            count: bytes of the whole network.

        Raises:
            InvalidInput: no sparsity takes that number.

        Example:
            >>> Size(prunable=8000, rest=0).sparsity_at_bytes(9000)  # 2,000 values and 8,000 bits
            0.75

        Source: Zhu and Gupta (2017), on the memory of sparse networks: the bit-mask form.
        """
        return self.sparsity_at(count / 4 - self.prunable / 32)
