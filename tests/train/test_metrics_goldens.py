"""Accuracy and loss on targets of any shape, by hand."""

import torch
from torch import nn

from boxwood._internal.data.splits import InMemory
from boxwood._internal.train.losses import cross_entropy
from boxwood._internal.train.metrics import accuracy, evaluate, mean_iou


def test_every_target_counts_but_those_below_zero() -> None:
    """Of 2 x 3 tokens one is left out and three of five are right, in batches of any size."""
    certain = torch.zeros(2, 2, 3)
    certain[:, 1] = torch.tensor([[9.0, -9.0, 9.0], [-9.0, 9.0, 9.0]])
    data = InMemory(certain, torch.tensor([[1, 1, -100], [0, 1, 0]]))
    for batch in (1, 2):
        found = accuracy(nn.Identity(), data, batch=batch)
        assert (found.correct, found.total) == (3, 5)


def test_the_mean_loss_is_over_targets_not_over_batches() -> None:
    """Batches with unequal numbers of counted targets weigh as much as they hold."""
    outputs = torch.randn(5, 4, 3, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([[0, -100, -100], [1, 2, 3], [3, 3, -100], [0, 0, 0], [2, -100, 1]])
    data = InMemory(outputs, targets)
    whole = evaluate(nn.Identity(), data, cross_entropy)
    parts = evaluate(nn.Identity(), data, cross_entropy, batch=2)
    assert abs(whole.loss - float(nn.functional.cross_entropy(outputs, targets))) < 1e-6
    assert abs(whole.loss - parts.loss) < 1e-6


def test_the_overlap_of_three_classes_by_hand() -> None:
    """IoU 1/3, 1/2 and none where a class neither is nor is said; left-out pixels do not count."""
    said = torch.tensor([[0, 0, 1, 1, 2]])
    outputs = nn.functional.one_hot(said, 4).movedim(2, 1).float()
    data = InMemory(outputs, torch.tensor([[0, 1, 1, -100, 0]]))
    # class 0: 1 of {0, 1, 4}; class 1: 1 of {1, 2}; class 2: 0 of {4}; class 3 does not occur
    assert abs(mean_iou(nn.Identity(), data, 4) - (1 / 3 + 1 / 2 + 0) / 3) < 1e-7
