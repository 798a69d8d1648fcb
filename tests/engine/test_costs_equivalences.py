"""Plans are chosen by measured rates and by timing, and choices are remembered."""

import numpy as np
import pytest

from boxwood._internal.engine import costs
from boxwood._internal.engine.kernels import conv
from boxwood._internal.engine.kernels.conv import Conv
from boxwood._internal.engine.kernels.packing import Rates, block_columns, neighbours, usual_height
from boxwood._internal.engine.layouts import padded
from boxwood._internal.engine.llvm.cache import ObjectCache
from boxwood._internal.engine.targets import AVX2, AVX512, NEON, host

pytest.importorskip("llvmlite")


def sparse(shape, sparsity, height=1):
    rng = np.random.default_rng(0)
    blocks = rng.random((-(-shape[0] // height), int(np.prod(shape[1:])))) >= sparsity
    mask = np.repeat(blocks, height, 0)[: shape[0]].reshape(shape)
    return np.where(mask, rng.standard_normal(shape, np.float32), np.float32(0))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache, and the user's own put aside."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    costs.rates.cache_clear()
    yield ObjectCache(tmp_path / "costs")
    costs.rates.cache_clear()


@pytest.mark.parametrize("target", [AVX2, AVX512, NEON])
def test_usual_plans(target):
    """Dense weights and weights pruned in blocks run in blocks of rows, sparse ones row by row."""
    problem = conv.linear(256, 96, 128)
    dense, single, blocks = (
        conv.usual_packing(problem, sparse(problem.weight_shape, sparsity, height), target)
        for sparsity, height in ((0.0, 1), (0.9, 1), (0.9, 8))
    )
    assert dense.height > 1
    assert single.height == 1
    assert blocks.height in {4, 8}


@pytest.mark.parametrize("target", [AVX2, AVX512, NEON])
@pytest.mark.parametrize("sparsity", [0.0, 0.9])
def test_plans_fit_the_registers(target, sparsity):
    """Sums and operands of every plan near the usual one fit the vector registers."""
    problem = Conv(padded(64, 14, 14, halo=1), padded(64, 14, 14), (3, 3), padding=(1, 1))
    usual = conv.usual_packing(problem, sparse(problem.weight_shape, sparsity), target)
    for packing in neighbours(usual, target):
        operands = packing.vectors if packing.height > 1 else 1
        assert packing.vectors * packing.height + operands < target.registers


def test_threads_find_work():
    """A plane of a single tile is shared by rows, so that four threads have work."""
    problem = conv.linear(64, 256, 16)
    weight = sparse(problem.weight_shape, 0.9)
    assert conv.build(problem, weight, None, AVX512, threads=4).units >= 4
    assert conv.build(problem, weight, None, AVX512, threads=1).units == 1


def test_block_columns_by_hand():
    """Two rows share a column, the third has its own: two or three columns of blocks."""
    matrix = np.array([[[1, 0], [2, 0], [0, 3]]], np.float32)
    assert [block_columns(matrix, height) for height in (1, 2, 3)] == [3, 2, 2]


def test_heights_of_matrices():
    """Matrices pruned in blocks run in blocks; very sparse single weights run alone."""
    assert usual_height(sparse((512, 512), 0.9, 8), AVX512) == 8
    assert usual_height(sparse((512, 512), 0.9, 16), AVX512) == 16
    assert usual_height(sparse((512, 512), 0.98), AVX512) == 1


def test_rates_are_measured_once(cache, monkeypatch):
    """Rates are positive, and come from the cache the second time."""
    first = costs.rates(host(), cache)
    assert min(first.single, first.blocked, first.scalar, *first.column) > 0
    monkeypatch.setattr(costs, "measure_rates", None)
    costs.rates.cache_clear()
    assert costs.rates(host(), cache) == first


def test_damaged_rates_are_measured_again(cache, monkeypatch):
    """A damaged file counts as absent."""
    monkeypatch.setattr(costs, "measure_rates", lambda *_: Rates())
    costs.rates(host(), cache)
    (file,) = cache.folder.iterdir()
    file.write_bytes(file.read_bytes()[:-2])
    costs.rates.cache_clear()
    assert costs.rates(host(), cache) == Rates()


def test_choices_are_remembered(cache, monkeypatch):
    """The first choice is timed among plans that build; the second is read."""
    monkeypatch.setattr(costs, "measure_rates", lambda *_: Rates())
    problem = conv.linear(64, 48, 40)
    weight = sparse(problem.weight_shape, 0.5)
    packing = costs.choose_packing(problem, weight, host(), cache=cache)
    assert packing is not None
    conv.build(problem, weight, None, host(), packing=packing)
    monkeypatch.setattr(costs, "least_seconds", None)
    assert costs.choose_packing(problem, weight, host(), cache=cache) == packing


def test_depthwise_has_one_plan(cache):
    """A depthwise convolution has nothing to choose."""
    layout = padded(4, 8, 8, halo=1)
    problem = Conv(layout, layout, (3, 3), padding=(1, 1), groups=4)
    assert costs.choose_packing(problem, sparse((4, 1, 3, 3), 0.0), host(), cache=cache) is None
