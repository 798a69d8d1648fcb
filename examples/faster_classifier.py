"""From a trained classifier to a file that serves it faster: train, compress, serve.

python examples/faster_classifier.py
"""

import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Subset, TensorDataset

import boxwood


def loaders() -> tuple[DataLoader, DataLoader, DataLoader]:
    """Handwritten digits of 16 × 16 pixels: to train on, to decide with, and to be read once."""
    found = load_digits()
    images = torch.tensor(found.images, dtype=torch.float32)[:, None] / 16
    images = functional.interpolate(images, scale_factor=2, mode="bilinear")
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    digits = TensorDataset(images[order], torch.tensor(found.target)[order])
    train, validate, test = range(900), range(900, 1400), range(1400, 1797)
    return (
        DataLoader(Subset(digits, train), 50, shuffle=True),
        DataLoader(Subset(digits, validate), 50),
        DataLoader(Subset(digits, test), 50),
    )


def trained(train: DataLoader, epochs: int) -> nn.Module:
    """Train a network in a loop that knows nothing of Boxwood."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(64, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(1024, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    for _ in range(epochs):
        for images, labels in train:
            optimizer.zero_grad()
            functional.cross_entropy(net(images), labels).backward()
            optimizer.step()
    return net.eval()


def compress(net: nn.Module, folder: Path, steps: int) -> boxwood.compression.Compressed:
    """Look for the fastest network that loses at most one point."""
    train, validate, test = loaders()
    return boxwood.compress(
        net,
        folder,
        train=train,
        validate=validate,
        test=test,
        max_drop=0.01,
        target="latency",
        steps=steps,
    )


def serve(folder: Path, callers: int = 4) -> float:
    """Answer requests from several threads with one session; return the accuracy."""
    session = boxwood.load(folder / "model.bxw")
    _, _, test = loaders()
    images, labels = (torch.cat(each) for each in zip(*test, strict=True))
    with ThreadPoolExecutor(callers) as pool:
        answers = list(pool.map(session, images.split(1)))
    return (torch.cat(answers).argmax(1) == labels).float().mean().item()


def main(epochs: int = 10, steps: int = 3000) -> float:
    """Return the accuracy as served."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "small"
        train, _, _ = loaders()
        print(compress(trained(train, epochs), folder, steps))
        print("Files:", *sorted(each.name for each in folder.iterdir()))
        accuracy = serve(folder)
    print(f"Served from 4 threads: {accuracy:.1%} of the test images are read correctly")
    return accuracy


if __name__ == "__main__":
    main()
