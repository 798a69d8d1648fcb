"""Retraining: the dense network teaches the smaller one, on the user's own batches."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from boxwood._internal.compress.scores import class_axis, floats_of, logits_of, run
from boxwood._internal.compress.task import Task, endlessly
from boxwood._internal.core.generators import devices_of, own_random_numbers
from boxwood._internal.core.masks import Masks
from boxwood._internal.distill.losses import soft_cross_entropy
from boxwood._internal.graph.examples import as_arguments, mapped, moved_to
from boxwood._internal.model.binding import MaskBinding
from boxwood.errors import TrainingDiverged

TEMPERATURE = 2.0
LABELS = 0.1
"""Weight of the labels' cross-entropy next to 1 - 0.1 of what the teacher says."""


@dataclass(frozen=True)
class Lesson:
    """One stretch of retraining, annealed by a cosine to 0.

    Args:
        steps: optimizer steps.
        rate: learning rate at the beginning, where the task has no optimizer of its own.
        seed: of the batches' order and of dropout.
    """

    steps: int
    rate: float
    seed: int = 0


def teach_(
    student: nn.Module,
    dense: nn.Module,
    task: Task,
    lesson: Lesson,
    masks: Masks | None = None,
    watch: Callable[[int], None] = lambda done: None,  # noqa: ARG005
) -> None:
    """Retrain a network by what the dense one returns, and by the labels where there are any.

    Where the outputs are logits of classes, the loss is that of Hinton et al. (2015),

        0.9 · T² · H(softmax(v / T), softmax(z / T)) + 0.1 · H(labels, softmax(z)),  T = 2,

    and without labels its first part with weight 1. Of other outputs it is their squared distance to
    the dense network's over the variance of those. A loss of the user's replaces the labels' part,
    with weight 1.

    Args:
        student: what learns; masked weights of it stay zero.
        dense: the teacher, in evaluation mode.
        task: batches, loss and optimizer.
        lesson: how long and how fast.
        masks: of the student.
        watch: called with the number of steps that are done.

    Raises:
        TrainingDiverged: the loss is not finite.

    Example:
        >>> dense = nn.Linear(4, 2)
        >>> student = nn.Linear(4, 2)
        >>> task = Task(model=dense, train=[torch.randn(32, 4)])
        >>> far = (student.weight - dense.weight).norm()
        >>> teach_(student, dense, task, Lesson(steps=50, rate=0.05))
        >>> bool((student.weight - dense.weight).norm() < far)
        True
    """
    make = task.optimizer or (lambda weights: torch.optim.Adam(weights, lr=lesson.rate))
    optimizer = make([each for each in student.parameters() if each.requires_grad])
    if masks:
        MaskBinding(student, optimizer, masks)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: (1 + math.cos(math.pi * step / lesson.steps)) / 2
    )
    devices = devices_of(student.parameters())
    with own_random_numbers(devices, seed=lesson.seed):
        batches: Iterator[Any] = endlessly(task.train)
        student.train()
        for step in range(lesson.steps):
            loss = loss_of(student, dense, task, next(batches))
            if not math.isfinite(value := float(loss.detach())):
                raise TrainingDiverged(
                    f"Expected a finite loss, got {value} after {step} steps of retraining; "
                    f"give an optimizer with a lower learning rate."
                )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            watch(step + 1)
    student.eval()


def loss_of(student: nn.Module, dense: nn.Module, task: Task, batch: Any) -> Tensor:
    """Return the loss that `teach_` states, on one batch.

    Example:
        >>> net = nn.Linear(4, 2)
        >>> bool(loss_of(net, net, Task(model=net, train=[torch.ones(1, 4)]), torch.ones(1, 4)) > 0)
        True
    """
    inputs, targets = task.split(batch)
    inputs = moved_to(student, inputs)
    with torch.no_grad():
        taught = run(dense, inputs)
    args, kwargs = as_arguments(inputs)
    output = student(*args, **kwargs)
    if targets is not None:
        device = next(student.parameters()).device
        targets = mapped(lambda each: each.to(device), targets)
    logits, theirs = logits_of(output), logits_of(taught)
    axis = class_axis(logits, targets)
    known = axis is not None and targets is not None
    of_labels = known and task.loss is None and task.train_step is None
    if axis is None or logits is None or theirs is None:
        loss = relative_distance(output, taught)
    else:
        rows = [each.movedim(axis, -1).reshape(-1, each.shape[axis]) for each in (logits, theirs)]
        loss = (1 - LABELS * of_labels) * soft_cross_entropy(rows[0], rows[1], TEMPERATURE)
        if of_labels:
            loss = loss + LABELS * functional.cross_entropy(rows[0], targets.reshape(-1))
    if task.train_step is not None:
        loss = loss + task.train_step(student, batch)
    elif task.loss is not None and targets is not None:
        loss = loss + task.loss(output, targets)
    return loss


def relative_distance(output: Any, dense: Any) -> Tensor:
    """Return the squared distance of outputs over the variance of the dense network's, averaged.

    Example:
        >>> relative_distance(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 3.0]]))
        tensor(0.5000)
    """
    parts = [
        functional.mse_loss(mine, theirs) / theirs.var(correction=0).clamp(min=1e-12)
        for mine, theirs in zip(floats_of(output), floats_of(dense), strict=True)
    ]
    return torch.stack(parts).mean()


def divergence(network: nn.Module, dense: nn.Module, batches: Iterable[Any]) -> float:
    """Measure how far a network's outputs are from the dense one's: nats, or relative distance.

    Of logits [N, C] it is the mean of ``KL(dense ‖ network)``.

    Args:
        network: what is measured.
        dense: the teacher.
        batches: inputs.

    Example:
        >>> net = nn.Linear(4, 2)
        >>> divergence(net, net, [torch.ones(1, 4)])
        0.0
    """
    total, count = 0.0, 0
    with torch.no_grad():
        for inputs in batches:
            output, theirs = run(network, inputs), run(dense, inputs)
            logits, taught = logits_of(output), logits_of(theirs)
            if class_axis(logits) is not None and logits is not None and taught is not None:
                apart = functional.kl_div(
                    logits.float().log_softmax(1), taught.float().log_softmax(1),
                    reduction="batchmean", log_target=True,
                )  # fmt: skip
            else:
                apart = relative_distance(output, theirs)
            total += max(0.0, float(apart))
            count += 1
    return total / max(count, 1)
