"""Tiles of dense matrix products on columns, for kernels that make other things of them at once."""

from collections.abc import Callable, Iterator

from boxwood._internal.engine.kernels.packing import dense_tile
from boxwood._internal.engine.llvm.build import Builder, lanes_of
from boxwood._internal.engine.targets import Target


def blocks(f: Builder, count: str, target: Target) -> Iterator[tuple[str, int]]:
    """Loop over full blocks of rows of a dense tile, then over single rows."""
    _, height = dense_tile(target)
    whole = f.sub(count, f.rem(count, height))
    with f.loop(0, whole, height) as row:
        yield row, height
    with f.loop(whole, count) as row:
        yield row, 1


def products(
    f: Builder,
    kind: str,
    rows: int,
    width: int,
    count: str,
    vectors: Callable[[str], str],
    scalars: Callable[[str, int], str],
    align: int,
) -> list[list[str]]:
    """``Σ_i scalar(i, row) · vector(i)`` for some rows: the tile of a dense matrix product."""
    size = 4 * lanes_of(kind)
    sums = [[f.variable(kind) for _ in range(width)] for _ in range(rows)]
    for row in sums:
        for sum_ in row:
            f.store(kind, "zeroinitializer", sum_)
    with f.loop(0, count) as i:
        base = vectors(i)
        loaded = [f.load(kind, f.offset(base, v * size), align) for v in range(width)]
        for lane, row in enumerate(sums):
            scalar = f.splat(kind, f.load("float", scalars(i, lane)))
            for v, sum_ in enumerate(row):
                f.store(kind, f.fma(kind, scalar, loaded[v], f.load(kind, sum_)), sum_)
    return [[f.load(kind, sum_) for sum_ in row] for row in sums]
