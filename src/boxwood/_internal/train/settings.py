"""How a training goes, as frozen data: its length, its optimizer, its limits and what it sees."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from boxwood._internal.core import spec
from boxwood._internal.core.policies import Policy
from boxwood._internal.model.prunable import Where, linear_and_conv
from boxwood._internal.train.losses import Loss, cross_entropy
from boxwood._internal.train.optimizers import Constant, Course, OptimizerSpec
from boxwood._internal.train.stateful_batches import places
from boxwood.errors import InvalidInput

Augmentation = Callable[[Tensor, torch.Generator], Tensor]
"""Inputs of a batch and the random numbers of a step, to inputs of the same shape."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """One training: how long, with what, towards what.

    Args:
        epochs: passes over the training examples; the last batch of an epoch may be smaller.
        steps: the length in steps instead of epochs; give one of the two.
        start_at: where the training enters its own course, in epochs or steps as its length is: the
            learning rate, the order of examples and augmentation are those of that moment.
        stop_at: where it leaves its course, likewise; None for the end.
        batch: examples per step.
        optimizer: `SGD` or `Adam`, with its L2 strength as ``weight_decay``.
        course: learning-rate course over the steps of this training.
        loss: outputs and targets to a scalar.
        l1: strength of the L1 penalty on the prunable weights; units of loss per unit of weight.
        l1_on: what it penalises instead, such as `boxwood._internal.model.prunable.norm_scales`.
        frozen: patterns of parameters that do not learn, such as ``("conv*",)``.
        shuffle_index: which of the seed's orders of examples (and dropout) to use.
        watch_every: steps between two rows of the history; None for one row per epoch.
        clip: largest norm of the gradient of all parameters together; None for no limit.
        augment: changes the inputs of a batch at random, such as `FlipAndCrop`.
        policy: changes the masks while it trains, such as `Gradual`; its steps are counted from
            the beginning of the course.
        where: the parameters that ``policy`` prunes.
        evidence: how many of the first training examples a criterion of ``policy`` sees at every
            update, if it asks for more than weights; not with a teacher.
        max_norm: largest Euclidean norm of the weights that enter a unit, kept to after every
            step; None for no limit.
        teacher: whom to learn from, with a ``loss`` such as `Distillation`; see
            `boxwood._internal.recipes.teachers`. The phase that trains hands its answers to `train_`.
        stateful: the examples are the rows of a text, which a `Reader` reads on from batch to
            batch, at as many places as a batch has rows; epochs, and ``start_at``, start afresh.

    Example:
        >>> from boxwood._internal.train.optimizers import SGD
        >>> whole = Training(steps=1000, batch=60, optimizer=SGD(lr=0.1))
        >>> whole.window(55_000)
        Window(first=0, last=1000, steps=1000, per_epoch=917)
        >>> whole.window(55_000).epochs > 1
        True
    """

    epochs: int | None = None
    batch: int
    optimizer: OptimizerSpec
    course: Course = Constant()
    loss: Loss = cross_entropy
    l1: float = 0.0
    frozen: tuple[str, ...] = ()
    shuffle_index: int = 0
    steps: int | None = spec.field(None, legacy=None)
    start_at: int = spec.field(0, legacy=0)
    stop_at: int | None = spec.field(None, legacy=None)
    watch_every: int | None = spec.field(None, legacy=None)
    clip: float | None = spec.field(None, legacy=None)
    augment: Augmentation | None = spec.field(None, legacy=None)  # noqa: RUF009 - a field
    policy: Policy | None = spec.field(None, legacy=None)  # noqa: RUF009
    where: Where = spec.field(linear_and_conv, legacy=linear_and_conv)  # noqa: RUF009
    max_norm: float | None = spec.field(None, legacy=None)
    teacher: Any = spec.field(None, legacy=None)  # noqa: RUF009 - a field
    stateful: bool = spec.field(False, legacy=False)
    evidence: int = spec.field(1000, legacy=1000)
    l1_on: Where | None = spec.field(None, legacy=None)  # noqa: RUF009 - a field

    def __post_init__(self) -> None:
        given = [length for length in (self.epochs, self.steps) if length is not None]
        if len(given) != 1 or given[0] < 0 or self.batch < 1:
            raise InvalidInput(
                f"Expected a length of either epochs >= 0 or steps >= 0, and batch >= 1, got "
                f"epochs={self.epochs}, steps={self.steps}, batch={self.batch}; correct them."
            )
        if (
            not 0
            <= self.start_at
            <= (given[0] if self.stop_at is None else self.stop_at)
            <= given[0]
        ):
            raise InvalidInput(
                f"Expected 0 <= start_at <= stop_at <= {given[0]}, got start_at={self.start_at}, "
                f"stop_at={self.stop_at}; they count as the length does, in "
                f"{'epochs' if self.steps is None else 'steps'}."
            )
        limits = (self.watch_every, self.clip, self.max_norm)
        if any(limit is not None and not limit > 0 for limit in limits):
            raise InvalidInput(
                f"Expected watch_every >= 1, clip > 0 and max_norm > 0, got {self.watch_every}, "
                f"{self.clip} and {self.max_norm}; correct them, or leave them out."
            )

    @property
    def length(self) -> str:
        """Say how long it is, in the words of its settings.

        Example:
            >>> from boxwood._internal.train.optimizers import SGD
            >>> Training(steps=900, start_at=100, batch=60, optimizer=SGD(lr=0.1)).length
            'steps 100 to 900'
        """
        whole = self.epochs if self.steps is None else self.steps
        unit = "epochs" if self.steps is None else "steps"
        if not self.start_at and self.stop_at is None:
            return f"{whole} {unit}"
        return f"{unit} {self.start_at} to {whole if self.stop_at is None else self.stop_at}"

    def window(self, count: int) -> "Window":
        """Count the steps of this training on ``count`` examples."""
        batch = self.batch
        per_epoch = len(places(count, batch)) if self.stateful else -(-count // batch)
        unit = per_epoch if self.steps is None else 1
        length = self.epochs if self.steps is None else self.steps
        assert length is not None  # noqa: S101 - one of the two is given
        last = length if self.stop_at is None else self.stop_at
        return Window(self.start_at * unit, last * unit, length * unit, per_epoch)


@dataclass(frozen=True)
class Window:
    """The steps from ``first`` up to ``last`` of a course of ``steps``, ``per_epoch`` at a time."""

    first: int
    last: int
    steps: int
    per_epoch: int

    @property
    def epochs(self) -> float:
        """Passes over the examples, a whole number where it is one.

        Example:
            >>> Window(0, 150, 500, per_epoch=100).epochs, Window(0, 300, 300, 100).epochs
            (1.5, 3)
        """
        taken = self.last - self.first
        return taken // self.per_epoch if taken % self.per_epoch == 0 else taken / self.per_epoch
