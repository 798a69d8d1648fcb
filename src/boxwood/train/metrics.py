"""How good a network is, on examples that it does not learn from."""

from dataclasses import dataclass

import torch
from torch import nn

from boxwood.core.errors import BoxwoodError
from boxwood.core.examples import Examples
from boxwood.model.evaluation import evaluating

_BATCH = 1000


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


@torch.no_grad()
def accuracy(model: nn.Module, examples: Examples, *, batch: int = _BATCH) -> Accuracy:
    """Count how often the largest output is the target (top-1), in evaluation mode.

    Args:
        model: outputs [batch, classes]; its training mode is put back afterwards.
        examples: with targets int64 [batch].
        batch: how many at a time; it changes memory, not the result.

    Raises:
        BoxwoodError: there are no examples.

    Example:
        >>> from boxwood.data.splits import InMemory
        >>> data = InMemory(torch.eye(3), torch.tensor([0, 1, 1]))
        >>> accuracy(nn.Identity(), data)
        Accuracy(correct=2, total=3)
    """
    total = len(examples)
    if not total:
        raise BoxwoodError("Expected examples to measure on, got none; give a non-empty split.")
    device = device_of(model)
    correct = 0
    with evaluating(model):
        for indices in torch.arange(total).split(batch):
            inputs, targets = examples.take(indices)
            answers = model(inputs.to(device)).argmax(1)
            correct += int((answers == targets.to(device)).sum())
    return Accuracy(correct, total)


def device_of(model: nn.Module) -> torch.device:
    """Device of the first parameter; the CPU for a module without parameters.

    Example:
        >>> device_of(nn.Linear(1, 1)).type
        'cpu'
    """
    return next((p.device for p in model.parameters()), torch.device("cpu"))
