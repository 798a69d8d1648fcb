"""ResNets and VGGs for small images: those of the lottery ticket papers, and smaller ones."""

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from boxwood.errors import InvalidInput

_VGG_16 = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
_VGG_19 = ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4))


class ResidualBlock(nn.Module):
    """Two 3 × 3 convolutions with norms, around which the input is added.

    Where the shape changes, the input passes through a 1 × 1 convolution, ``project``.

    Example:
        >>> import torch
        >>> ResidualBlock(16, 32, stride=2)(torch.zeros(1, 16, 8, 8)).shape
        torch.Size([1, 32, 4, 4])

    Source: He et al., arXiv:1512.03385, 2015, section 4.2.
    """

    def __init__(self, inputs: int, width: int, *, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != width:
            self.shortcut = nn.Sequential(
                OrderedDict(
                    project=nn.Conv2d(inputs, width, 1, stride, bias=False),
                    norm=nn.BatchNorm2d(width),
                )
            )

    def forward(self, x: Tensor) -> Tensor:
        """Compute ``relu(F(x) + shortcut(x))``."""
        hidden = functional.relu(self.norm1(self.conv1(x)))
        return functional.relu(self.norm2(self.conv2(hidden)) + self.shortcut(x))


def resnet_20(*, channels: int = 3, classes: int = 10) -> nn.Sequential:
    """Build the 20-layer ResNet for CIFAR-10, which the lottery ticket paper calls ResNet-18.

    A convolution of 16 filters, three blocks of each of 16, 32 and 64, average pooling, one linear
    layer. 272,474 parameters; weights: 267,696 in 3 × 3 convolutions, named ``*conv*``, 2,560 in
    the shortcuts and 640 in the linear layer.

    Args:
        channels: colours of the images, which may have any size.
        classes: outputs.

    Example:
        >>> sum(p.numel() for p in resnet_20().parameters())
        272474

    Source: He et al., arXiv:1512.03385, 2015, section 4.2; Frankle and Carbin (2019), figure 2.
    Differs from the source: He et al. pad the shortcut with zeros; Frankle and Carbin count 2,560
    weights in it, as here.
    """
    return small_resnet(channels=channels, classes=classes, blocks=3)


def resnet_56(*, channels: int = 3, classes: int = 10) -> nn.Sequential:
    """Build the 56-layer ResNet for CIFAR-10: `resnet_20` with nine blocks in each stage.

    855,770 parameters.

    Args:
        channels: colours of the images, which may have any size.
        classes: outputs.

    Example:
        >>> sum(p.numel() for p in resnet_56().parameters())
        855770

    Source: He et al., arXiv:1512.03385, 2015, section 4.2.
    Differs from the source: as `resnet_20`.
    """
    return small_resnet(channels=channels, classes=classes, blocks=9)


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


def vgg_19(*, channels: int = 3, classes: int = 10) -> nn.Sequential:
    """Build VGG-19 for CIFAR-10, with batch norm and one linear layer after average pooling.

    20,035,018 parameters, of which 20,018,880 are weights of convolutions and 5,120 of the linear
    layer.

    Args:
        channels: colours of the images, whose size is a multiple of 16.
        classes: outputs.

    Example:
        >>> sum(p.numel() for p in vgg_19().parameters())
        20035018

    Source: Frankle and Carbin (2019), figure 2, after K. Simonyan, A. Zisserman, arXiv:1409.1556.
    """
    return _vgg(_VGG_19, channels, classes)


def cifar_vgg_16(*, channels: int = 3, classes: int = 10) -> nn.Sequential:
    """Build VGG-16 for CIFAR-10: 13 convolutions with batch norm and one linear layer.

    14,724,042 parameters.

    Args:
        channels: colours of the images, whose size is a multiple of 16.
        classes: outputs.

    Example:
        >>> sum(p.numel() for p in cifar_vgg_16().parameters())
        14724042

    Source: Li, Kadav, Durdanovic, Samet and Graf (2017), table 2, after K. Simonyan, A. Zisserman,
    arXiv:1409.1556.
    Differs from the paper: it has a second linear layer of 512 units.
    """
    return _vgg(_VGG_16, channels, classes)


def _vgg(stages: Sequence[tuple[int, int]], channels: int, classes: int) -> nn.Sequential:
    """Stages of (filters, convolutions), each but the first after pooling."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    inputs, index = channels, 0
    for stage, (width, depth) in enumerate(stages, 1):
        if stage > 1:
            layers[f"pool{stage - 1}"] = nn.MaxPool2d(2)
        for _ in range(depth):
            index += 1
            # The norm that follows takes the mean out, and a bias with it.
            layers[f"conv{index}"] = nn.Conv2d(inputs, width, 3, padding=1, bias=False)
            layers[f"norm{index}"] = nn.BatchNorm2d(width)
            layers[f"relu{index}"] = nn.ReLU()
            inputs = width
    return nn.Sequential(layers | _head(inputs, classes))


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
    return nn.Sequential(layers | _head(inputs, classes))


def _head(inputs: int, classes: int) -> OrderedDict[str, nn.Module]:
    """Layers after the last convolution: average pooling and one linear layer."""
    return OrderedDict(
        pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), fc=nn.Linear(inputs, classes)
    )
