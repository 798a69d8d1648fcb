"""Networks that name the class of every pixel: FCN-32s, SegNet, and a small one."""

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

_VGG_16 = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
_STRIDE = 32  # of VGG-16 before its linear layers


def encoder_decoder(
    *, channels: int = 3, classes: int = 11, widths: Sequence[int] = (16, 32, 32)
) -> nn.Sequential:
    """Build a small encoder and decoder: pooling after each convolution, and all the way back.

    28,523 parameters with the defaults.

    Args:
        channels: colours of the images, whose size is a multiple of 4.
        classes: outputs for each pixel.
        widths: filters of the three convolutions of the encoder; the decoder mirrors the first two.

    Example:
        >>> net = encoder_decoder()
        >>> net(torch.zeros(1, 3, 32, 32)).shape, sum(p.numel() for p in net.parameters())
        (torch.Size([1, 11, 32, 32]), 28523)
    """
    first, second, third = widths
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    plan = ((channels, first, 1), (first, second, 0), (second, third, 0))
    for index, (inputs, width, whole) in enumerate(plan, 1):
        if not whole:
            layers[f"pool{index - 1}"] = nn.MaxPool2d(2)
        layers |= _convolution(str(index), inputs, width)
    for index, (inputs, width) in enumerate(((third, second), (second, first)), 4):
        layers[f"up{index - 3}"] = nn.Upsample(scale_factor=2)
        layers |= _convolution(str(index), inputs, width)
    layers["score"] = nn.Conv2d(first, classes, 1)
    return nn.Sequential(layers)


def _convolution(name: str, inputs: int, width: int) -> OrderedDict[str, nn.Module]:
    return OrderedDict(
        {
            f"conv{name}": nn.Conv2d(inputs, width, 3, padding=1, bias=False),
            f"norm{name}": nn.BatchNorm2d(width),
            f"relu{name}": nn.ReLU(),
        }
    )


class SegNet(nn.Module):
    """Encoder of VGG-16 with batch norm, and its mirror, which unpools to where maxima were.

    29,441,419 parameters with the defaults.

    Args:
        channels: colours of the images, whose size is a multiple of 32.
        classes: outputs for each pixel.
        width: filters of the first stage; the others are 2, 4, 8 and 8 times as many.

    Example:
        >>> SegNet(width=2)(torch.zeros(1, 3, 32, 32)).shape
        torch.Size([1, 11, 32, 32])

    Source: Badrinarayanan, Kendall and Cipolla, arXiv:1511.00561, section 3.
    """

    def __init__(self, *, channels: int = 3, classes: int = 11, width: int = 64) -> None:
        super().__init__()
        plan = [(filters * width // 64, depth) for filters, depth in _VGG_16]
        self.down = nn.ModuleList()
        inputs = channels
        for filters, depth in plan:
            self.down.append(_stage([inputs] + [filters] * depth))
            inputs = filters
        self.up = nn.ModuleList()
        for place in reversed(range(len(plan))):
            filters, depth = plan[place]
            into = plan[place - 1][0] if place else filters
            last = depth if place else depth - 1
            self.up.append(_stage([filters] * last + [into]))
        self.score = nn.Conv2d(plan[0][0], classes, 3, padding=1)
        self.pool = nn.MaxPool2d(2, return_indices=True)
        self.unpool = nn.MaxUnpool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        """Compute logits [batch, classes, height, width]."""
        places = []
        for stage in self.down:
            x, where = self.pool(stage(x))
            places.append(where)
        for stage in self.up:
            x = stage(self.unpool(x, places.pop()))
        scores: Tensor = self.score(x)
        return scores


def _stage(widths: Sequence[int]) -> nn.Sequential:
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for index, (inputs, width) in enumerate(pairwise(widths), 1):
        layers |= _convolution(str(index), inputs, width)
    return nn.Sequential(layers)


class FCN32s(nn.Module):
    """VGG-16 whose linear layers are convolutions, and one step back to the size of the image.

    136,152,917 parameters with the defaults.

    Args:
        channels: colours of the images.
        classes: outputs for each pixel, 21 for Pascal VOC.
        width: filters of the first stage; the others are 2, 4, 8 and 8 times as many.
        hidden: filters in the place of the two linear layers.
        margin: pixels of padding before the first convolution; 100 in the paper, so that images
            of any size survive the 7 × 7 convolution.

    Example:
        >>> FCN32s(width=2, hidden=8)(torch.zeros(1, 3, 40, 30)).shape
        torch.Size([1, 21, 40, 30])

    Source: Long, Shelhamer and Darrell, arXiv:1411.4038, section 4.
    Differs from the paper: the step back starts from bilinear weights and is learnt; its authors'
    code holds them fixed in FCN-32s.
    """

    def __init__(
        self,
        *,
        channels: int = 3,
        classes: int = 21,
        width: int = 64,
        hidden: int = 4096,
        margin: int = 100,
    ) -> None:
        super().__init__()
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        inputs, index, padding = channels, 0, margin
        for stage, (filters, depth) in enumerate(_VGG_16, 1):
            for _ in range(depth):
                index += 1
                wide = filters * width // 64
                layers[f"conv{index}"] = nn.Conv2d(inputs, wide, 3, padding=padding)
                layers[f"relu{index}"] = nn.ReLU()
                inputs, padding = wide, 1
            layers[f"pool{stage}"] = nn.MaxPool2d(2, ceil_mode=True)
        self.features = nn.Sequential(layers)
        self.head = nn.Sequential(
            OrderedDict(
                fc6=nn.Conv2d(inputs, hidden, 7),
                relu6=nn.ReLU(),
                drop6=nn.Dropout2d(),
                fc7=nn.Conv2d(hidden, hidden, 1),
                relu7=nn.ReLU(),
                drop7=nn.Dropout2d(),
                score=nn.Conv2d(hidden, classes, 1),
            )
        )
        self.up = nn.ConvTranspose2d(classes, classes, 2 * _STRIDE, _STRIDE, bias=False)
        with torch.no_grad():
            self.up.weight.zero_()
            for each in range(classes):
                self.up.weight[each, each] = _bilinear(2 * _STRIDE)

    def forward(self, x: Tensor) -> Tensor:
        """Compute logits [batch, classes, height, width]."""
        large: Tensor = self.up(self.head(self.features(x)))
        top = (large.shape[2] - x.shape[2]) // 2
        left = (large.shape[3] - x.shape[3]) // 2
        return large[:, :, top : top + x.shape[2], left : left + x.shape[3]]


def _bilinear(size: int) -> Tensor:
    ramp = 1 - (torch.arange(size) - (size - 1) / 2).abs() / (size / 2)
    return torch.outer(ramp, ramp)
