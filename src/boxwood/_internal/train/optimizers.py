"""Optimizers and learning-rate courses as frozen data."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn
from torch.optim import Optimizer

from boxwood._internal.core import spec
from boxwood.errors import InvalidInput


class OptimizerSpec(Protocol):
    """What a training phase asks of an optimizer: a learning rate, and how to build it."""

    @property
    def lr(self) -> float:
        """The learning rate before any course is applied."""
        ...

    def build(self, parameters: Iterable[nn.Parameter]) -> Optimizer:
        """Make the torch optimizer."""
        ...


@dataclass(frozen=True, kw_only=True)
class SGD:
    """Stochastic gradient descent; ``weight_decay`` adds ``weight_decay · w`` to the gradient (L2).

    Example:
        >>> type(SGD(lr=0.1, momentum=0.9).build([nn.Parameter(torch.ones(1))])).__name__
        'SGD'
    """

    lr: float
    momentum: float = 0.0
    weight_decay: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        _check_rate(self.lr)

    def build(self, parameters: Iterable[nn.Parameter]) -> Optimizer:
        """Make the torch optimizer."""
        return torch.optim.SGD(
            parameters,
            lr=self.lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            nesterov=self.nesterov,
        )


@dataclass(frozen=True, kw_only=True)
class Adam:
    """Adam; ``weight_decay`` adds ``weight_decay · w`` to the gradient (L2), as torch's Adam does.

    ``fused`` updates each parameter in one pass, which saves a quarter of a LeNet's step on a CPU;
    its results differ from the others' in the last bits.

    Example:
        >>> type(Adam(lr=1e-3).build([nn.Parameter(torch.ones(1))])).__name__
        'Adam'
    """

    lr: float
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    fused: bool = spec.field(False, legacy=False)

    def __post_init__(self) -> None:
        _check_rate(self.lr)

    def build(self, parameters: Iterable[nn.Parameter]) -> Optimizer:
        """Make the torch optimizer."""
        return torch.optim.Adam(
            parameters,
            lr=self.lr,
            betas=self.betas,
            eps=self.eps,
            weight_decay=self.weight_decay,
            fused=self.fused or None,  # None leaves the choice to torch
        )


class Course(Protocol):
    """A learning-rate course: a step, and how many there are, to a factor on the rate."""

    def __call__(self, step: int, steps: int) -> float:
        """Factor at ``step`` of ``steps``."""
        ...


@dataclass(frozen=True)
class Constant:
    """The same learning rate throughout.

    Example:
        >>> Constant()(7, 10)
        1.0
    """

    def __call__(self, step: int, steps: int) -> float:  # noqa: ARG002 - every course alike
        """Return 1."""
        return 1.0


@dataclass(frozen=True, kw_only=True)
class Drops:
    """Multiply the learning rate by ``factor`` at each of some fractions of the training.

    Args:
        at: fractions in (0, 1), such as ``(0.5, 0.75)``.
        factor: what each drop multiplies by.

    Example:
        >>> [round(Drops(at=(0.5, 0.75), factor=0.1)(t, 4), 3) for t in range(4)]
        [1.0, 1.0, 0.1, 0.01]
    """

    at: tuple[float, ...]
    factor: float = 0.1

    def __call__(self, step: int, steps: int) -> float:
        """Product of the drops passed so far."""
        return self.factor ** sum(step >= round(fraction * steps) for fraction in self.at)


@dataclass(frozen=True, kw_only=True)
class DropsAt:
    """Multiply the learning rate by ``factor`` at each of some steps, however many there are.

    Args:
        steps: steps that begin with a drop.
        factor: what each drop multiplies by.

    Example:
        >>> [round(DropsAt(steps=(2, 3), factor=0.1)(t, 4), 3) for t in range(4)]
        [1.0, 1.0, 0.1, 0.01]
    """

    steps: tuple[int, ...]
    factor: float = 0.1

    def __call__(self, step: int, steps: int) -> float:  # noqa: ARG002 - every course alike
        """Product of the drops passed so far."""
        return float(self.factor ** sum(step >= at for at in self.steps))


@dataclass(frozen=True, kw_only=True)
class Warmup:
    """Rise from zero in a straight line over the first steps of another course: ``t / over``.

    Args:
        over: steps until the full rate.
        course: what the rate follows; its drops count from step 0, not from the end of the rise.

    Example:
        >>> [Warmup(over=2)(t, 4) for t in range(4)]
        [0.0, 0.5, 1.0, 1.0]

    Source: Frankle and Carbin (2019), section 4 and figure 2.
    """

    over: int
    course: Course = Constant()

    def __post_init__(self) -> None:
        if self.over < 1:
            raise InvalidInput(f"Expected a warm-up of over >= 1 steps, got {self.over}; drop it.")

    def __call__(self, step: int, steps: int) -> float:
        """Factor of the rise times that of the course."""
        return min(1.0, step / self.over) * self.course(step, steps)


def _check_rate(lr: float) -> None:
    if not lr > 0:
        raise InvalidInput(f"Expected a learning rate above 0, got {lr}; try 0.1 for SGD.")
