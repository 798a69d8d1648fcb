"""How good a network is, on examples that it does not learn from."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from boxwood._internal.core.examples import Examples
from boxwood._internal.model.evaluation import evaluating
from boxwood._internal.train.losses import Loss
from boxwood.errors import InvalidInput

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
            restored afterwards.
        examples: with targets int64 [batch, ...]: of images, tokens or pixels; targets below zero
            are ignored, as torch's cross-entropy ignores -100.
        batch: number of examples at a time; use fewer if outputs are large. It changes memory, not
            the result.

    Raises:
        InvalidInput: there are no examples.

    Example:
        >>> from boxwood.data import InMemory
        >>> data = InMemory(torch.eye(3), torch.tensor([0, 1, 1]))
        >>> accuracy(nn.Identity(), data)
        Accuracy(correct=2, total=3)
    """
    correct = total = 0
    for outputs, targets in outputs_of(model, examples, batch):
        correct += int((outputs.argmax(1) == targets).sum())
        total += int((targets >= 0).sum())
    return Accuracy(correct, total)


@torch.no_grad()
def top_accuracy(model: nn.Module, examples: Examples, k: int, *, batch: int = _BATCH) -> Accuracy:
    """Count how often the target is among the ``k`` largest outputs (top-k), in evaluation mode.

    Equal outputs have the order of `torch.topk`.

    Args:
        model: outputs as for `accuracy`.
        examples: likewise.
        k: at least 1, at most the number of classes.
        batch: as for `accuracy`.

    Raises:
        InvalidInput: there are no examples, or ``k`` is out of range.

    Example:
        >>> from boxwood.data import InMemory
        >>> data = InMemory(torch.tensor([[0.5, 0.3, 0.2]] * 3), torch.arange(3))
        >>> top_accuracy(nn.Identity(), data, 2)
        Accuracy(correct=2, total=3)
    """
    correct = total = 0
    for outputs, targets in outputs_of(model, examples, batch):
        if not 1 <= k <= outputs.shape[1]:
            raise InvalidInput(
                f"Expected k from 1 to the {outputs.shape[1]} classes of the network, got {k}; "
                f"take a smaller one."
            )
        among = outputs.topk(k, 1).indices == targets.unsqueeze(1)
        correct += int(among.any(1).sum())
        total += int((targets >= 0).sum())
    return Accuracy(correct, total)


@torch.no_grad()
def accuracy_by_class(
    model: nn.Module, examples: Examples, classes: int, *, batch: int = _BATCH
) -> tuple[Accuracy, ...]:
    """Count right answers among the examples of each class: its recall.

    Args:
        model: outputs [batch, classes]; its training mode is restored afterwards.
        examples: with targets int64 [n] in [0, classes).
        classes: number of classes; one without examples has a total of 0.
        batch: as for `accuracy`.

    Raises:
        InvalidInput: there are no examples.

    Example:
        >>> from boxwood.data import InMemory
        >>> data = InMemory(torch.eye(3), torch.tensor([0, 1, 1]))
        >>> accuracy_by_class(nn.Identity(), data, 2)
        (Accuracy(correct=1, total=1), Accuracy(correct=1, total=2))
    """
    correct, total = torch.zeros(2, classes, dtype=torch.int64)
    for outputs, targets in outputs_of(model, examples, batch):
        right = outputs.argmax(1) == targets
        correct += torch.bincount(targets[right], minlength=classes).cpu()
        total += torch.bincount(targets, minlength=classes).cpu()
    return tuple(map(Accuracy, correct.tolist(), total.tolist()))


@torch.no_grad()
def mean_iou(model: nn.Module, examples: Examples, classes: int, *, batch: int = _BATCH) -> float:
    """Average over classes the overlap of prediction and truth: mean intersection over union.

    ``mean_c |said c and is c| / |said c or is c|``, over the classes that occur in the prediction
    or in the truth, and over all pixels of all examples together.

    Args:
        model: outputs [batch, classes, ...].
        examples: with targets as for `accuracy`.
        classes: how many there are.
        batch: as for `accuracy`.

    Returns:
        In [0, 1].

    Raises:
        InvalidInput: there are no examples.

    Example:
        >>> from boxwood.data import InMemory
        >>> data = InMemory(torch.eye(2)[None, :, [0, 0, 1]], torch.tensor([[0, 1, 1]]))
        >>> mean_iou(nn.Identity(), data, 2)
        0.5

    Source: Long, Shelhamer and Darrell (2015), section 5.
    """
    pairs = torch.zeros(classes * classes, dtype=torch.int64)
    for outputs, targets in outputs_of(model, examples, batch):
        counted = targets >= 0
        both = targets[counted] * classes + outputs.argmax(1)[counted]
        pairs += torch.bincount(both, minlength=len(pairs)).cpu()
    table = pairs.view(classes, classes)
    right = table.diagonal()
    either = table.sum(0) + table.sum(1) - right
    return float((right[either > 0] / either[either > 0]).mean())


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
        InvalidInput: there are no examples.

    Example:
        >>> from boxwood.data import InMemory
        >>> from boxwood.training import cross_entropy
        >>> data = InMemory(torch.eye(3), torch.tensor([0, 1, 1]))
        >>> found = evaluate(nn.Identity(), data, cross_entropy)
        >>> found.correct, round(found.loss, 4)
        (2, 0.8848)
    """
    correct, total, summed = 0, 0, 0.0
    for outputs, targets in outputs_of(model, examples, batch):
        counted = int((targets >= 0).sum())
        if not counted:  # the mean over nothing is no number
            continue
        correct += int((outputs.argmax(1) == targets).sum())
        summed += float(loss(outputs, targets)) * counted
        total += counted
    return Evaluation(correct, total, summed / total)


def outputs_of(
    model: nn.Module, examples: Examples, batch: int = _BATCH
) -> Iterator[tuple[Tensor, Tensor]]:
    """Outputs and targets of all examples, some at a time, in evaluation mode.

    Args:
        model: any network; its training mode is put back afterwards.
        examples: any.
        batch: how many at a time, fewer where outputs are large.

    Raises:
        BoxwoodError: there are no examples.
    """
    total = len(examples)
    if not total:
        raise InvalidInput("Expected examples to measure on, got none; give a non-empty split.")
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
