"""How good a network is, on examples that it does not learn from."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from boxwood.core.errors import BoxwoodError
from boxwood.core.examples import Examples
from boxwood.model.evaluation import evaluating
from boxwood.train.losses import Loss

_BATCH = 1000
_OUTPUTS = 2**24
"""Numbers that a network may say about one batch: 64 MiB. About a word it says its vocabulary."""


@dataclass(frozen=True)
class Accuracy:
    """Right answers out of all answers.

    Example:
        >>> Accuracy(correct=9, total=10).fraction
        0.9
    """

    correct: int
    total: int

    @property
    def fraction(self) -> float:
        """Correct answers as a fraction of all, in [0, 1]."""
        return self.correct / self.total


@dataclass(frozen=True)
class Evaluation(Accuracy):
    """Right answers, and the mean loss."""

    loss: float


@torch.no_grad()
def accuracy(model: nn.Module, examples: Examples, *, batch: int = _BATCH) -> Accuracy:
    """Count how often the largest output is the target (top-1), in evaluation mode.

    Args:
        model: outputs [batch, classes, ...], one distribution per target; its training mode is
            put back afterwards.
        examples: with targets int64 [batch, ...]: of images, tokens or pixels; those below zero
            are left out, as torch's cross-entropy leaves out -100.
        batch: how many at a time, fewer where outputs are large; it changes memory, not the result.

    Raises:
        BoxwoodError: there are no examples.

    Example:
        >>> from boxwood.data.splits import InMemory
        >>> data = InMemory(torch.eye(3), torch.tensor([0, 1, 1]))
        >>> accuracy(nn.Identity(), data)
        Accuracy(correct=2, total=3)
    """
    correct = total = 0
    for outputs, targets in _outputs(model, examples, batch):
        correct += int((outputs.argmax(1) == targets).sum())
        total += int((targets >= 0).sum())
    return Accuracy(correct, total)


@torch.no_grad()
def accuracy_by_class(
    model: nn.Module, examples: Examples, classes: int, *, batch: int = _BATCH
) -> tuple[Accuracy, ...]:
    """Count right answers among the examples of each class: its recall.

    Args:
        model: outputs [batch, classes]; its training mode is put back afterwards.
        examples: with targets int64 [n] in [0, classes).
        classes: how many there are; one without examples has a total of 0.
        batch: as for `accuracy`.

    Raises:
        BoxwoodError: there are no examples.

    Example:
        >>> from boxwood.data.splits import InMemory
        >>> data = InMemory(torch.eye(3), torch.tensor([0, 1, 1]))
        >>> accuracy_by_class(nn.Identity(), data, 2)
        (Accuracy(correct=1, total=1), Accuracy(correct=1, total=2))
    """
    correct, total = torch.zeros(2, classes, dtype=torch.int64)
    for outputs, targets in _outputs(model, examples, batch):
        right = outputs.argmax(1) == targets
        correct += torch.bincount(targets[right], minlength=classes).cpu()
        total += torch.bincount(targets, minlength=classes).cpu()
    return tuple(map(Accuracy, correct.tolist(), total.tolist()))


@torch.no_grad()
def evaluate(
    model: nn.Module, examples: Examples, loss: Loss, *, batch: int = _BATCH
) -> Evaluation:
    """Count right answers and take the mean loss, in one pass and in evaluation mode.

    Args:
        model: outputs as for `accuracy`.
        examples: likewise.
        loss: a mean over the targets of a batch.
        batch: as for `accuracy`; it changes memory, and the loss in its last bits.

    Raises:
        BoxwoodError: there are no examples.

    Example:
        >>> from boxwood.data.splits import InMemory
        >>> from boxwood.train.losses import cross_entropy
        >>> data = InMemory(torch.eye(3), torch.tensor([0, 1, 1]))
        >>> found = evaluate(nn.Identity(), data, cross_entropy)
        >>> found.correct, round(found.loss, 4)
        (2, 0.8848)
    """
    correct, total, summed = 0, 0, 0.0
    for outputs, targets in _outputs(model, examples, batch):
        counted = int((targets >= 0).sum())
        if not counted:  # the mean over nothing is no number
            continue
        correct += int((outputs.argmax(1) == targets).sum())
        summed += float(loss(outputs, targets)) * counted
        total += counted
    return Evaluation(correct, total, summed / total)


def _outputs(model: nn.Module, examples: Examples, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Outputs and targets of all examples, some at a time."""
    total = len(examples)
    if not total:
        raise BoxwoodError("Expected examples to measure on, got none; give a non-empty split.")
    device = device_of(model)
    with evaluating(model):
        first, target = examples.take(torch.tensor([0]))
        if target.numel() > 1:
            batch = max(1, min(batch, _OUTPUTS // model(first.to(device)).numel()))
        for indices in torch.arange(total).split(batch):
            inputs, targets = examples.take(indices)
            yield model(inputs.to(device)), targets.to(device)


def device_of(model: nn.Module) -> torch.device:
    """Device of the first parameter; the CPU for a module without parameters.

    Example:
        >>> device_of(nn.Linear(1, 1)).type
        'cpu'
    """
    return next((p.device for p in model.parameters()), torch.device("cpu"))
