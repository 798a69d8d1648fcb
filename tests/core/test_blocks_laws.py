"""Blocks pool and spread by rectangles, and the engine finds them again."""

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from boxwood._internal.core.blocks import Blocks
from boxwood._internal.core.selection import select
from boxwood.errors import BoxwoodError

shapes = (
    st.tuples(st.integers(1, 9))
    | st.tuples(st.integers(1, 12), st.integers(1, 12))
    | st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 3), st.integers(1, 3))
)
sizes = st.builds(Blocks, st.integers(1, 5), st.integers(1, 5))


def parts(tensor: Tensor, blocks: Blocks) -> dict[tuple[int, ...], Tensor]:
    """Cut a tensor by loops: blocks by their place, at each position of a kernel by itself."""
    whole = tensor if tensor.dim() > 1 else tensor[:, None]
    found = {}
    for i, j in product(
        range(0, whole.shape[0], blocks.rows), range(0, whole.shape[1], blocks.columns)
    ):
        for place in product(*map(range, whole.shape[2:])):
            part = whole[(slice(i, i + blocks.rows), slice(j, j + blocks.columns), *place)]
            found[(i // blocks.rows, j // blocks.columns, *place)] = part
    return found


@settings(deadline=None)
@given(shapes, sizes)
def test_mean_of_each_block(shape, blocks):
    """A pooled score is the mean of the scores in its block, smaller ones at the edge included."""
    scores = torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    before, pooled, found = scores.clone(), blocks.pool(scores), parts(scores, blocks)
    assert pooled.numel() == len(found)
    for place, part in found.items():
        torch.testing.assert_close(pooled[place], part.mean())
    assert torch.equal(scores, before)


@settings(deadline=None)
@given(shapes, sizes)
def test_alive_where_anything_is(shape, blocks):
    """A block is alive as long as one of its weights is."""
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(2)) < 0.2
    before, alive = mask.clone(), blocks.alive(mask)
    assert all(
        bool(alive[place]) == bool(part.any()) for place, part in parts(mask, blocks).items()
    )
    assert torch.equal(mask, before)


@settings(deadline=None)
@given(shapes, sizes)
def test_spread_then_alive(shape, blocks):
    """Decisions spread over weights are found again block by block."""
    size = blocks.pool(torch.ones(shape)).shape
    decisions = torch.rand(size, generator=torch.Generator().manual_seed(1)) < 0.5
    mask = blocks.spread(decisions, shape)
    assert mask.shape == shape
    assert mask.dtype == torch.bool
    for place, part in parts(mask, blocks).items():
        assert bool((part == decisions[place]).all())
    assert torch.equal(blocks.alive(mask), decisions)
    mask &= mask.clone()  # no two weights share a place in memory


@settings(deadline=None)
@given(shapes)
def test_single_weights(shape):
    """Blocks of 1 × 1 are single weights."""
    scores = torch.rand(shape)
    assert torch.equal(Blocks(1, 1).pool(scores).view(shape), scores)


def test_select_keeps_whole_blocks():
    """Selection by 8 × 1 blocks leaves whole columns of blocks, exactly as many as asked for."""
    torch.manual_seed(0)
    scores = {"w": torch.rand(32, 20)}
    mask = select(scores, {"w": 16}, Blocks(8, 1))["w"]
    columns = mask.unflatten(0, (4, 8))
    assert torch.equal(columns.any(1), columns.all(1))
    assert int(columns.all(1).sum()) == 16


def test_engine_finds_the_blocks():
    """The engine's cost model runs a matrix pruned in 8 × 1 blocks as such blocks."""
    from boxwood._internal.engine.kernels.packing import block_columns, usual_height
    from boxwood._internal.engine.targets import AVX2

    torch.manual_seed(0)
    weight = torch.randn(64, 50)
    mask = select({"w": weight.abs()}, {"w": 40}, Blocks(8, 1))["w"]
    pruned = (weight * mask).numpy()
    assert block_columns(pruned[None], 8) * 8 == np.count_nonzero(pruned)
    assert usual_height(pruned, AVX2) == 8


def test_empty_blocks():
    """Blocks without rows are refused."""
    with pytest.raises(BoxwoodError, match="Expected blocks of at least 1 × 1, got 0 × 1"):
        Blocks(0, 1)
