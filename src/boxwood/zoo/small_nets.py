"""Networks that a CPU trains in seconds, in the manner of VGG and ResNet."""

from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

from boxwood.core.errors import BoxwoodError
from boxwood.zoo.cifar_nets import ResidualBlock


def small_vgg(
    *, channels: int = 1, classes: int = 10, widths: Sequence[int] = (16, 16, 32, 32)
) -> nn.Sequential:
    """Build 3 × 3 convolutions with batch norm, pooling after every second, and one linear layer.

    16,794 parameters with the defaults.

    Args:
        channels: colours of the images, which may have any size from 4 pixels on.
        classes: outputs.
        widths: filters of each convolution, an even number of them.

    Raises:
        BoxwoodError: the widths do not come in pairs.

    Example:
        >>> sum(p.numel() for p in small_vgg().parameters())
        16794
    """
    if not widths or len(widths) % 2:
        raise BoxwoodError(
            f"Expected an even number of widths, got {tuple(widths)}; pooling follows every second."
        )
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    inputs = channels
    for index, width in enumerate(widths, 1):
        layers[f"conv{index}"] = nn.Conv2d(inputs, width, 3, padding=1, bias=False)
        layers[f"norm{index}"] = nn.BatchNorm2d(width)
        layers[f"relu{index}"] = nn.ReLU()
        if index % 2 == 0:
            layers[f"pool{index // 2}"] = nn.MaxPool2d(2)
        inputs = width
    return nn.Sequential(layers | _head(inputs, classes))


def small_resnet(
    *, channels: int = 1, classes: int = 10, widths: Sequence[int] = (16, 32, 64), blocks: int = 1
) -> nn.Sequential:
    """Build a ResNet for small images: a convolution, stages of residual blocks, a linear layer.

    With one block in each stage this is ResNet-8, of 77,754 parameters.

    Args:
        channels: colours of the images.
        classes: outputs.
        widths: filters of each stage; from the second stage on the first block halves the image.
        blocks: in each stage.

    Example:
        >>> sum(p.numel() for p in small_resnet().parameters())
        77754

    Source: He et al., arXiv:1512.03385, section 4.2, with n = 1.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv=nn.Conv2d(channels, widths[0], 3, padding=1, bias=False),
        norm=nn.BatchNorm2d(widths[0]),
        relu=nn.ReLU(),
    )
    inputs = widths[0]
    for stage, width in enumerate(widths, 1):
        for index in range(1, blocks + 1):
            stride = 2 if stage > 1 and index == 1 else 1
            layers[f"block{stage}_{index}"] = ResidualBlock(inputs, width, stride=stride)
            inputs = width
    return nn.Sequential(layers | _head(inputs, classes))


def _head(inputs: int, classes: int) -> OrderedDict[str, nn.Module]:
    return OrderedDict(
        pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), fc=nn.Linear(inputs, classes)
    )
