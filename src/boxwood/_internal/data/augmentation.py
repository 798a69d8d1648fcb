"""Random changes of training images that keep the class."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from boxwood._internal.core import spec
from boxwood.errors import InvalidInput


@dataclass(frozen=True, kw_only=True)
class FlipAndCrop:
    """Mirror half of the images left to right, and shift each by up to ``pad`` pixels.

    An image is padded on all sides and cropped back to its size at a random position. The random
    numbers are arguments of the call, so a training that passes those of its step repeats exactly.

    Args:
        pad: pixels on each side, at least 0.
        flip: whether images are mirrored.
        fill: the fill value at the border, in units of the inputs; None repeats the border pixels,
            so that a shifted image has no new values. With 0, the mean of standardised inputs, an
            image on a dark background gets a grey frame.

    Example:
        >>> row = torch.arange(3.0).reshape(1, 1, 1, 3)
        >>> shifted = FlipAndCrop(pad=1, flip=False)(row, torch.Generator().manual_seed(0))
        >>> shifted.shape
        torch.Size([1, 1, 1, 3])

    Source: He et al., arXiv:1512.03385, 2015, section 4.2.
    Differs from the paper: it pads with zeros, ``fill=0.0``.
    """

    pad: int = 4
    flip: bool = True
    fill: float | None = spec.field(None, legacy=0.0)

    def __post_init__(self) -> None:
        if self.pad < 0:
            raise InvalidInput(f"Expected pad >= 0 pixels, got {self.pad}; 0 shifts nothing.")

    def __call__(self, inputs: Tensor, chance: torch.Generator) -> Tensor:
        """Change a batch.

        Args:
            inputs: [batch, channels, height, width].
            chance: source of the random numbers.

        Raises:
            InvalidInput: the inputs are no images.
        """
        if inputs.dim() != 4:
            raise InvalidInput(
                f"Expected images [batch, channels, height, width] to flip and crop, got inputs "
                f"of shape {tuple(inputs.shape)}; train without augment."
            )
        count, _, height, width = inputs.shape
        mirrored = torch.rand(count, generator=chance) < 0.5
        top, left = torch.randint(2 * self.pad + 1, (2, count), generator=chance)
        rows = top[:, None] + torch.arange(height)
        columns = left[:, None] + torch.arange(width)
        if self.flip:
            columns = torch.where(mirrored[:, None], columns.flip(1), columns)
        mode, fill = ("replicate", None) if self.fill is None else ("constant", self.fill)
        padded = functional.pad(inputs, [self.pad] * 4, mode, fill).permute(0, 2, 3, 1)
        chosen = padded[torch.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]
        return chosen.permute(0, 3, 1, 2).contiguous()
