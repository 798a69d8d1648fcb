"""A trained, pruned and retrained network, compiled, classifies every test image as before."""

import pytest
import torch
from torch import nn

pytest.importorskip("llvmlite")
pytest.importorskip("sklearn")

import boxwood
from boxwood._internal.data.digits import digits
from boxwood._internal.engine.compiling import compile as compile_
from boxwood._internal.engine.supported import supported_problems
from boxwood._internal.train.loop import train_


def test_a_compiled_network_keeps_its_accuracy_to_the_last_image() -> None:
    """In kernels alone and as chosen, with 90 % of the weights gone."""
    torch.manual_seed(0)
    data = digits()
    height, width = data.shape[-2:]
    net = nn.Sequential(
        nn.Unflatten(1, (1, height)) if len(data.shape) == 2 else nn.Identity(),
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1, stride=2), nn.ReLU(), nn.Flatten(),
        nn.Linear(32 * (height // 2) * (width // 2), 10),
    )  # fmt: skip
    settings = boxwood.training.Training(
        epochs=6, batch=60, optimizer=boxwood.optim.SGD(lr=0.05, momentum=0.9)
    )
    train_(net, data.train, settings, seed=0)
    masks = boxwood.find_masks(net, 0.9)
    train_(net, data.train, settings, seed=0, masks=masks)
    images, labels = data.test.take(torch.arange(len(data.test)))
    net.eval()
    with torch.no_grad():
        wanted = net(images).argmax(1)
    assert (wanted == labels).float().mean() > 0.9
    chosen = compile_(net, images[:1])
    kernels = chosen.with_native(frozenset(supported_problems(chosen.program, 1)))
    for fast in (chosen, kernels):
        assert torch.equal(fast(images).argmax(1), wanted)
