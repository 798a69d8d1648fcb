"""Optimizers as frozen data, and the torch optimizer made from each."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from boxwood._internal.train.lr_schedules import ConstantLR, LRSchedule
from boxwood.errors import InvalidInput


class OptimizerSpec(Protocol):
    """The interface of optimizer specifications: the learning rate, the schedule, and how to build the optimizer."""

    @property
    def lr(self) -> float:
        """Learning rate, above 0, before the schedule is applied."""
        ...

    @property
    def lr_schedule(self) -> LRSchedule:
        """Factor on the learning rate at every step."""
        ...

    def build(self, parameters: ParamsT) -> Optimizer:
        """Make the torch optimizer of parameters, or of groups of them, at the learning rate ``lr``."""
        ...


@dataclass(frozen=True, kw_only=True)
class SGD:
    """Stochastic gradient descent, ``w ← w - lr · v`` with ``v ← momentum · v + ∇E + weight_decay · w``.

    Data for a recipe; `build` makes the `torch.optim.SGD`.

    Args:
        lr: learning rate, above 0.
        momentum: in [0, 1); 0 is plain gradient descent.
        weight_decay: L2 strength, at least 0: ``weight_decay · w`` is added to the gradient.
        nesterov: look ahead along the momentum.
        lr_schedule: factor on ``lr`` at every step.

    Raises:
        InvalidInput: the learning rate is not above 0.

    Example:
        >>> type(SGD(lr=0.1, momentum=0.9).build([torch.nn.Parameter(torch.ones(1))])).__name__
        'SGD'
    """

    lr: float
    momentum: float = 0.0
    weight_decay: float = 0.0
    nesterov: bool = False
    lr_schedule: LRSchedule = ConstantLR()  # noqa: RUF009 - frozen

    def __post_init__(self) -> None:
        _check_rate(self.lr)

    def build(self, parameters: ParamsT) -> Optimizer:
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
    """Adam, as data for a recipe; `build` makes the `torch.optim.Adam`.

    Args:
        lr: learning rate, above 0.
        betas: decay of the running means of gradients and of their squares, each in [0, 1).
        eps: added to the denominator, at least 0.
        weight_decay: L2 strength, at least 0: ``weight_decay · w`` is added to the gradient, as
            torch's Adam does.
        fused: update each parameter in one pass, which saves a quarter of a LeNet's step on a CPU;
            results differ in the last bits.
        lr_schedule: factor on ``lr`` at every step.

    Raises:
        InvalidInput: the learning rate is not above 0.

    Example:
        >>> type(Adam(lr=1e-3).build([torch.nn.Parameter(torch.ones(1))])).__name__
        'Adam'

    Source: Kingma and Ba (2015), algorithm 1.
    """

    lr: float
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    fused: bool = False
    lr_schedule: LRSchedule = ConstantLR()  # noqa: RUF009 - frozen

    def __post_init__(self) -> None:
        _check_rate(self.lr)

    def build(self, parameters: ParamsT) -> Optimizer:
        """Make the torch optimizer."""
        return _build_adam(torch.optim.Adam, self, parameters)


@dataclass(frozen=True, kw_only=True)
class AdamW:
    """Adam with decoupled weight decay, as data for a recipe; `build` makes the `torch.optim.AdamW`.

    ``w ← w - lr · (m / (√v + eps) + weight_decay · w)``, with m and v the running means of the
    gradient and of its square, corrected for their start at zero. The decay is not part of the
    gradient, so it is not divided by √v as in `Adam`. A pruned weight stays zero, because the decay
    of zero is zero.

    Args:
        lr: learning rate, above 0.
        betas: decay of the running means of gradients and of their squares, each in [0, 1).
        eps: added to the denominator, at least 0.
        weight_decay: at least 0; a step subtracts the fraction ``lr · weight_decay`` of every
            parameter that learns, including biases and norms, unless
            ``Regularisation(decay_layers=…)`` names fewer.
        fused: update each parameter in one pass; results differ in the last bits.
        lr_schedule: factor on ``lr`` at every step, and so on the decay too.

    Raises:
        InvalidInput: the learning rate is not above 0.

    Example:
        >>> type(AdamW(lr=1e-3, weight_decay=0.05).build([torch.nn.Parameter(torch.ones(1))])).__name__
        'AdamW'

    Source: Loshchilov and Hutter (2019), "Decoupled weight decay regularization", algorithm 2.

    Differs from the paper: there only the schedule scales the decay; here the learning rate does
    too, as in torch.
    """

    lr: float
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.01
    fused: bool = False
    lr_schedule: LRSchedule = ConstantLR()  # noqa: RUF009 - frozen

    def __post_init__(self) -> None:
        _check_rate(self.lr)

    def build(self, parameters: ParamsT) -> Optimizer:
        """Make the torch optimizer."""
        return _build_adam(torch.optim.AdamW, self, parameters)


def _build_adam(
    kind: type[torch.optim.Adam], settings: Adam | AdamW, parameters: ParamsT
) -> Optimizer:
    return kind(
        parameters,
        lr=settings.lr,
        betas=settings.betas,
        eps=settings.eps,
        weight_decay=settings.weight_decay,
        fused=settings.fused or None,  # None leaves the choice to torch
    )


def _check_rate(lr: float) -> None:
    if not lr > 0:
        raise InvalidInput(f"Expected a learning rate above 0, got {lr}; try 0.1 for SGD.")
