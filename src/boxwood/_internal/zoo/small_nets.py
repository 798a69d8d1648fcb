"""A network in the manner of VGG that a CPU trains in seconds."""

from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

from boxwood._internal.zoo.cifar_nets import head
from boxwood.errors import InvalidInput


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
        InvalidInput: the widths do not come in pairs.

    Example:
        >>> sum(p.numel() for p in small_vgg().parameters())
        16794
    """
    if not widths or len(widths) % 2:
        raise InvalidInput(
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
    return nn.Sequential(layers | head(inputs, classes))
