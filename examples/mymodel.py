"""Your own model and data in one file: `boxwood run examples/mymodel.py:recipe`."""

import torch
from torch import nn

from boxwood import Experiment
from boxwood.data import Splits, from_tensors
from boxwood.optim import SGD
from boxwood.recipes import dense, iterative
from boxwood.training import Training


def model() -> nn.Module:
    """Return the network; any module will do."""
    return nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 2))


def data() -> Splits:
    """Return the data; here, points inside and outside a ball."""
    points = torch.randn(3000, 20, generator=torch.Generator().manual_seed(0))
    inside = (points.norm(dim=1) < points.norm(dim=1).median()).long()
    train, test = (points[:2000], inside[:2000]), (points[2000:], inside[2000:])
    return from_tensors("ball", train, test, validation=500)


def recipe() -> Experiment:
    """Train, then prune and retrain in three rounds; the dense network trains as long in all."""
    train = Training(epochs=10, batch=50, optimizer=SGD(lr=0.1, momentum=0.9))
    retrain = Training(epochs=5, batch=50, optimizer=SGD(lr=0.01, momentum=0.9))
    pruned = iterative(train, retrain, (0.5, 0.75, 0.9))
    return Experiment(
        model=model,
        data=data,
        branches={"dense": dense(train, as_long_as=pruned), "pruned": pruned},
    )
