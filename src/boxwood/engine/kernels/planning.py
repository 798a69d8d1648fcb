"""Plans: how a convolution is tiled and blocked. Every plan gives the same result."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from boxwood.engine.layouts import lines
from boxwood.engine.targets import Target


@dataclass(frozen=True)
class Plan:
    """How a convolution is run.

    Args:
        vectors: registers of positions per tile.
        block: columns (channel, row, column of the weight) per block.
        height: rows per row block: 1 skips single zeros, more skip zeros common to so many rows.
        gathered: whether the input of a block is copied to scratch before use.
        dense: whether zeros are kept.
        chunks: shares of rows per group.
    """

    vectors: int
    block: int
    height: int = 1
    gathered: bool = False
    dense: bool = False
    chunks: int = 1


def dense_tile(target: Target) -> tuple[int, int]:
    """Registers of positions and rows of a dense tile, so that sums and operands fit.

    Example:
        >>> from boxwood.engine.targets import AVX512
        >>> dense_tile(AVX512)
        (4, 6)
    """
    return (4, 6) if target.registers >= 32 else (3, 4)


def usual(
    *,
    columns: int,
    rows: int,
    span: int,
    groups: int,
    taps: int,
    density: float,
    target: Target,
    threads: int = 1,
) -> Plan:
    """The plan that is best on most layers; `costs` tries its neighbours where it matters.

    Args:
        columns: columns of a group's matrix.
        rows: rows of a group's matrix.
        span: positions of a plane.
        groups: groups of the convolution.
        taps: columns per channel.
        density: fraction of non-zeros.
        target: the family that runs it.
        threads: threads that shall have work.
    """
    # From 70 % of the weights on, two thirds of a cycle per weight saved on loads is worth more
    # than the zeros.
    dense = density > 0.7 and rows > 1
    vectors, height = dense_tile(target) if dense else (8, 1)
    height = min(height, rows)
    registers = lines(span) // target.lanes
    vectors = math.ceil(registers / math.ceil(registers / vectors))
    # Two thirds of the first cache for the block's input, the rest for weights and sums; sparser
    # weights reuse it less, so that longer blocks save more on sums than they cost.
    wide = 1.0 if density > 0.15 else 1.5 if density > 0.04 else 2.5
    room = int(wide * target.l1 * 2 // 3 / (vectors * target.lanes * 4))
    blocks = math.ceil(columns / max(room, 16))
    block = math.ceil(columns / blocks)
    tiles = math.ceil(registers / vectors)
    chunks = 1
    if threads > 1:
        chunks = max(1, math.ceil(3 * threads / (tiles * groups)))
    return Plan(
        vectors,
        block,
        height,
        gathered=taps > 1,
        dense=dense,
        chunks=min(chunks, max(1, rows // 16)),
    )


def neighbours(plan: Plan, target: Target) -> Iterator[Plan]:
    """Plans near one that are worth a measurement.

    Yields:
        The plan itself first.
    """
    yield plan
    for vectors in (plan.vectors - 1, plan.vectors + 1):
        if 1 <= vectors <= target.registers // (plan.height + 1):
            yield replace(plan, vectors=vectors)
    for factor in (0.7, 1.5):
        yield replace(plan, block=max(8, int(plan.block * factor)))
    yield replace(plan, gathered=not plan.gathered)
