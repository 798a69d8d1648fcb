"""An ordinary training script; what `boxwood compress` needs of it is the function at its end.

boxwood compress examples/compress.py:task --max-drop 1 --for macs --hours 0.05 --out small
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from boxwood.compression import Task


def loaders() -> tuple[DataLoader, DataLoader, DataLoader]:
    """Load handwritten digits: to train on, to decide with, and to be read once."""
    found = load_digits()
    images = torch.tensor(found.images, dtype=torch.float32)[:, None] / 16
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    digits = TensorDataset(images[order], torch.tensor(found.target)[order])
    parts = [
        torch.utils.data.Subset(digits, range(*each))
        for each in ((900,), (900, 1400), (1400, 1797))
    ]
    return tuple(
        DataLoader(each, batch_size=50, shuffle=not place) for place, each in enumerate(parts)
    )


def trained(train: DataLoader, epochs: int = 12) -> nn.Module:
    """Train a small convolutional network in a loop of its own."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
    for _ in range(epochs):
        for images, labels in train:
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(images), labels).backward()
            optimizer.step()
    return net


def task(epochs: int = 12) -> Task:
    """Say what is compressed, for which data."""
    train, validate, test = loaders()
    return Task(model=trained(train, epochs), train=train, validate=validate, test=test)
