"""The training loop: a stateless order of examples, resumable at any step."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from boxwood._internal.core.chance import seeded_policy
from boxwood._internal.core.examples import Examples, InBatches
from boxwood._internal.core.generators import devices_of, own_random_numbers
from boxwood._internal.core.masks import Masks
from boxwood._internal.core.seeds import generator_for, seed_for
from boxwood._internal.model.binding import MaskBinding
from boxwood._internal.model.prunable import parameter_names
from boxwood._internal.model.sparse_training import SparseTraining, warn_if_unfinished
from boxwood._internal.train.averaging import WeightAverage
from boxwood._internal.train.callbacks import Callbacks
from boxwood._internal.train.computation import add_gradients_
from boxwood._internal.train.loading import Batch, batches_of
from boxwood._internal.train.losses import add_l1_gradient_, limit_norms_
from boxwood._internal.train.metrics import device_of
from boxwood._internal.train.mixing import mix, partners_targets
from boxwood._internal.train.optimizers import SGD, Adam, AdamW
from boxwood._internal.train.settings import Regularisation, Training, Window
from boxwood._internal.train.snapshots import Row, TrainingState, resume_, take_snapshot
from boxwood._internal.train.stateful_batches import as_stateful, stateful_batches
from boxwood.errors import InvalidInput, TrainingDiverged

MakeTargets = Callable[[int, Tensor, Tensor, Tensor], Any]
"""Step, indices of the batch, inputs as the network sees them, and labels, to what the loss takes."""

Outputs = Callable[[Tensor], Any]
"""Inputs of a batch to outputs."""


@dataclass(frozen=True)
class TrainingResult:
    """The result of a training, in addition to the network.

    Args:
        history: a row per epoch, or per ``watch_every`` steps, and one at the end; see `Row`.
        masks: bool tensors by parameter name at the end, True keeps; empty if nothing is pruned.
        exploration: the fraction of weights that at least one mask of the policy kept; None without
            a policy.
    """

    history: list[Row]
    masks: dict[str, Tensor]
    exploration: float | None = None


def train_(
    model: nn.Module,
    examples: Examples,
    training: Training,
    *,
    seed: int,
    masks: Masks | None = None,
    make_targets: MakeTargets | None = None,
    callbacks: Callbacks | None = None,
) -> TrainingResult:
    """Train a network in place.

    With k the training's ``shuffle_index``, the order of examples in epoch e follows from (seed, k,
    e) alone, augmentation and mixing in step t from (seed, k, t), the transform of the i-th example
    of that step from (seed, k, t, i), and dropout from (seed, k). So a resumed training equals an
    uninterrupted one bit for bit (on the CPU, with the same number of threads). Torch's own random
    state is restored.

    Args:
        model: trained in place; weights that ``masks`` prunes stay zero.
        examples: what it learns from.
        training: how.
        seed: root seed of the run.
        masks: bool tensors by parameter name, True keeps; if the training has a policy, the masks
            that it starts from.
        make_targets: turns each batch's labels into the targets of the loss, such as
            `TeacherTargets`; the labels themselves by default.
        callbacks: functions that are called during the training.

    Returns:
        The history, and the masks at the end.

    Raises:
        InvalidInput: a pattern of ``frozen`` matches nothing or all, or there are no examples.
        TrainingDiverged: the loss is no longer finite.

    Example:
        >>> from boxwood.data import InMemory
        >>> from boxwood.optim import SGD
        >>> net, data = nn.Linear(2, 2), InMemory(torch.eye(2), torch.tensor([0, 1]))
        >>> done = train_(net, data, Training(epochs=2, batch=2, optimizer=SGD(lr=1.0)), seed=0)
        >>> done.history[1]["loss"] < done.history[0]["loss"]
        True
    """
    if not len(examples):
        raise InvalidInput("Expected examples to train on, got none; give a non-empty split.")
    callbacks = callbacks or Callbacks()
    with ExitStack() as stack:
        devices = devices_of((*model.parameters(), *model.buffers()))
        dropout = seed_for(seed, "dropout", training.shuffle_index)
        stack.enter_context(own_random_numbers(devices, seed=dropout))
        stack.callback(model.train, model.training)
        _freeze_(model, training.frozen, stack)
        learning = [p for p in model.parameters() if p.requires_grad]
        if not learning:
            raise InvalidInput(
                f"Expected parameters that learn, got a model in which frozen={training.frozen} "
                f"matches all; freeze fewer."
            )
        optimizer = training.optimizer.build(_groups(model, learning, training.regularisation))
        window = training.window(len(examples))
        state = TrainingState(window.first, memory=callbacks.memory)
        snapshot = None if callbacks.checkpoints is None else callbacks.checkpoints.load()
        if snapshot is not None:
            resume_(model, optimizer, state, snapshot)
        held: MaskBinding | SparseTraining | None = None
        if training.pruning is not None:
            start = {**(masks or {}), "steps": torch.tensor(window.first)}
            held = SparseTraining(
                model,
                optimizer,
                seeded_policy(training.pruning.policy, seed),
                layers=training.pruning.layers,
                loss=training.loss if make_targets is None else None,
                batches=InBatches(examples, training.batch, training.pruning.evidence),
                state=state.masks or start,
            )
            stack.callback(held.detach, early=True)
        elif masks:
            held = MaskBinding(model, optimizer, masks)
            stack.callback(held.detach)
        if held is not None:
            clipped = training.regularisation.max_gradient_norm is not None
            apart = type(training.optimizer) in (SGD, Adam, AdamW) and not clipped
            held.holding.lead(apart=apart)
        average = None
        if training.averaging is not None:
            average = WeightAverage(model, training.averaging, state.average)
        model.train()
        _Loop(
            model, examples, training, window, seed, optimizer, state, held, average, make_targets,
            callbacks,
        ).run_()  # fmt: skip
        if average is not None:
            average.hand_over_(examples, training.batch)
        if isinstance(held, SparseTraining) and window.last == window.steps:
            warn_if_unfinished(held)
        explored = held.exploration if isinstance(held, SparseTraining) else None
        return TrainingResult(state.history, {} if held is None else held.masks, explored)


@dataclass(frozen=True)
class _Loop:
    model: nn.Module
    examples: Examples
    training: Training
    window: Window
    seed: int
    optimizer: Optimizer
    state: TrainingState
    held: MaskBinding | SparseTraining | None
    average: WeightAverage | None
    make_targets: MakeTargets | None
    callbacks: Callbacks

    def run_(self) -> None:
        window, state, device = self.window, self.state, device_of(self.model)
        limits = _Limits.of(self.model, self.training.regularisation)
        every = self.training.watch_every or window.per_epoch
        outputs_of = self.training.computation.prepared(self.model)
        # A tensor, so that nothing waits for the loss of a step before the next one starts.
        loss_sum = torch.tensor(state.loss_sum, dtype=torch.float64, device=device)
        for batch in self._batches(device):
            if state.step % window.per_epoch == 0:
                state.network_state = {}
            loss_sum += self._step_(batch, outputs_of, limits, device)
            state.step += 1
            self._update_average_()
            if self.callbacks.progress is not None:
                self.callbacks.progress(state.step - window.first, window.last - window.first)
            if state.step % every == 0 or state.step == window.last:
                since = max(window.first, (state.step - 1) // every * every)
                self._close_row(loss_sum, state.step - since)
            self._save(loss_sum)

    def _step_(
        self, batch: Batch, outputs_of: Outputs, limits: "_Limits", device: torch.device
    ) -> Tensor:
        """Take one step of the optimizer, and return the loss before it."""
        training, optimizer, step = self.training, self.optimizer, self.state.step
        rate = training.optimizer.lr * training.optimizer.lr_schedule(step, self.window.steps)
        for group in optimizer.param_groups:
            group["lr"] = rate
        indices, inputs, labels = batch
        if training.augment is not None:
            inputs = training.augment(inputs, self._chance("augment"))
        share = 1.0
        if training.mixing:
            inputs, share = mix(training.mixing, inputs, self._chance("mixing"))
        targets = labels
        if self.make_targets is not None:
            targets = self.make_targets(step, indices, inputs, labels)
        both = [(share, targets)]
        if training.mixing:
            both.append((1 - share, partners_targets(targets)))
        optimizer.zero_grad(set_to_none=True)
        if training.stateful:
            outputs_of = self._stateful_outputs
        holding = None if self.held is None else self.held.holding
        if holding is not None:
            holding.before_reading()
        loss = add_gradients_(outputs_of, inputs, both, training.loss, training.computation, device)
        if holding is not None:
            holding.gradients_came()
        limits.gradients_()
        optimizer.step()
        limits.weights_()
        return loss

    def _stateful_outputs(self, inputs: Tensor) -> Any:
        network, state = as_stateful(self.model), self.state
        outputs, state.network_state = network.forward_with_state(inputs, state.network_state)
        return outputs

    def _chance(self, purpose: str) -> torch.Generator:
        return generator_for(self.seed, f"{purpose}/{self.training.shuffle_index}", self.state.step)

    def _batches(self, device: torch.device) -> Iterator[Batch]:
        return batches_of(
            self.examples,
            self._order(),
            self.training.loading,
            seed=self.seed,
            shuffle_index=self.training.shuffle_index,
            pinned=device.type == "cuda",
        )

    def _order(self) -> Iterator[tuple[int, Tensor]]:
        """The steps that are left, and the indices of their examples."""
        step, window = self.state.step, self.window
        while step < window.last:
            epoch, position = divmod(step, window.per_epoch)
            for indices in self._order_of(epoch)[position : position + window.last - step]:
                yield step, indices
                step += 1

    def _order_of(self, epoch: int) -> tuple[Tensor, ...]:
        count, batch = len(self.examples), self.training.batch
        if self.training.stateful:
            return stateful_batches(count, batch)
        shuffle = generator_for(self.seed, f"order/{self.training.shuffle_index}", epoch)
        order: tuple[Tensor, ...] = torch.randperm(count, generator=shuffle).split(batch)
        return order

    def _update_average_(self) -> None:
        if self.average is None:
            return
        step, window, held = self.state.step, self.window, self.held
        moved = isinstance(held, SparseTraining) and held.policy.due(step)
        masks = held.masks if held is not None and moved else None
        self.average.update_(step, window.steps, window.per_epoch, masks)

    def _averaged(self) -> AbstractContextManager[None]:
        """The context in which the network has the averaged weights, if there is an average."""
        if self.average is None:
            return nullcontext()
        return self.average.in_place(self.examples, self.training.batch)

    def _close_row(self, loss_sum: Tensor, steps: int) -> None:
        state = self.state
        mean, epoch = float(loss_sum) / steps, (state.step - 1) // self.window.per_epoch + 1
        if not torch.isfinite(loss_sum):
            raise TrainingDiverged(
                f"Expected a finite loss, got {mean} in epoch {epoch}; the training diverges: "
                f"use a learning rate below {self.training.optimizer.lr}."
            )
        loss_sum.zero_()
        state.history.append({"epoch": epoch, "step": state.step, "loss": mean})
        if self.callbacks.watch is not None:
            with self._averaged():
                state.history[-1] |= self.callbacks.watch(self.model, state.history)

    def _save(self, loss_sum: Tensor) -> None:
        state, checkpoints = self.state, self.callbacks.checkpoints
        if checkpoints is None or state.step == self.window.last or not checkpoints.due():
            return
        state.loss_sum = float(loss_sum)
        if isinstance(self.held, SparseTraining):
            state.masks = self.held.state_dict()
        checkpoints.save(take_snapshot(self.model, self.optimizer, state))


@dataclass(frozen=True)
class _Limits:
    """A regularisation and the parameters that it is about."""

    regularisation: Regularisation
    learning: list[nn.Parameter]
    matrices: list[nn.Parameter]
    penalised: list[nn.Parameter]

    @classmethod
    def of(cls, model: nn.Module, regularisation: Regularisation) -> "_Limits":
        learning = [p for p in model.parameters() if p.requires_grad]
        matrices = [p for p in learning if p.dim() > 1]
        layers = regularisation.l1_layers
        penalised = matrices if layers is None else list(layers(model).values())
        return cls(regularisation, learning, matrices, penalised)

    def gradients_(self) -> None:
        add_l1_gradient_(self.penalised, self.regularisation.l1)
        if self.regularisation.max_gradient_norm is not None:
            nn.utils.clip_grad_norm_(self.learning, self.regularisation.max_gradient_norm)

    def weights_(self) -> None:
        if self.regularisation.max_weight_norm is not None:
            limit_norms_(self.matrices, self.regularisation.max_weight_norm)


def _groups(
    model: nn.Module, learning: list[nn.Parameter], regularisation: Regularisation
) -> ParamsT:
    """Parameters as an optimizer takes them: those without weight decay in a group of their own."""
    if regularisation.decay_layers is None:
        return learning
    found = {id(parameter) for parameter in regularisation.decay_layers(model).values()}
    decaying = [p for p in learning if id(p) in found]
    rest = [p for p in learning if id(p) not in found]
    groups = ({"params": decaying}, {"params": rest, "weight_decay": 0.0})
    return [group for group in groups if group["params"]]


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
