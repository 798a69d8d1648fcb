"""Tiles of positions, and where the input of a convolution's columns lies for them."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from boxwood._internal.engine.layouts import Planes, lines

Pair = tuple[int, int]


@dataclass(frozen=True)
class Tiling:
    """A plane's positions in tiles of ``vectors`` registers, later ones of one register fewer.

    Args:
        tiles: tiles of a plane.
        wide: the number of tiles that have all registers; they come first.
        vectors: registers of a wide tile.
        lanes: positions of a register.
    """

    tiles: int
    wide: int
    vectors: int
    lanes: int

    @property
    def nbytes(self) -> int:
        """Bytes of a wide tile of one column."""
        return 4 * self.lanes * self.vectors

    def bounds(self, tile: int) -> Pair:
        """First position of a tile, and the one after its last."""
        start = tile * self.vectors - max(0, tile - self.wide)
        width = self.vectors - (tile >= self.wide)
        return start * self.lanes, (start + width) * self.lanes


def tile(span: int, most: int, lanes: int) -> Tiling:
    """Split positions as evenly as can be.

    Example:
        >>> tile(16 * 10, 4, 16)
        Tiling(tiles=3, wide=1, vectors=4, lanes=16)
    """
    registers = lines(span) // lanes
    tiles = math.ceil(registers / most)
    vectors = math.ceil(registers / tiles)
    return Tiling(tiles, registers - tiles * (vectors - 1), vectors, lanes)


def column_offsets(
    source: Planes, channels: int, kernel: Pair, padding: Pair, dilation: Pair
) -> NDArray[np.int32]:
    """Bytes from the first value of the first plane to what each column reads at position 0.

    Example:
        >>> from boxwood._internal.engine.layouts import padded
        >>> column_offsets(padded(1, 4, 4, halo=1), 1, (1, 3), (0, 1), (1, 1)).tolist()
        [-4, 0, 4]
    """
    channel, row, column = np.indices((channels, *kernel)).reshape(3, -1)
    row = row * dilation[0] - padding[0]
    column = column * dilation[1] - padding[1]
    floats = channel * source.plane + row * source.row_stride + column
    return (4 * floats).astype(np.int32)


def runs(
    source: Planes, target: Planes, stride: Pair, tiling: Tiling
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """What gathering copies for each tile, when input rows do not lie as output rows do.

    Returns:
        Runs of values of one output row, (source bytes, scratch bytes, values) each, ascending;
        and the first run of each tile, with the number of runs at the end.
    """
    found: list[tuple[int, int, int]] = []
    starts = [0]
    for number in range(tiling.tiles):
        start, end = tiling.bounds(number)
        at = start
        while at < min(end, target.span):
            row, column = divmod(at, target.row_stride)
            length = min(target.width - column, end - at, tiling.lanes)
            if length <= 0:
                at = (row + 1) * target.row_stride
                continue
            place = row * stride[0] * source.row_stride + column * stride[1]
            found.append((4 * place, 4 * (at - start), length))
            at += length
        starts.append(len(found))
    return np.array(found, np.int32), np.array(starts, np.int32)
