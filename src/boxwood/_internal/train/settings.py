"""A training as frozen data: its length, its optimizer, its examples and its limits."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from boxwood._internal.core import spec
from boxwood._internal.core.policies import Policy
from boxwood._internal.model.prunable import Layers, linear_and_conv
from boxwood._internal.train.averaging import Averaging
from boxwood._internal.train.computation import Computation
from boxwood._internal.train.loading import Loading
from boxwood._internal.train.losses import Loss, cross_entropy
from boxwood._internal.train.mixing import Mixing
from boxwood._internal.train.optimizers import OptimizerSpec
from boxwood._internal.train.stateful_batches import stateful_batches
from boxwood.errors import InvalidInput

Augmentation = Callable[[Tensor, torch.Generator], Tensor]
"""Inputs of a batch and the random numbers of a step, to inputs of the same shape."""


@dataclass(frozen=True, kw_only=True)
class Regularisation:
    """Penalties and limits on weights and gradients; none by default.

    The optimizer has the strength of L2 and of decoupled decay; ``decay_layers`` says which
    parameters decay.

    In this order at every step: ``l1 · sign(w)`` is added to the gradient, which is that of
    ``l1 · Σ|w|``; the gradient g is scaled by ``min(1, max_gradient_norm / ‖g‖)``; and after the
    step the weights w of each unit are scaled by ``min(1, max_weight_norm / ‖w‖)``.

    Args:
        l1: strength of the L1 penalty, at least 0, in units of the loss per unit of weight.
        l1_layers: which parameters it penalises, such as `norm_scales`; None for every parameter
            of two or more dimensions.
        max_gradient_norm: largest Euclidean norm of the gradient of all parameters together, above
            0; None for no limit.
        max_weight_norm: largest Euclidean norm of the weights that enter a unit, above 0; None for
            no limit.
        decay_layers: which parameters the optimizer's weight decay applies to, such as
            `linear_and_conv`, which excludes norms, biases and embeddings; None for all.

    Raises:
        InvalidInput: a value is out of range.

    Example:
        >>> Regularisation(l1=1e-5, max_gradient_norm=1.0).max_weight_norm is None
        True

    Source of ``max_weight_norm``: Hinton et al., arXiv:1207.0580, 2012, the constraint used with
    dropout.
    """

    l1: float = 0.0
    l1_layers: Layers | None = None
    max_gradient_norm: float | None = None
    max_weight_norm: float | None = None
    decay_layers: Layers | None = spec.field(None, legacy=None)  # noqa: RUF009 - a field

    def __post_init__(self) -> None:
        limits = (self.max_gradient_norm, self.max_weight_norm)
        if not self.l1 >= 0 or any(limit is not None and not limit > 0 for limit in limits):
            raise InvalidInput(
                f"Expected l1 >= 0, max_gradient_norm > 0 and max_weight_norm > 0, got {self.l1}, "
                f"{self.max_gradient_norm} and {self.max_weight_norm}; correct them, or leave them "
                f"out."
            )


@dataclass(frozen=True)
class PolicyPruning:
    """Pruning by a policy while the network trains.

    Args:
        policy: changes the masks, such as `Gradual` or `RigL`. Its steps count from the beginning
            of the training, whatever ``start_at`` is.
        layers: the parameters that it prunes.
        evidence: the number of training examples, from the first on, that a criterion sees at every
            update if it needs more than weights; at least 1. Not with a teacher.

    Raises:
        InvalidInput: ``evidence`` is below 1.

    Example:
        >>> from boxwood.policies import RigL
        >>> PolicyPruning(RigL(sparsity=0.9, until=1000)).evidence
        1000
    """

    policy: Policy
    layers: Layers = linear_and_conv
    evidence: int = 1000

    def __post_init__(self) -> None:
        if self.evidence < 1:
            raise InvalidInput(
                f"Expected evidence >= 1 examples, got {self.evidence}; give at least one."
            )


@dataclass(frozen=True, kw_only=True)
class Training:
    """One training: its length, optimizer, examples and limits.

    You can run any part of a training of N epochs or steps: steps ``start_at`` to ``stop_at`` have
    the same learning rates, batches and augmentation as in the whole training.

    Args:
        epochs: passes over the training examples, at least 0; the last batch of an epoch may be
            smaller.
        steps: the length in optimizer steps instead; give one of the two.
        start_at: where the training starts, in epochs or steps like its length.
        stop_at: where it stops, in the same unit; None for the end.
        batch: examples per step, at least 1.
        optimizer: `SGD`, `Adam` or `AdamW`, with its learning-rate schedule and its weight decay.
        loss: function from outputs and targets to a scalar, the mean over a batch; pass settings
            with `Call`, such as ``Call.of(cross_entropy, label_smoothing=0.1)``.
        regularisation: L1 penalty, and limits of the norms of gradients and weights.
        frozen: patterns of parameters that do not learn, such as ``("conv*",)``.
        augment: changes the inputs of a batch at random, such as `FlipAndCrop`.
        shuffle_index: which of the seed's orders of examples, augmentations and dropout masks to
            use; trainings of one recipe use different ones, so that they do not repeat each other.
        stateful: the examples are consecutive rows of a text, and the network's state is carried
            from batch to batch, see `stateful_batches`; it is reset at every epoch and at
            ``start_at``.
        watch_every: steps between two rows of the history, at least 1; None for a row per epoch.
        pruning: a policy that changes the masks while the network trains; None keeps them.
        loading: how examples are read: by worker processes, and with changes of single examples;
            None reads each batch when its step comes.
        mixing: `MixUp`, `CutMix` or both: at each step one of them, drawn at random, mixes pairs of
            examples, after ``augment``. The losses of the history are then those of mixed examples.
        averaging: `EMA` or `SWA`: an average of the weights. Rows of the history measure the
            average, and the network has it at the end or at ``stop_at``. The policy of ``pruning``
            sees the weights themselves; the average of a pruned weight is zero. With None the
            network has the weights of the last step.
        computation: how gradients are computed: in parts, in bfloat16, compiled.

    Raises:
        InvalidInput: a value is out of range, or not exactly one of ``epochs`` and ``steps`` is
            given, or a stateful training is to be mixed, compiled, read by workers or computed in
            parts.

    Example:
        >>> from boxwood.optim import SGD
        >>> training = Training(epochs=10, batch=60, optimizer=SGD(lr=0.1, momentum=0.9))
        >>> training.window(count=600)
        Window(first=0, last=100, steps=100, per_epoch=10)
    """

    epochs: int | None = None
    steps: int | None = None
    start_at: int = 0
    stop_at: int | None = None
    batch: int
    optimizer: OptimizerSpec
    loss: Loss = cross_entropy
    regularisation: Regularisation = Regularisation()
    frozen: tuple[str, ...] = ()
    augment: Augmentation | None = None
    shuffle_index: int = 0
    stateful: bool = False
    watch_every: int | None = None
    pruning: PolicyPruning | None = None
    loading: Loading | None = spec.field(None, legacy=None)  # noqa: RUF009 - a field
    mixing: tuple[Mixing, ...] = spec.field((), legacy=())
    averaging: Averaging | None = spec.field(None, legacy=None)  # noqa: RUF009 - a field
    computation: Computation = spec.field(Computation(), legacy=Computation())  # noqa: RUF009

    def __post_init__(self) -> None:
        given = [length for length in (self.epochs, self.steps) if length is not None]
        if len(given) != 1 or given[0] < 0 or self.batch < 1:
            raise InvalidInput(
                f"Expected a length of either epochs >= 0 or steps >= 0, and batch >= 1, got "
                f"epochs={self.epochs}, steps={self.steps}, batch={self.batch}; correct them."
            )
        if not 0 <= self.start_at <= self._end <= given[0]:
            raise InvalidInput(
                f"Expected 0 <= start_at <= stop_at <= {given[0]}, got start_at={self.start_at}, "
                f"stop_at={self.stop_at}; they count as the length does, in {self._unit}."
            )
        if self.watch_every is not None and self.watch_every < 1:
            raise InvalidInput(
                f"Expected watch_every >= 1 steps, got {self.watch_every}; leave it out for a row "
                f"of the history per epoch."
            )
        plain = self.computation in (Computation(), Computation(bfloat16=True))
        if self.stateful and (self.mixing or self.loading or not plain):
            raise InvalidInput(
                "Expected a stateful training whose batches are taken one by one and whole, got "
                "loading, mixing, microbatches or compiled; leave them out, or stateful=False."
            )

    @property
    def length(self) -> str:
        """The length in words.

        Example:
            >>> from boxwood.optim import SGD
            >>> Training(steps=900, start_at=100, batch=60, optimizer=SGD(lr=0.1)).length
            'steps 100 to 900'
        """
        if not self.start_at and self.stop_at is None:
            return f"{self._whole} {self._unit}"
        return f"{self._unit} {self.start_at} to {self._end}"

    def window(self, count: int) -> "Window":
        """Count the steps of this training.

        Args:
            count: training examples, at least 1; with ``stateful`` at least ``batch``.

        Raises:
            InvalidInput: a stateful training has fewer examples than ``batch``.
        """
        batch = self.batch
        per_epoch = len(stateful_batches(count, batch)) if self.stateful else -(-count // batch)
        unit = per_epoch if self.steps is None else 1
        return Window(self.start_at * unit, self._end * unit, self._whole * unit, per_epoch)

    @property
    def _whole(self) -> int:
        whole = self.epochs if self.steps is None else self.steps
        assert whole is not None  # noqa: S101 - one of the two is given
        return whole

    @property
    def _end(self) -> int:
        return self._whole if self.stop_at is None else self.stop_at

    @property
    def _unit(self) -> str:
        return "epochs" if self.steps is None else "steps"


@dataclass(frozen=True)
class Window:
    """The steps of a training that are taken: from ``first`` up to ``last``.

    Args:
        first: steps before the first one.
        last: steps before the first one that is not taken.
        steps: the whole training's.
        per_epoch: steps of an epoch.
    """

    first: int
    last: int
    steps: int
    per_epoch: int

    @property
    def epochs(self) -> float:
        """Passes over the examples; a whole number where they are whole.

        Example:
            >>> Window(0, 150, 500, per_epoch=100).epochs, Window(0, 300, 300, 100).epochs
            (1.5, 3)
        """
        taken = self.last - self.first
        return taken // self.per_epoch if taken % self.per_epoch == 0 else taken / self.per_epoch
