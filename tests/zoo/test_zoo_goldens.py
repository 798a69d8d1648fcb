"""Networks of the papers, against the counts that the papers print."""

import sys

import pytest
import torch
from torch import nn

from boxwood._internal.zoo.lenet import lenet_5, lenet_300_100
from boxwood._internal.zoo.torchvision_nets import alexnet, vgg_16
from boxwood.errors import BoxwoodError, MissingDependency

VGG_16 = [
    *(1_728, 36_864),
    *(73_728, 147_456),
    *(294_912, 589_824, 589_824),
    *(1_179_648, 2_359_296, 2_359_296),
    *(2_359_296, 2_359_296, 2_359_296),
    *(102_760_448, 16_777_216, 4_096_000),
]


def weights(net: nn.Module) -> dict[str, int]:
    return {n.removesuffix(".weight"): p.numel() for n, p in net.named_parameters() if p.dim() > 1}


def parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def test_lenet_300_100_counts() -> None:
    """Han et al. 2015: 235K, 30K and 1K weights; 266,610 parameters with biases."""
    net = lenet_300_100()
    assert weights(net) == {"fc1": 784 * 300, "fc2": 300 * 100, "fc3": 100 * 10}
    assert parameters(net) == 266_610


def test_lenet_5_counts() -> None:
    """Han et al. 2015: 0.5K, 25K, 400K and 5K weights; 431,080 parameters with biases."""
    net = lenet_5()
    assert weights(net) == {"conv1": 500, "conv2": 25_000, "fc1": 400_000, "fc2": 5_000}
    assert parameters(net) == 431_080


def test_lenet_5_layers_in_order() -> None:
    """Caffe's net has one ReLU, after fc1, and none after its convolutions."""
    assert [name for name, _ in lenet_5().named_children()] == [
        *("conv1", "pool1", "conv2", "pool2", "flatten", "fc1", "relu", "fc2")
    ]
    assert [name for name, _ in lenet_300_100().named_children()] == [
        *("flatten", "fc1", "relu1", "fc2", "relu2", "fc3")
    ]


@pytest.mark.parametrize("size", [*range(16, 34), 64])
def test_lenet_5_takes_every_size(size: int) -> None:
    """The first linear layer fits what pooling leaves, for every size from the smallest on."""
    net = lenet_5(size=size, channels=3, classes=7)
    assert net(torch.zeros(2, 3, size, size)).shape == (2, 7)


def test_lenet_5_refuses_small_images() -> None:
    """Below 16 pixels nothing is left after pooling; the message says the smallest size."""
    with pytest.raises(BoxwoodError, match=r"at least 16 pixels .*size=15; .*inputs=675"):
        lenet_5(size=15, channels=3)


def test_lenet_300_100_flattens() -> None:
    """Images of any shape with the right number of values are taken."""
    assert lenet_300_100(inputs=64, classes=3)(torch.zeros(5, 1, 8, 8)).shape == (5, 3)


def test_alexnet_counts() -> None:
    """The weights per layer are the ones the docstring compares with those of Han et al."""
    pytest.importorskip("torchvision")
    with torch.device("meta"):
        net = alexnet()
    assert list(weights(net).values()) == [
        *(23_232, 307_200, 663_552, 884_736, 589_824),
        *(37_748_736, 16_777_216, 4_096_000),
    ]
    assert parameters(net) == 61_100_840


def test_vgg_16_counts() -> None:
    """The weights per layer are those of Han et al. 2015, 138 M in all."""
    pytest.importorskip("torchvision")
    with torch.device("meta"):
        net = vgg_16()
    assert list(weights(net).values()) == VGG_16
    assert parameters(net) == 138_357_544


@pytest.mark.parametrize("build", [alexnet, vgg_16])
def test_settings_reach_torchvision(build) -> None:
    """The number of classes and the dropout rate are those asked for."""
    pytest.importorskip("torchvision")
    with torch.device("meta"):
        net = build(classes=7, dropout=0.25)
        assert net.eval()(torch.zeros(1, 3, 224, 224)).shape == (1, 7)
    assert [m.p for m in net.modules() if isinstance(m, nn.Dropout)] == [0.25, 0.25]


@pytest.mark.parametrize("build", [alexnet, vgg_16])
def test_without_torchvision(build, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without torchvision the message names the extra to install."""
    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    with pytest.raises(MissingDependency, match=r"torchvision .*pip install 'boxwood\[vision\]'"):
        build()
