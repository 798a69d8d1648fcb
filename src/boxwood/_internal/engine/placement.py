"""How values are stored while a program runs: as torch's tensors, or laid out for kernels.

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

from boxwood._internal.engine.kernels.quads import quad_count
from boxwood._internal.engine.layouts import Planes, columns, padded, vector

VECTOR_TOKENS = 3
"""Up to this number of tokens, one matrix–vector product for each is faster."""

Shape = tuple[int, ...]
Halos = Mapping[tuple[int, int], int]


class Axes(enum.Enum):
    """What the axes of a tensor mean to a kernel."""

    IMAGES = enum.auto()
    TOKENS = enum.auto()


@dataclass(frozen=True)
class Placement:
    """A layout, the number of images in it, and what the tensor's axes are.

    Args:
        layout: of floats, or of words of four bytes.
        images: how many.
        axes: of the tensor.
        quads: whether the layout is of words, four channels in each.
    """

    layout: Planes
    images: int
    axes: Axes
    quads: bool = False

    @property
    def nbytes(self) -> int:
        """Bytes of a buffer for it."""
        return 4 * self.layout.size(self.images)


def placement_of(shape: Shape, axes: Axes, halos: Halos) -> Placement:
    """Return how a kernel wants a tensor of this shape to lie.

    Args:
        shape: [batch, channels, height, width] or [..., features].
        axes: what they are to the kernel.
        halos: for height and width, the zeros that any reader in the program needs.

    Example:
        >>> placement_of((1, 3, 8, 8), Axes.IMAGES, {(8, 8): 1}).layout.halo
        1
        >>> placement_of((2, 128, 768), Axes.TOKENS, {}).layout.shape
        (768, 1, 256)
    """
    if axes is Axes.IMAGES:
        batch, channels, height, width = shape
        if height == width == 1:
            return Placement(vector(channels), batch, axes)
        halo = halos.get((height, width), 0)
        return Placement(padded(channels, height, width, halo=halo), batch, axes)
    tokens = math.prod(shape[:-1])
    if tokens <= VECTOR_TOKENS:
        return Placement(vector(shape[-1]), tokens, axes)
    return Placement(columns(shape[-1], tokens), 1, axes)


def planes_of(shape: Shape, axes: Axes, halos: Halos, *, quads: bool) -> Placement:
    """Return how a kernel of bytes wants a tensor to lie: never as a vector.

    Args:
        shape: as in `placement_of`.
        axes: as in `placement_of`.
        halos: as in `placement_of`.
        quads: whether the values are bytes, four channels to a word.

    Example:
        >>> planes_of((1, 10), Axes.TOKENS, {}, quads=True).layout.shape
        (3, 1, 1)
    """
    if axes is Axes.IMAGES:
        batch, channels, height, width = shape
        channels = quad_count(channels) if quads else channels
        halo = halos.get((height, width), 0)
        return Placement(padded(channels, height, width, halo=halo), batch, axes, quads)
    features = quad_count(shape[-1]) if quads else shape[-1]
    return Placement(columns(features, math.prod(shape[:-1])), 1, axes, quads)


def strided_view(buffer: Tensor, start: int, placement: Placement, shape: Shape) -> Tensor:
    """Return the values in a buffer as torch's axes show them, without a copy.

    Args:
        buffer: flat float32.
        start: the value's first float in it.
        placement: how the value lies there.
        shape: the tensor's shape.
    """
    layout = placement.layout
    first = start + layout.origin
    if placement.axes is Axes.IMAGES:
        steps: Shape = (layout.image, layout.plane, layout.row_stride, 1)
        return torch.as_strided(buffer, shape, steps, first)
    token, feature = (1, layout.plane) if placement.images == 1 and layout.width > 1 else (
        layout.image, layout.plane,
    )  # fmt: skip
    steps = tuple(token * math.prod(shape[axis + 1 : -1]) for axis in range(len(shape) - 1))
    return torch.as_strided(buffer, shape, (*steps, feature), first)
