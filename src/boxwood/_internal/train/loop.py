"""The training loop: in-memory batches, stateless order, resumable at any step."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from boxwood._internal.core import spec
from boxwood._internal.core.chance import seeded_policy
from boxwood._internal.core.examples import Examples, InBatches
from boxwood._internal.core.generators import devices_of, own_random_numbers
from boxwood._internal.core.masks import Masks
from boxwood._internal.core.policies import Policy
from boxwood._internal.core.seeds import generator_for, seed_for
from boxwood._internal.model.binding import MaskBinding
from boxwood._internal.model.prunable import Where, linear_and_conv, parameter_names
from boxwood._internal.model.sparse_training import SparseTraining, warn_if_unfinished
from boxwood._internal.train.losses import Loss, add_l1_gradient_, cross_entropy, limit_norms_
from boxwood._internal.train.metrics import device_of
from boxwood._internal.train.optimizers import Constant, Course, OptimizerSpec
from boxwood._internal.train.snapshots import Checkpoints, resume_, take
from boxwood._internal.train.stateful_batches import places, reader
from boxwood.errors import InvalidInput, TrainingDiverged

Augmentation = Callable[[Tensor, torch.Generator], Tensor]
"""Inputs of a batch and the random numbers of a step, to inputs of the same shape."""


Teach = Callable[[int, Tensor, Tensor, Tensor], Any]
"""Step, indices of the batch, inputs as the network sees them, and labels, to what the loss takes."""


@dataclass(frozen=True, kw_only=True)
class Fit:
    """One training: how long, with what, towards what.

    Args:
        epochs: passes over the training examples; the last batch of an epoch may be smaller.
        steps: the length in steps instead of epochs; give one of the two.
        first: where the training enters its own course, in epochs or steps as its length is: the
            learning rate, the order of examples and augmentation are those of that moment.
        until: where it leaves its course, likewise; None for the end.
        batch: examples per step.
        optimizer: `SGD` or `Adam`, with its L2 strength as ``weight_decay``.
        course: learning-rate course over the steps of this training.
        loss: outputs and targets to a scalar.
        l1: strength of the L1 penalty on the prunable weights; units of loss per unit of weight.
        l1_on: what it penalises instead, such as `boxwood._internal.model.prunable.norm_scales`.
        frozen: patterns of parameters that do not learn, such as ``("conv*",)``.
        order: which of the seed's orders of examples (and dropout) to use.
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
            `boxwood._internal.recipes.teachers`. The phase that trains hands its answers to `fit_`.
        in_order: the examples are the rows of a text, which a `Reader` reads on from batch to
            batch, at as many places as a batch has rows; epochs, and ``first``, start afresh.

    Example:
        >>> from boxwood._internal.train.optimizers import SGD
        >>> whole = Fit(steps=1000, batch=60, optimizer=SGD(lr=0.1))
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
    order: int = 0
    steps: int | None = spec.field(None, legacy=None)
    first: int = spec.field(0, legacy=0)
    until: int | None = spec.field(None, legacy=None)
    watch_every: int | None = spec.field(None, legacy=None)
    clip: float | None = spec.field(None, legacy=None)
    augment: Augmentation | None = spec.field(None, legacy=None)  # noqa: RUF009 - a field
    policy: Policy | None = spec.field(None, legacy=None)  # noqa: RUF009
    where: Where = spec.field(linear_and_conv, legacy=linear_and_conv)  # noqa: RUF009
    max_norm: float | None = spec.field(None, legacy=None)
    teacher: Any = spec.field(None, legacy=None)  # noqa: RUF009 - a field
    in_order: bool = spec.field(False, legacy=False)
    evidence: int = spec.field(1000, legacy=1000)
    l1_on: Where | None = spec.field(None, legacy=None)  # noqa: RUF009 - a field

    def __post_init__(self) -> None:
        given = [length for length in (self.epochs, self.steps) if length is not None]
        if len(given) != 1 or given[0] < 0 or self.batch < 1:
            raise InvalidInput(
                f"Expected a length of either epochs >= 0 or steps >= 0, and batch >= 1, got "
                f"epochs={self.epochs}, steps={self.steps}, batch={self.batch}; correct them."
            )
        if not 0 <= self.first <= (given[0] if self.until is None else self.until) <= given[0]:
            raise InvalidInput(
                f"Expected 0 <= first <= until <= {given[0]}, got first={self.first}, "
                f"until={self.until}; they count as the length does, in "
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
            >>> Fit(steps=900, first=100, batch=60, optimizer=SGD(lr=0.1)).length
            'steps 100 to 900'
        """
        whole = self.epochs if self.steps is None else self.steps
        unit = "epochs" if self.steps is None else "steps"
        if not self.first and self.until is None:
            return f"{whole} {unit}"
        return f"{unit} {self.first} to {whole if self.until is None else self.until}"

    def window(self, count: int) -> "Window":
        """Count the steps of this training on ``count`` examples."""
        batch = self.batch
        per_epoch = len(places(count, batch)) if self.in_order else -(-count // batch)
        unit = per_epoch if self.steps is None else 1
        length = self.epochs if self.steps is None else self.steps
        assert length is not None  # noqa: S101 - one of the two is given
        last = length if self.until is None else self.until
        return Window(self.first * unit, last * unit, length * unit, per_epoch)


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


Row = dict[str, float]
"""Of a history: ``epoch`` and ``step`` reached, mean training ``loss`` since the row before."""


@dataclass(frozen=True)
class Fitted:
    """What a training leaves beside the network: its history, and the masks at its end."""

    history: list[Row]
    masks: dict[str, Tensor]


Watch = Callable[[nn.Module, Sequence[Row]], Mapping[str, float]]
"""Told the network and the history, whose last row it adds to."""

Progress = Callable[[int, int], None]
"""Told (done, all) after every step."""


def fit_(
    model: nn.Module,
    examples: Examples,
    fit: Fit,
    *,
    seed: int,
    masks: Masks | None = None,
    teach: Teach | None = None,
    watch: Watch | None = None,
    memory: dict[str, Tensor] | None = None,
    checkpoints: Checkpoints | None = None,
    progress: Progress | None = None,
) -> Fitted:
    """Train a network in place.

    The order of examples in epoch e follows from (seed, ``fit.order``, e) alone, augmentation in
    step t from (seed, ``fit.order``, t), and dropout from (seed, ``fit.order``), so a resumed
    training is the undisturbed one, bit for bit (on the CPU, with the same number of threads);
    torch's own random numbers are left as they were.

    Args:
        model: trained in place; parameters outside ``masks`` stay zero.
        examples: what it learns from.
        fit: how.
        seed: root seed of the run.
        masks: bool tensors by parameter name, True keeps; where ``fit`` has a policy, those that
            it goes on from.
        teach: makes of each batch's labels what ``fit.loss`` takes, such as a `Lesson`; the
            labels themselves by default.
        watch: called for every row; what it returns is part of the history.
        memory: tensors that ``watch`` keeps between rows, such as the best weights so far; they are
            part of every snapshot, and filled in place from the one resumed from.
        checkpoints: where to resume from and to save to.
        progress: told after every step.

    Returns:
        One row per epoch, or per ``fit.watch_every`` steps, and one at the end (see `Row`); and
        the masks at the end.

    Raises:
        InvalidInput: the loss is no longer finite, a pattern of ``frozen`` matches nothing,
            there are no examples, or ``fit`` has a teacher that nobody asks.

    Example:
        >>> from boxwood._internal.data.splits import InMemory
        >>> from boxwood._internal.train.optimizers import SGD
        >>> net, data = nn.Linear(2, 2), InMemory(torch.eye(2), torch.tensor([0, 1]))
        >>> done = fit_(net, data, Fit(epochs=2, batch=2, optimizer=SGD(lr=1.0)), seed=0)
        >>> done.history[1]["loss"] < done.history[0]["loss"]
        True
    """
    if not len(examples):
        raise InvalidInput("Expected examples to train on, got none; give a non-empty split.")
    if fit.teacher is not None and teach is None:
        raise InvalidInput(
            "Expected the answers of the teacher that fit names, got teach=None; use a phase that "
            "asks teachers, such as Train, or give fit_ a function that does."
        )
    with ExitStack() as stack:
        devices = devices_of((*model.parameters(), *model.buffers()))
        stack.enter_context(own_random_numbers(devices, seed=seed_for(seed, "dropout", fit.order)))
        stack.callback(model.train, model.training)
        _freeze_(model, fit.frozen, stack)
        learning = [p for p in model.parameters() if p.requires_grad]
        if not learning:
            raise InvalidInput(
                f"Expected parameters that learn, got a model in which frozen={fit.frozen} "
                f"matches all; freeze fewer."
            )
        optimizer = fit.optimizer.build(learning)
        history, window = list[Row](), fit.window(len(examples))
        memory = {} if memory is None else memory
        state, carried = dict[str, Tensor](), dict[str, Tensor]()
        start = resume_(model, optimizer, history, memory, state, carried, checkpoints)
        held: MaskBinding | SparseTraining | None = None
        if fit.policy is not None:
            state = state or {**(masks or {}), "steps": torch.tensor(window.first)}
            held = SparseTraining(
                model,
                optimizer,
                seeded_policy(fit.policy, seed),
                where=fit.where,
                loss=fit.loss if teach is None else None,
                batches=InBatches(examples, fit.batch, fit.evidence),
                state=state,
            )
            stack.callback(held.detach, early=True)
        elif masks:
            held = MaskBinding(model, optimizer, masks)
            stack.callback(held.detach)
        model.train()
        loop = _Loop(model, examples, fit, window, seed, optimizer, history, memory, held, teach)
        loop.run_(start or (window.first, 0.0), carried, watch, checkpoints, progress)
        if isinstance(held, SparseTraining) and window.last == window.steps:
            warn_if_unfinished(held)
        return Fitted(history, {} if held is None else held.masks)


@dataclass(frozen=True)
class _Loop:
    model: nn.Module
    examples: Examples
    fit: Fit
    window: Window
    seed: int
    optimizer: Optimizer
    history: list[Row]
    memory: dict[str, Tensor]
    held: MaskBinding | SparseTraining | None
    teach: Teach | None

    def run_(
        self,
        start: tuple[int, float],
        carried: dict[str, Tensor],
        watch: Watch | None,
        checkpoints: Checkpoints | None,
        progress: Progress | None,
    ) -> None:
        fit, model, optimizer, window = self.fit, self.model, self.optimizer, self.window
        every, device = fit.watch_every or window.per_epoch, device_of(model)
        learning = [p for p in model.parameters() if p.requires_grad]
        matrices = [p for p in learning if p.dim() > 1]
        penalised = matrices if fit.l1_on is None else list(fit.l1_on(model).values())
        step, summed = start
        # A tensor, so that nothing waits for the loss of a step before the next one starts.
        running = torch.tensor(summed, dtype=torch.float64, device=device)
        rate = fit.optimizer.lr
        while step < window.last:
            epoch, position = divmod(step, window.per_epoch)
            if not position:
                carried = {}
            for indices in self._batches(epoch)[position : position + window.last - step]:
                wanted = fit.optimizer.lr * fit.course(step, window.steps)
                if wanted != rate:
                    rate = wanted
                    for group in optimizer.param_groups:
                        group["lr"] = rate
                inputs, targets = self.examples.take(indices)
                if fit.augment is not None:
                    chance = generator_for(self.seed, f"augment/{fit.order}", step)
                    inputs = fit.augment(inputs, chance)
                if self.teach is not None:
                    targets = self.teach(step, indices, inputs, targets)
                optimizer.zero_grad(set_to_none=True)
                if fit.in_order:
                    outputs, carried = reader(model).carry(inputs.to(device), carried)
                else:
                    outputs = model(inputs.to(device))
                loss = fit.loss(outputs, targets.to(device))
                loss.backward()
                add_l1_gradient_(penalised, fit.l1)
                if fit.clip is not None:
                    nn.utils.clip_grad_norm_(learning, fit.clip)
                optimizer.step()
                if fit.max_norm is not None:
                    limit_norms_(matrices, fit.max_norm)
                running += loss.detach()
                step += 1
                if progress is not None:
                    progress(step - window.first, window.last - window.first)
                if step % every == 0 or step == window.last:
                    since = max(window.first, (step - 1) // every * every)
                    self._close_row(step, running, step - since, watch)
                if checkpoints is not None and step < window.last and checkpoints.due():
                    checkpoints.save(
                        take(
                            model,
                            optimizer,
                            step=step,
                            summed=float(running),
                            history=self.history,
                            memory=self.memory,
                            held=self.held.state_dict()
                            if isinstance(self.held, SparseTraining)
                            else {},
                            carried=carried,
                        )
                    )

    def _batches(self, epoch: int) -> tuple[Tensor, ...]:
        count, batch = len(self.examples), self.fit.batch
        if self.fit.in_order:
            return places(count, batch)
        shuffle = generator_for(self.seed, f"order/{self.fit.order}", epoch)
        order: tuple[Tensor, ...] = torch.randperm(count, generator=shuffle).split(batch)
        return order

    def _close_row(self, step: int, running: Tensor, steps: int, watch: Watch | None) -> None:
        mean, epoch = float(running) / steps, (step - 1) // self.window.per_epoch + 1
        if not torch.isfinite(running):
            raise TrainingDiverged(
                f"Expected a finite loss, got {mean} in epoch {epoch}; the training diverges: "
                f"use a learning rate below {self.fit.optimizer.lr}."
            )
        running.zero_()
        self.history.append({"epoch": epoch, "step": step, "loss": mean})
        if watch is not None:
            self.history[-1] |= watch(self.model, self.history)


def _freeze_(model: nn.Module, patterns: tuple[str, ...], stack: ExitStack) -> None:
    names = parameter_names(model)
    for pattern in patterns:
        matching = [p for name, p in names.items() if fnmatchcase(name, pattern)]
        if not matching:
            raise InvalidInput(
                f"Expected frozen patterns that match a parameter, got {pattern!r}, which matches "
                f"none of {', '.join(list(names)[:8])}; correct the pattern."
            )
        for parameter in matching:
            stack.callback(parameter.requires_grad_, parameter.requires_grad)
            parameter.requires_grad = False
