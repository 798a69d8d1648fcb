"""Where values lie while a program runs: as torch's tensors, or laid out for kernels.

A kernel sees images of channel planes. Three ways lead from torch's axes to them:

* images [batch, channels, height, width]: as they are;
* features last [..., features], many of them: one image whose channels are the features and whose
  single row holds all tokens;
* features last, few: one image for each token, a vector.
"""

import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from boxwood._internal.engine.layouts import Planes, columns, padded, vector

FEW = 3
"""Up to so many tokens, one matrix–vector product for each is the faster form."""

Shape = tuple[int, ...]
Halos = Mapping[tuple[int, int], int]


class Form(enum.Enum):
    """What the axes of a tensor are to the kernels."""

    IMAGES = enum.auto()
    TOKENS = enum.auto()


@dataclass(frozen=True)
class Place:
    """A layout, how many images of it, and how torch's axes map to it."""

    layout: Planes
    images: int
    form: Form

    @property
    def nbytes(self) -> int:
        """Bytes of a buffer for it."""
        return 4 * self.layout.size(self.images)


def place(shape: Shape, form: Form, halos: Halos) -> Place:
    """Return where a kernel wants a tensor of this shape.

    Args:
        shape: [batch, channels, height, width] or [..., features].
        form: what the axes are.
        halos: for height and width, the zeros that any reader in the program needs.

    Example:
        >>> place((1, 3, 8, 8), Form.IMAGES, {(8, 8): 1}).layout.halo
        1
        >>> place((2, 128, 768), Form.TOKENS, {}).layout.shape
        (768, 1, 256)
    """
    if form is Form.IMAGES:
        batch, channels, height, width = shape
        if height == width == 1:
            return Place(vector(channels), batch, form)
        halo = halos.get((height, width), 0)
        return Place(padded(channels, height, width, halo=halo), batch, form)
    tokens = math.prod(shape[:-1])
    if tokens <= FEW:
        return Place(vector(shape[-1]), tokens, form)
    return Place(columns(shape[-1], tokens), 1, form)


def strided(buffer: Tensor, start: int, where: Place, shape: Shape) -> Tensor:
    """Return the values in a buffer as torch's axes show them, without a copy.

    Args:
        buffer: flat float32.
        start: the place's first float in it.
        where: the place.
        shape: the tensor's shape.
    """
    layout = where.layout
    first = start + layout.origin
    if where.form is Form.IMAGES:
        steps: Shape = (layout.image, layout.plane, layout.row_stride, 1)
        return torch.as_strided(buffer, shape, steps, first)
    token, feature = (1, layout.plane) if where.images == 1 and layout.width > 1 else (
        layout.image, layout.plane,
    )  # fmt: skip
    steps = tuple(token * math.prod(shape[axis + 1 : -1]) for axis in range(len(shape) - 1))
    return torch.as_strided(buffer, shape, (*steps, feature), first)
