"""The training loop: in-memory batches, stateless order, resumable at any step."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from boxwood.core.errors import BoxwoodError
from boxwood.core.examples import Examples
from boxwood.core.masks import Masks
from boxwood.core.seeds import generator_for, seed_for
from boxwood.model.binding import MaskBinding
from boxwood.model.prunable import parameter_names
from boxwood.train.losses import Loss, add_l1_gradient_, cross_entropy
from boxwood.train.metrics import device_of
from boxwood.train.optimizers import Constant, Course, OptimizerSpec


@dataclass(frozen=True, kw_only=True)
class Fit:
    """One training: how long, with what, towards what.

    Args:
        epochs: passes over the training examples; the last batch of an epoch may be smaller.
        batch: examples per step.
        optimizer: `SGD` or `Adam`, with its L2 strength as ``weight_decay``.
        course: learning-rate course over the steps of this training.
        loss: outputs and targets to a scalar.
        l1: strength of the L1 penalty on the prunable weights; units of loss per unit of weight.
        frozen: patterns of parameters that do not learn, such as ``("conv*",)``.
        order: which of the seed's orders of examples (and dropout) to use.
    """

    epochs: int
    batch: int
    optimizer: OptimizerSpec
    course: Course = Constant()
    loss: Loss = cross_entropy
    l1: float = 0.0
    frozen: tuple[str, ...] = ()
    order: int = 0

    def __post_init__(self) -> None:
        if self.epochs < 0 or self.batch < 1:
            raise BoxwoodError(
                f"Expected epochs >= 0 and batch >= 1, got epochs={self.epochs}, "
                f"batch={self.batch}; correct them."
            )


@dataclass(frozen=True)
class Snapshot:
    """Where a training stands: enough to go on as if it had never stopped."""

    tensors: Mapping[str, Tensor]
    facts: Mapping[str, Any]


class Checkpoints(Protocol):
    """Where snapshots go; a runner keeps them on disk."""

    def load(self) -> Snapshot | None:
        """Return the last snapshot, if there is one."""
        ...

    def due(self) -> bool:
        """Say whether it is time for the next one."""
        ...

    def save(self, snapshot: Snapshot) -> None:
        """Keep a snapshot in place of the last."""
        ...


Progress = Callable[[int, int], None]
"""Told (done, all) after every step."""


def fit_(
    model: nn.Module,
    examples: Examples,
    fit: Fit,
    *,
    seed: int,
    masks: Masks | None = None,
    watch: Callable[[nn.Module], Mapping[str, float]] | None = None,
    checkpoints: Checkpoints | None = None,
    progress: Progress | None = None,
) -> list[dict[str, float]]:
    """Train a network in place.

    The order of examples in epoch e follows from (seed, ``fit.order``, e) alone, and dropout from
    (seed, ``fit.order``), so a resumed training is the undisturbed one, bit for bit (on the CPU,
    with the same number of threads).

    Args:
        model: trained in place; parameters outside ``masks`` stay zero.
        examples: what it learns from.
        fit: how.
        seed: root seed of the run.
        masks: bool tensors by parameter name; True keeps.
        watch: called after every epoch; what it returns is part of the history.
        checkpoints: where to resume from and to save to.
        progress: told after every step.

    Returns:
        One row per epoch: ``epoch``, mean training ``loss``, and what ``watch`` returned.

    Raises:
        BoxwoodError: the loss is no longer finite, a pattern of ``frozen`` matches nothing, or
            there are no examples.

    Example:
        >>> from boxwood.data.splits import InMemory
        >>> from boxwood.train.optimizers import SGD
        >>> net, data = nn.Linear(2, 2), InMemory(torch.eye(2), torch.tensor([0, 1]))
        >>> rows = fit_(net, data, Fit(epochs=2, batch=2, optimizer=SGD(lr=1.0)), seed=0)
        >>> rows[1]["loss"] < rows[0]["loss"]
        True
    """
    if not len(examples):
        raise BoxwoodError("Expected examples to train on, got none; give a non-empty split.")
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=[]))
        stack.callback(model.train, model.training)
        _freeze_(model, fit.frozen, stack)
        learning = [p for p in model.parameters() if p.requires_grad]
        if not learning:
            raise BoxwoodError(
                f"Expected parameters that learn, got a model in which frozen={fit.frozen} "
                f"matches all; freeze fewer."
            )
        optimizer = fit.optimizer.build(learning)
        torch.manual_seed(seed_for(seed, "dropout", fit.order))
        history: list[dict[str, float]] = []
        start = _resume_(model, optimizer, history, checkpoints)
        if masks:
            held = MaskBinding(model, optimizer, masks)
            stack.callback(held.detach)
        model.train()
        loop = _Loop(model, examples, fit, seed, optimizer, history)
        loop.run_(start, watch, checkpoints, progress)
    return history


@dataclass(frozen=True)
class _Loop:
    model: nn.Module
    examples: Examples
    fit: Fit
    seed: int
    optimizer: Optimizer
    history: list[dict[str, float]]

    def run_(
        self,
        start: tuple[int, float],
        watch: Callable[[nn.Module], Mapping[str, float]] | None,
        checkpoints: Checkpoints | None,
        progress: Progress | None,
    ) -> None:
        fit, model, optimizer = self.fit, self.model, self.optimizer
        count = len(self.examples)
        per_epoch = -(-count // fit.batch)
        steps = fit.epochs * per_epoch
        device = device_of(model)
        penalised = [p for p in model.parameters() if p.requires_grad and p.dim() > 1]
        step, summed = start
        # A tensor, so that nothing waits for the loss of a step before the next one starts.
        running = torch.tensor(summed, dtype=torch.float64, device=device)
        rate = fit.optimizer.lr
        while step < steps:
            epoch, first = divmod(step, per_epoch)
            shuffle = generator_for(self.seed, f"order/{fit.order}", epoch)
            batches = torch.randperm(count, generator=shuffle).split(fit.batch)
            for indices in batches[first:]:
                wanted = fit.optimizer.lr * fit.course(step, steps)
                if wanted != rate:
                    rate = wanted
                    for group in optimizer.param_groups:
                        group["lr"] = rate
                inputs, targets = self.examples.take(indices)
                optimizer.zero_grad(set_to_none=True)
                loss = fit.loss(model(inputs.to(device)), targets.to(device))
                loss.backward()
                add_l1_gradient_(penalised, fit.l1)
                optimizer.step()
                running += loss.detach()
                step += 1
                if progress is not None:
                    progress(step, steps)
                if step % per_epoch == 0:
                    self._close_epoch(epoch, running, per_epoch, watch)
                if checkpoints is not None and step < steps and checkpoints.due():
                    checkpoints.save(_snapshot(self, step, float(running)))

    def _close_epoch(
        self,
        epoch: int,
        running: Tensor,
        per_epoch: int,
        watch: Callable[[nn.Module], Mapping[str, float]] | None,
    ) -> None:
        mean = float(running) / per_epoch
        if not torch.isfinite(running):
            raise BoxwoodError(
                f"Expected a finite loss, got {mean} in epoch {epoch + 1}; the training diverges: "
                f"use a learning rate below {self.fit.optimizer.lr}."
            )
        running.zero_()
        row = {"epoch": epoch + 1, "loss": mean}
        if watch is not None:
            row |= watch(self.model)
        self.history.append(row)


def _freeze_(model: nn.Module, patterns: tuple[str, ...], stack: ExitStack) -> None:
    names = parameter_names(model)
    for pattern in patterns:
        matching = [p for name, p in names.items() if fnmatchcase(name, pattern)]
        if not matching:
            raise BoxwoodError(
                f"Expected frozen patterns that match a parameter, got {pattern!r}, which matches "
                f"none of {', '.join(list(names)[:8])}; correct the pattern."
            )
        for parameter in matching:
            stack.callback(parameter.requires_grad_, parameter.requires_grad)
            parameter.requires_grad = False


def _snapshot(loop: _Loop, step: int, summed: float) -> Snapshot:
    tensors = {f"model/{name}": t for name, t in loop.model.state_dict().items()}
    numbers: dict[str, dict[str, Any]] = {}
    for index, memory in loop.optimizer.state_dict()["state"].items():
        for key, value in memory.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer/{index}/{key}"] = value
            else:
                numbers.setdefault(str(index), {})[key] = value
    tensors["random"] = torch.get_rng_state()
    facts = {"step": step, "summed": summed, "numbers": numbers, "history": list(loop.history)}
    return Snapshot(tensors, facts)


def _resume_(
    model: nn.Module,
    optimizer: Optimizer,
    history: list[dict[str, float]],
    checkpoints: Checkpoints | None,
) -> tuple[int, float]:
    """Put model, optimizer, history and random numbers where the last snapshot left them."""
    snapshot = None if checkpoints is None else checkpoints.load()
    if snapshot is None:
        return 0, 0.0
    kinds = ("model/", "optimizer/")
    parts = {
        kind: {n.removeprefix(kind): t for n, t in snapshot.tensors.items() if n.startswith(kind)}
        for kind in kinds
    }
    model.load_state_dict(parts["model/"])
    memory: dict[int, dict[str, Any]] = {
        int(index): dict(numbers) for index, numbers in snapshot.facts["numbers"].items()
    }
    for name, tensor in parts["optimizer/"].items():
        index, _, key = name.partition("/")
        memory.setdefault(int(index), {})[key] = tensor
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": memory, "param_groups": groups})
    torch.set_rng_state(snapshot.tensors["random"])
    history.extend(snapshot.facts["history"])
    return snapshot.facts["step"], snapshot.facts["summed"]
