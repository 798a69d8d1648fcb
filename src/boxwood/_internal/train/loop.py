"""The training loop: in-memory batches, stateless order, resumable at any step."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from boxwood._internal.core.chance import seeded_policy
from boxwood._internal.core.examples import Examples, InBatches
from boxwood._internal.core.generators import devices_of, own_random_numbers
from boxwood._internal.core.masks import Masks
from boxwood._internal.core.seeds import generator_for, seed_for
from boxwood._internal.model.binding import MaskBinding
from boxwood._internal.model.prunable import parameter_names
from boxwood._internal.model.sparse_training import SparseTraining, warn_if_unfinished
from boxwood._internal.train.losses import add_l1_gradient_, limit_norms_
from boxwood._internal.train.metrics import device_of
from boxwood._internal.train.settings import Training, Window
from boxwood._internal.train.snapshots import Checkpoints, resume_, take
from boxwood._internal.train.stateful_batches import places, reader
from boxwood.errors import InvalidInput, TrainingDiverged

Teach = Callable[[int, Tensor, Tensor, Tensor], Any]
"""Step, indices of the batch, inputs as the network sees them, and labels, to what the loss takes."""


Row = dict[str, float]
"""Of a history: ``epoch`` and ``step`` reached, mean training ``loss`` since the row before."""


@dataclass(frozen=True)
class TrainingResult:
    """What a training leaves beside the network: its history, and the masks at its end."""

    history: list[Row]
    masks: dict[str, Tensor]


Watch = Callable[[nn.Module, Sequence[Row]], Mapping[str, float]]
"""Told the network and the history, whose last row it adds to."""

Progress = Callable[[int, int], None]
"""Told (done, all) after every step."""


def train_(
    model: nn.Module,
    examples: Examples,
    training: Training,
    *,
    seed: int,
    masks: Masks | None = None,
    teach: Teach | None = None,
    watch: Watch | None = None,
    memory: dict[str, Tensor] | None = None,
    checkpoints: Checkpoints | None = None,
    progress: Progress | None = None,
) -> TrainingResult:
    """Train a network in place.

    The order of examples in epoch e follows from (seed, ``training.shuffle_index``, e) alone, augmentation in
    step t from (seed, ``training.shuffle_index``, t), and dropout from (seed, ``training.shuffle_index``), so a resumed
    training is the undisturbed one, bit for bit (on the CPU, with the same number of threads);
    torch's own random numbers are left as they were.

    Args:
        model: trained in place; parameters outside ``masks`` stay zero.
        examples: what it learns from.
        training: how.
        seed: root seed of the run.
        masks: bool tensors by parameter name, True keeps; where ``training`` has a policy, those that
            it goes on from.
        teach: makes of each batch's labels what ``training.loss`` takes, such as a `Lesson`; the
            labels themselves by default.
        watch: called for every row; what it returns is part of the history.
        memory: tensors that ``watch`` keeps between rows, such as the best weights so far; they are
            part of every snapshot, and filled in place from the one resumed from.
        checkpoints: where to resume from and to save to.
        progress: told after every step.

    Returns:
        One row per epoch, or per ``training.watch_every`` steps, and one at the end (see `Row`); and
        the masks at the end.

    Raises:
        InvalidInput: the loss is no longer finite, a pattern of ``frozen`` matches nothing,
            there are no examples, or ``training`` has a teacher that nobody asks.

    Example:
        >>> from boxwood._internal.data.splits import InMemory
        >>> from boxwood._internal.train.optimizers import SGD
        >>> net, data = nn.Linear(2, 2), InMemory(torch.eye(2), torch.tensor([0, 1]))
        >>> done = train_(net, data, Training(epochs=2, batch=2, optimizer=SGD(lr=1.0)), seed=0)
        >>> done.history[1]["loss"] < done.history[0]["loss"]
        True
    """
    if not len(examples):
        raise InvalidInput("Expected examples to train on, got none; give a non-empty split.")
    if training.teacher is not None and teach is None:
        raise InvalidInput(
            "Expected the answers of the teacher that fit names, got teach=None; use a phase that "
            "asks teachers, such as Train, or give train_ a function that does."
        )
    with ExitStack() as stack:
        devices = devices_of((*model.parameters(), *model.buffers()))
        stack.enter_context(
            own_random_numbers(devices, seed=seed_for(seed, "dropout", training.shuffle_index))
        )
        stack.callback(model.train, model.training)
        _freeze_(model, training.frozen, stack)
        learning = [p for p in model.parameters() if p.requires_grad]
        if not learning:
            raise InvalidInput(
                f"Expected parameters that learn, got a model in which frozen={training.frozen} "
                f"matches all; freeze fewer."
            )
        optimizer = training.optimizer.build(learning)
        history, window = list[Row](), training.window(len(examples))
        memory = {} if memory is None else memory
        state, carried = dict[str, Tensor](), dict[str, Tensor]()
        start = resume_(model, optimizer, history, memory, state, carried, checkpoints)
        held: MaskBinding | SparseTraining | None = None
        if training.policy is not None:
            state = state or {**(masks or {}), "steps": torch.tensor(window.first)}
            held = SparseTraining(
                model,
                optimizer,
                seeded_policy(training.policy, seed),
                where=training.where,
                loss=training.loss if teach is None else None,
                batches=InBatches(examples, training.batch, training.evidence),
                state=state,
            )
            stack.callback(held.detach, early=True)
        elif masks:
            held = MaskBinding(model, optimizer, masks)
            stack.callback(held.detach)
        model.train()
        loop = _Loop(
            model, examples, training, window, seed, optimizer, history, memory, held, teach
        )
        loop.run_(start or (window.first, 0.0), carried, watch, checkpoints, progress)
        if isinstance(held, SparseTraining) and window.last == window.steps:
            warn_if_unfinished(held)
        return TrainingResult(history, {} if held is None else held.masks)


@dataclass(frozen=True)
class _Loop:
    model: nn.Module
    examples: Examples
    training: Training
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
        training, model, optimizer, window = self.training, self.model, self.optimizer, self.window
        every, device = training.watch_every or window.per_epoch, device_of(model)
        learning = [p for p in model.parameters() if p.requires_grad]
        matrices = [p for p in learning if p.dim() > 1]
        penalised = matrices if training.l1_on is None else list(training.l1_on(model).values())
        step, summed = start
        # A tensor, so that nothing waits for the loss of a step before the next one starts.
        running = torch.tensor(summed, dtype=torch.float64, device=device)
        rate = training.optimizer.lr
        while step < window.last:
            epoch, position = divmod(step, window.per_epoch)
            if not position:
                carried = {}
            for indices in self._batches(epoch)[position : position + window.last - step]:
                wanted = training.optimizer.lr * training.course(step, window.steps)
                if wanted != rate:
                    rate = wanted
                    for group in optimizer.param_groups:
                        group["lr"] = rate
                inputs, targets = self.examples.take(indices)
                if training.augment is not None:
                    chance = generator_for(self.seed, f"augment/{training.shuffle_index}", step)
                    inputs = training.augment(inputs, chance)
                if self.teach is not None:
                    targets = self.teach(step, indices, inputs, targets)
                optimizer.zero_grad(set_to_none=True)
                if training.stateful:
                    outputs, carried = reader(model).carry(inputs.to(device), carried)
                else:
                    outputs = model(inputs.to(device))
                loss = training.loss(outputs, targets.to(device))
                loss.backward()
                add_l1_gradient_(penalised, training.l1)
                if training.clip is not None:
                    nn.utils.clip_grad_norm_(learning, training.clip)
                optimizer.step()
                if training.max_norm is not None:
                    limit_norms_(matrices, training.max_norm)
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
        count, batch = len(self.examples), self.training.batch
        if self.training.stateful:
            return places(count, batch)
        shuffle = generator_for(self.seed, f"order/{self.training.shuffle_index}", epoch)
        order: tuple[Tensor, ...] = torch.randperm(count, generator=shuffle).split(batch)
        return order

    def _close_row(self, step: int, running: Tensor, steps: int, watch: Watch | None) -> None:
        mean, epoch = float(running) / steps, (step - 1) // self.window.per_epoch + 1
        if not torch.isfinite(running):
            raise TrainingDiverged(
                f"Expected a finite loss, got {mean} in epoch {epoch}; the training diverges: "
                f"use a learning rate below {self.training.optimizer.lr}."
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
