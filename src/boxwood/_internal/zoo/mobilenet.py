"""MobileNet-v1: separable convolutions, at any width."""

from collections import OrderedDict

from torch import nn

from boxwood.errors import InvalidInput

# Filters at width 1, and the stride of the depthwise convolution.
_BLOCKS = (
    (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1),
    (512, 1), (512, 1), (512, 1), (512, 1), (1024, 2), (1024, 1),
)  # fmt: skip


def mobilenet_v1(
    *, width: float = 1.0, channels: int = 3, classes: int = 1000, stride: int = 2
) -> nn.Sequential:
    """Build MobileNet-v1: a convolution, 13 pairs of a depthwise and a pointwise one, a linear layer.

    4,231,976 parameters at width 1 for 1,000 classes, 21,888 of them in norms. Images may have any
    size; at 28 pixels the last maps are 1 × 1, and 2 × 2 with ``stride=1``. What Zhu and Gupta
    prune are ``*.pointwise.weight`` and ``fc.weight``; the first convolution and the depthwise ones
    stay dense.

    Args:
        width: multiplies the filters of every convolution, rounded; above 0.
        channels: colours of the images.
        classes: outputs.
        stride: of the first convolution; 1 keeps more of small images.

    Raises:
        InvalidInput: the width leaves no filter.

    Example:
        >>> sum(p.numel() for p in mobilenet_v1().parameters())
        4231976

    Source: A. Howard et al., "MobileNets", arXiv:1704.04861, 2017, table 1.
    """
    stem = round(32 * width)
    if stem < 1:
        raise InvalidInput(
            f"Expected a width that leaves filters, got width={width}; the paper has 0.25 to 1."
        )
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv=nn.Conv2d(channels, stem, 3, stride, padding=1, bias=False),
        norm=nn.BatchNorm2d(stem),
        relu=nn.ReLU(),
    )
    inputs = stem
    for index, (filters, step) in enumerate(_BLOCKS, 1):
        layers[f"block{index}"] = _separable(inputs, round(filters * width), step)
        inputs = round(filters * width)
    layers |= OrderedDict(
        pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), fc=nn.Linear(inputs, classes)
    )
    return nn.Sequential(layers)


def _separable(inputs: int, filters: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            depthwise=nn.Conv2d(inputs, inputs, 3, stride, padding=1, groups=inputs, bias=False),
            norm1=nn.BatchNorm2d(inputs),
            relu1=nn.ReLU(),
            pointwise=nn.Conv2d(inputs, filters, 1, bias=False),
            norm2=nn.BatchNorm2d(filters),
            relu2=nn.ReLU(),
        )
    )
