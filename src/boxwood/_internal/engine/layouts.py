"""Layouts: where the value of channel c, row r, column w lies in a flat float32 buffer.

One layout serves convolution, linear layers and vectors. The planes of an image follow one
another; inside a plane, rows follow one another with a gutter of zeros between them, so that
the left neighbour of a row's first value and the right neighbour of the previous row's last
value are the same zero. A weight at (channel, dy, dx) is then one offset into the buffer,
whatever the position::

    address(n, c, r, w) = n · image + c · plane + origin + r · row_stride + w      (in floats)

Kernels leave the whole of every output plane defined: values at positions, zeros elsewhere.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from boxwood.errors import InvalidInput

Array = NDArray[np.float32]

FLOATS_PER_LINE = 16
"""Floats per cache line of 64 bytes; buffers start on a line."""


@dataclass(frozen=True)
class Planes:
    """Channel planes of one image; make one with `padded`, `columns`, `contiguous` or `vector`.

    Args:
        channels: planes per image.
        height: rows of a plane.
        width: values of a row.
        halo: rows and columns of zeros that readers may rely on around each plane.
        row_stride: floats from a row to the next, at least ``width + halo``.
        origin: floats from a plane's start to its first value.
        plane: floats from a plane to the next.
        image: floats from an image to the next.
    """

    channels: int
    height: int
    width: int
    halo: int
    row_stride: int
    origin: int
    plane: int
    image: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        return self.channels, self.height, self.width

    @property
    def span(self) -> int:
        """Floats from a plane's first value to the one after its last, gutters included."""
        return (self.height - 1) * self.row_stride + self.width

    @property
    def aligned(self) -> bool:
        """Every plane's first value starts a line, and whole lines may be written up to its end."""
        return (
            self.origin % FLOATS_PER_LINE == 0
            and self.plane % FLOATS_PER_LINE == 0
            and self.image % FLOATS_PER_LINE == 0
            and self.origin + lines(self.span) <= self.plane
        )

    @property
    def flat(self) -> "Planes":
        """The layout with a vector as the row of one plane; other layouts unchanged."""
        if self.plane != 1:
            return self
        return Planes(1, 1, self.channels, 0, self.channels, 0, self.image, self.image)

    def size(self, images: int = 1) -> int:
        """Floats of a buffer of a number of images; kernels touch nothing outside it."""
        return images * self.image

    def slice(self, start: int, stop: int) -> "Planes":
        """Channels ``start`` to ``stop`` in place: hand kernels base + 4 · start · plane bytes.

        Concatenation over channels is two producers writing two slices of one buffer.

        Example:
            >>> padded(8, 4, 4).slice(2, 6).shape
            (4, 4, 4)
        """
        if not 0 <= start < stop <= self.channels:
            raise InvalidInput(
                f"Expected a slice within {self.channels} channels, got {start} to {stop}; "
                "give 0 <= start < stop <= channels."
            )
        return Planes(
            stop - start,
            self.height,
            self.width,
            self.halo,
            self.row_stride,
            self.origin,
            self.plane,
            self.image,
        )

    def write_(self, buffer: Array, values: Array, around: np.float32 | int = 0) -> None:
        """Write values [images, channels, height, width] and zeros, or others, around them."""
        view = self.view(buffer, len(values))
        if view.shape != values.shape:
            raise InvalidInput(
                f"Expected values of shape {view.shape}, got {values.shape}; "
                "give [images, channels, height, width]."
            )
        buffer[: self.size(len(values))] = around
        view[...] = values

    def view(self, buffer: Array, images: int = 1) -> Array:
        """The values as a view [images, channels, height, width] of the buffer.

        Example:
            >>> layout = padded(1, 2, 2, halo=1)
            >>> buffer = np.zeros(layout.size(), np.float32)
            >>> layout.write_(buffer, np.ones((1, 1, 2, 2), np.float32))
            >>> int(layout.view(buffer).sum()), int(buffer.sum())
            (4, 4)
        """
        if buffer.dtype != np.float32 or buffer.ndim != 1 or len(buffer) < self.size(images):
            raise InvalidInput(
                f"Expected a flat float32 buffer of at least {self.size(images)} values, got "
                f"{buffer.dtype} of shape {buffer.shape}; allocate layout.size(images)."
            )
        return np.lib.stride_tricks.as_strided(
            buffer[self.origin :],
            (images, self.channels, self.height, self.width),
            tuple(4 * step for step in (self.image, self.plane, self.row_stride, 1)),
        )


def padded(
    channels: int, height: int, width: int, *, halo: int = 0, row_stride: int | None = None
) -> Planes:
    """Zero-padded planes with aligned first values: what convolutions read and write.

    Planes lie an odd number of lines apart, so that equal positions of neighbouring channels
    fall into different sets of the cache.

    Args:
        channels: planes per image.
        height: rows of a plane.
        width: values of a row.
        halo: zeros that readers may rely on around each plane (a convolution needs its padding).
        row_stride: floats from row to row; ``width + halo`` when None. A stride-1 convolution is
            fastest when its input and output share it.

    Example:
        >>> layout = padded(64, 14, 14, halo=1)
        >>> layout.row_stride, layout.origin, layout.plane // FLOATS_PER_LINE
        (15, 16, 17)
    """
    row_stride = width + halo if row_stride is None else row_stride
    if min(channels, height, width) < 1 or halo < 0 or row_stride < width + halo:
        raise InvalidInput(
            f"Expected positive sizes and row_stride >= width + halo, got {channels} × {height} × "
            f"{width}, halo {halo}, row_stride {row_stride}; enlarge row_stride."
        )
    border = halo * (row_stride + 1)
    origin = lines(border)
    span = (height - 1) * row_stride + width
    plane = origin + lines(span + border)
    if plane // FLOATS_PER_LINE % 2 == 0:
        plane += FLOATS_PER_LINE
    # A reader of the last plane may load whole lines at any offset within the halo.
    image = channels * plane + lines(border) + 2 * FLOATS_PER_LINE
    return Planes(channels, height, width, halo, row_stride, origin, plane, image)


def columns(features: int, tokens: int) -> Planes:
    """[features, tokens]: what linear layers over many tokens read and write.

    Example:
        >>> columns(768, 128).shape
        (768, 1, 128)
    """
    return padded(features, 1, tokens)


def contiguous(channels: int, height: int, width: int) -> Planes:
    """Torch's own layout, without a gap; only `copying` kernels take it.

    Example:
        >>> contiguous(3, 2, 2).size()
        12
    """
    area = height * width
    return Planes(channels, height, width, 0, width, 0, area, channels * area)


def vector(length: int) -> Planes:
    """One value per channel without a gap, rounded up to whole lines per image.

    Example:
        >>> vector(10).shape, vector(10).size()
        ((10, 1, 1), 16)
    """
    return Planes(length, 1, 1, 0, 1, 0, 1, lines(length))


def zeros(floats: int) -> Array:
    """Zeros that start on a cache line, as every kernel expects of its buffers.

    Example:
        >>> zeros(5).ctypes.data % 64
        0
    """
    raw = np.zeros(4 * floats + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + 4 * floats].view(np.float32)


def lines(floats: int) -> int:
    """A number of floats, rounded up to whole cache lines."""
    return math.ceil(floats / FLOATS_PER_LINE) * FLOATS_PER_LINE


def position_mask(layout: Planes, lanes: int) -> NDArray[np.uint8]:
    """Which positions of a plane's lines hold values: one bit each, for every vector of ``lanes``.

    A vector takes a byte for each eight of its lanes, and a whole byte when it has fewer.
    """
    position = np.arange(lines(layout.span))
    valid = (position % layout.row_stride < layout.width) & (position < layout.span)
    stored = np.zeros((len(position) // lanes, max(lanes, 8)), bool)
    stored[:, :lanes] = valid.reshape(-1, lanes)
    return np.packbits(stored.ravel(), bitorder="little")
