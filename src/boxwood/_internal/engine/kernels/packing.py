"""How a product is tiled and blocked, and its weight packed. Every way gives the same result."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boxwood._internal.engine.layouts import lines
from boxwood._internal.engine.targets import Target


@dataclass(frozen=True)
class ConvPacking:
    """How a convolution is tiled and its weight packed.

    Args:
        vectors: registers of positions per tile.
        block: columns (channel, row, column of the weight) per block.
        height: rows per row block: 1 skips single zeros, more skip zeros that all of its rows have, and
            read each input once for all of them, which is fastest for dense weights.
        gathered: whether the input of a block is copied to scratch before use.
        chunks: shares of rows per group.
    """

    vectors: int
    block: int
    height: int = 1
    gathered: bool = False
    chunks: int = 1


@dataclass(frozen=True)
class Rates:
    """What work costs on a machine, in cycles of its multiply-add units or any other unit.

    Args:
        single: per non-zero and register of positions, when rows are taken one by one.
        blocked: per row of a row block's non-zero and register of positions.
        scalar: per non-zero of a matrix that multiplies one vector.
        column: per row block's non-zero column there, for the heights of `HEIGHTS`.
        bits: per entry there, zero or not, where each has a bit.
    """

    single: float = 0.90
    blocked: float = 0.62
    scalar: float = 1.15
    column: tuple[float, float] = (1.5, 2.4)
    bits: float = 0.125


HEIGHTS = (8, 16)
"""Rows per row block that matrix–vector kernels offer in addition to single rows."""

USUAL = Rates()

SMALLER = 0.85
"""How much slower bits and entries may be than the fastest way: they take the least memory."""

NEAR_BYTES, FAR_BYTES = 32.0, (16.0, 9.0)
"""Bytes a cycle from the second cache; from the third and from memory."""

CACHE_SHARES = ((0.3, 0.67), (0.15, 0.8), (0.07, 1.0), (0.0, 1.4))
"""From which density on, and what share of the first cache a column block's input may take."""


def dense_tile(target: Target) -> tuple[int, int]:
    """Registers of positions and rows of a dense tile, so that sums and operands fit.

    Example:
        >>> from boxwood._internal.engine.targets import AVX512
        >>> dense_tile(AVX512)
        (4, 6)
    """
    return (4, 6) if target.registers >= 32 else (3, 4)


def usual(
    matrix: NDArray[Any],
    span: int,
    taps: int,
    target: Target,
    *,
    threads: int = 1,
    rates: Rates | None = None,
) -> ConvPacking:
    """The packing that is best on most layers; `costs` tries its neighbours where it matters.

    Args:
        matrix: [groups, rows, columns] with zeros.
        span: positions of a plane.
        taps: columns per channel.
        target: the family that runs it.
        threads: threads that share the work.
        rates: what work costs.
    """
    rates = rates or USUAL
    groups, rows, columns = matrix.shape
    registers = lines(span) // target.lanes
    present = matrix != 0
    costs = []
    for height in sorted({1, min(dense_tile(target)[1], rows), min(8, rows)}):
        most = registers_per_tile(height, columns, target)
        tiles = math.ceil(registers / most)
        work = rates.single if height == 1 else rates.blocked * height
        each = work * registers + tiles * (4 * height + 2) / FAR_BYTES[0]
        filled = block_columns(present, height)
        costs.append((each * filled, height, most, filled))
    _, height, most, filled = min(costs)
    return blocked(
        ConvPacking(most, 0, height, gathered=taps > 1),
        density=filled * height / matrix.size,
        shape=(groups, rows, columns),
        span=span,
        target=target,
        threads=threads,
    )


def registers_per_tile(height: int, columns: int, target: Target) -> int:
    """The most registers of positions, so that sums and operands fit."""
    if height == 1:
        # Long rows are cut into column blocks, for which fewer registers leave more columns.
        return 8 if columns <= 96 else 6
    return max(1, min(dense_tile(target)[0], (target.registers - 2) // (height + 1)))


def blocked(
    packing: ConvPacking,
    *,
    density: float,
    shape: tuple[int, int, int],
    span: int,
    target: Target,
    threads: int,
) -> ConvPacking:
    """Fill in a packing's tiles, column blocks and chunks for its height and number of registers.

    Args:
        packing: the most vectors, and the height.
        density: fraction of the columns of row blocks that are not zero.
        shape: groups, rows and columns.
        span: positions of a plane.
        target: the family that runs it.
        threads: threads that share the work.
    """
    groups, rows, columns = shape
    registers = lines(span) // target.lanes
    tiles = math.ceil(registers / packing.vectors)
    vectors = math.ceil(registers / tiles)
    # The block's input shares the first cache with weights and sums. Sparser weights reuse it
    # less, so that longer blocks save more on sums than they cost.
    share = next(share for least, share in CACHE_SHARES if density >= least)
    room = int(share * target.l1 / (vectors * target.lanes * 4))
    block = math.ceil(columns / math.ceil(columns / max(room, 16)))
    chunks = math.ceil(3 * threads / (tiles * groups)) if threads > 1 else 1
    return replace(packing, vectors=vectors, block=block, chunks=min(chunks, max(1, rows // 16)))


def block_columns(matrix: NDArray[Any], height: int) -> int:
    """How many columns of blocks of ``height`` rows hold a non-zero.

    Example:
        >>> block_columns(np.eye(4, dtype=np.float32)[None], 2)
        4
    """
    if height == 1:
        return int(np.count_nonzero(matrix))
    present = matrix[:, ::height] != 0
    for lane in range(1, height):
        below = matrix[:, lane::height] != 0
        present[:, : below.shape[1]] |= below
    return int(np.count_nonzero(present))


def neighbours(packing: ConvPacking, target: Target) -> Iterator[ConvPacking]:
    """Packings near one that are worth a measurement, the packing itself first."""
    yield packing
    for factor in (0.7, 1.5):
        yield replace(packing, block=max(8, int(packing.block * factor)))
    if packing.vectors > 1 and packing.height == 1:
        yield replace(packing, vectors=packing.vectors - 1)
    if packing.height == 1 and packing.vectors < target.registers - 3:
        yield replace(packing, vectors=packing.vectors + 1)


def usual_height(weight: NDArray[np.float32], target: Target, rates: Rates | None = None) -> int:
    """Rows per row block of a matrix that multiplies one vector: what costs least."""
    return _cheapest_height(weight, target, rates or USUAL)[1]


def _cheapest_height(
    weight: NDArray[np.float32], target: Target, rates: Rates
) -> tuple[float, int]:
    """The least cycles of a product with one vector, and the rows per row block that take them.

    Each weight is used once, so that bytes count as much as work.
    """
    best = (math.inf, 1)
    present = weight[None] != 0
    for height, cost in ((1, rates.scalar), *zip(HEIGHTS, rates.column, strict=True)):
        entries = block_columns(present, height)
        cycles = max(cost * entries, _cycles(entries * (4 * height + 2), target))
        best = min(best, (cycles, height))
    return best


def prefers_bits(
    weight: NDArray[np.float32], entry_bytes: int, target: Target, rates: Rates | None = None
) -> bool:
    """Say whether a matrix that multiplies one vector is best kept as bits and entries.

    Args:
        weight: [rows, columns] with zeros.
        entry_bytes: bytes of an entry.
        target: the family that runs it.
        rates: what work costs.
    """
    rates = rates or USUAL
    nbytes = weight.size // 8 + entry_bytes * int(np.count_nonzero(weight))
    bits = max(rates.bits * weight.size, _cycles(nbytes, target))
    return SMALLER * bits <= _cheapest_height(weight, target, rates)[0]


def _cycles(nbytes: int, target: Target) -> float:
    """Cycles that reading a matrix takes, from the cache that it fits."""
    if nbytes <= target.l2 * 3 // 4:
        return nbytes / NEAR_BYTES
    return nbytes / FAR_BYTES[nbytes > 16 * target.l2]
