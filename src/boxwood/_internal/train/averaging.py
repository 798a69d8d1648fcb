"""Averages of the weights over the steps of a training, used in place of the last weights."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from boxwood._internal.core.examples import Examples, InBatches
from boxwood._internal.graph.batch_norm import reestimate_batch_norm_
from boxwood._internal.model.evaluation import evaluating
from boxwood._internal.model.prunable import plain_name
from boxwood.errors import InvalidInput


class Averaging(Protocol):
    """The interface of weight averages such as `EMA` and `SWA`: when weights enter, with which share."""

    def due(self, step: int, steps: int, per_epoch: int) -> bool:
        """Say whether the weights after ``step`` of ``steps``, counted from 1, enter the average."""
        ...

    def share(self, updates: int) -> float:
        """Return their share in the average after ``updates`` others; 1 after none."""
        ...

    @property
    def recalibrates(self) -> bool:
        """Whether batch norms take their statistics again, for the averaged weights."""
        ...


@dataclass(frozen=True, kw_only=True)
class EMA:
    """An exponential moving average of the weights: ``a ← d_n · a + (1 - d_n) · w`` after every step.

    At the n-th update, counted from 0, ``d_n = min(decay, n / (9 + n))``: the average starts as the
    weights after the first step, and this start fades even in short trainings. Statistics of batch
    norms are averaged like weights.

    Args:
        decay: d in [0, 1); the average covers about the last ``1 / (1 - d)`` steps.

    Raises:
        InvalidInput: the decay is out of range.

    Example:
        >>> [round(EMA(decay=0.5).share(n), 2) for n in (0, 1, 9, 99)]
        [1.0, 0.9, 0.5, 0.5]

    Source: Polyak and Juditsky (1992), "Acceleration of stochastic approximation by averaging";
    the decay that rises is that of TensorFlow's ``ExponentialMovingAverage`` with ``num_updates``.
    Differs from the source: Polyak and Juditsky take the plain mean of all steps.
    """

    decay: float = 0.999

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise InvalidInput(f"Expected a decay in [0, 1), got {self.decay}; try 0.999.")

    def due(self, step: int, steps: int, per_epoch: int) -> bool:  # noqa: ARG002 - see `Averaging`
        """Return True: every step counts."""
        return True

    def share(self, updates: int) -> float:
        """Return ``1 - d_n``."""
        return 1 - min(self.decay, updates / (9 + updates))

    @property
    def recalibrates(self) -> bool:
        """False: the statistics are averaged too."""
        return False


@dataclass(frozen=True, kw_only=True)
class SWA:
    """The plain mean of the weights at regular moments late in the training.

    Before the first moment there is no average, and the weights themselves are evaluated. The
    statistics of batch norms are re-estimated for the averaged weights whenever they are evaluated
    and at the end, in one pass over the training examples without dropout.

    Args:
        start: the fraction of the training before the first moment, in [0, 1).
        every: steps between moments, at least 1; None for once an epoch.

    Raises:
        InvalidInput: a value is out of range.

    Example:
        >>> swa = SWA(start=0.5)
        >>> [step for step in range(1, 81) if swa.due(step, steps=80, per_epoch=10)]
        [40, 50, 60, 70, 80]
        >>> [round(swa.share(n), 2) for n in range(3)]
        [1.0, 0.5, 0.33]

    Source: Izmailov et al. (2018), "Averaging weights leads to wider optima and better
    generalization", algorithm 1. Its constant or cyclic learning rate is the optimizer's schedule.
    """

    start: float = 0.75
    every: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.start < 1 or (self.every is not None and self.every < 1):
            raise InvalidInput(
                f"Expected start in [0, 1) and every >= 1 steps, got {self.start} and {self.every}; "
                f"start=0.75 averages over the last quarter."
            )

    def due(self, step: int, steps: int, per_epoch: int) -> bool:
        """Say whether a moment falls on this step."""
        return step >= self.start * steps and step % (self.every or per_epoch) == 0

    def share(self, updates: int) -> float:
        """Return ``1 / (n + 1)``."""
        return 1 / (updates + 1)

    @property
    def recalibrates(self) -> bool:
        """True."""
        return True


_UPDATES = "updates"  # no parameter has this name: those of the average begin with a slash


class WeightAverage:
    """The average of one training.

    Args:
        model: the network that trains.
        averaging: when its weights enter.
        kept: what the average is kept in, empty at the beginning: a part of every snapshot.

    Example:
        >>> net, kept = nn.Linear(1, 1, bias=False), {}
        >>> average = WeightAverage(net, SWA(start=0.0, every=1), kept)
        >>> for step, weight in enumerate((1.0, 2.0), 1):
        ...     _ = net.weight.data.fill_(weight)
        ...     average.update_(step, 2, 1)
        >>> with average.in_place():
        ...     net.weight.item()
        1.5
        >>> net.weight.item()
        2.0
    """

    def __init__(self, model: nn.Module, averaging: Averaging, kept: dict[str, Tensor]) -> None:
        self._model, self._averaging, self._kept = model, averaging, kept
        named = [*model.named_parameters(), *model.named_buffers()]
        self._now = {f"/{plain_name(name)}": tensor.detach() for name, tensor in named}

    @torch.no_grad()
    def update_(
        self, step: int, steps: int, per_epoch: int, masks: Mapping[str, Tensor] | None = None
    ) -> None:
        """Let the weights enter, if it is time.

        Args:
            step: of the whole training, counted from 1.
            steps: of the whole training.
            per_epoch: steps of an epoch.
            masks: those that have just changed, True keeps: the average of what is pruned is zero.
        """
        if self._averaging.due(step, steps, per_epoch):
            self._enter_()
        for name, mask in (masks or {}).items() if self._kept else ():
            self._kept[f"/{name}"].masked_fill_(~mask, 0)

    def _enter_(self) -> None:
        updates = int(self._kept.get(_UPDATES, torch.tensor(0)))
        share, smooth, rest = self._averaging.share(updates), [], []
        for name, tensor in self._now.items():
            known = self._kept.get(name)
            if known is None:
                self._kept[name] = tensor.clone()
            elif tensor.is_floating_point():
                smooth.append((known, tensor))
            else:
                rest.append((known, tensor))
        if smooth:
            averages, weights = (list(each) for each in zip(*smooth, strict=True))
            torch._foreach_lerp_(averages, weights, share)
        for known, tensor in rest:  # such as the number of batches that a norm has seen
            known.copy_(tensor)
        self._kept[_UPDATES] = torch.tensor(updates + 1)

    @contextmanager
    def in_place(self, examples: Examples | None = None, batch: int = 1) -> Iterator[None]:
        """Put the average into the network, and the weights back at the end.

        Args:
            examples: what the statistics of batch norms are taken from, where they are re-estimated.
            batch: how many at a time.
        """
        weights = {name: tensor.clone() for name, tensor in self._now.items()}
        try:
            self.hand_over_(examples, batch)
            yield
        finally:
            self._put_(weights)

    def hand_over_(self, examples: Examples | None = None, batch: int = 1) -> None:
        """Put the average into the network, to stay there; see `in_place`."""
        if not self._kept:
            return
        self._put_(self._kept)
        if self._averaging.recalibrates and examples is not None:
            inputs = (inputs for inputs, _ in InBatches(examples, batch))
            with evaluating(self._model):
                reestimate_batch_norm_(self._model, inputs)

    @torch.no_grad()
    def _put_(self, tensors: Mapping[str, Tensor]) -> None:
        for name, tensor in self._now.items():
            tensor.copy_(tensors[name])
