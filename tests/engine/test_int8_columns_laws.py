"""Columns of rows of bytes take six bits in fours, and come back as they were."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from boxwood._internal.engine.kernels import int8_build, int8_columns
from boxwood._internal.engine.kernels.conv import Conv
from boxwood._internal.engine.kernels.int8_build import Int8Packing
from boxwood._internal.engine.kernels.int8_conv import Int8Conv
from boxwood._internal.engine.kernels.packing import ConvPacking
from boxwood._internal.engine.kernels.quads import Quantisation, quad_count
from boxwood._internal.engine.layouts import columns, padded
from boxwood._internal.engine.packed_weights import PackedTensor
from boxwood._internal.engine.targets import AVX2, AVX512_VNNI
from boxwood._internal.engine.weight_streams import (
    StreamParts,
    concatenate,
    from_dense,
    to_dense,
)
from boxwood.errors import BoxwoodError


def matrix(rows, wide, share, seed):
    rng = np.random.default_rng(seed)
    weight = rng.integers(1, 1 << 30, (rows, wide)).astype(np.int32)
    return np.where(rng.random((rows, wide)) < share, weight, 0)


@given(
    st.integers(1, 20), st.integers(1, 400), st.sampled_from([0, 0.005, 0.02, 0.2, 1]),
    st.integers(1, 256), st.integers(1, 3), st.integers(1, 2), st.integers(0, 99),
)  # fmt: skip
def test_columns_come_back(rows, wide, share, block, chunks, groups, seed):
    """Whatever the rows, blocks, shares and groups; far columns have zeros between them."""
    parts = [matrix(rows, wide, share, seed + group) for group in range(groups)]
    reach = int8_columns.REACH
    stream = concatenate(
        [from_dense(part, block=block, chunks=chunks, reach=reach) for part in parts]
    )
    packed = int8_columns.packed(stream)
    assert packed.indices.dtype == np.uint8
    back = int8_columns.unpacked(packed.headers, packed.indices)
    np.testing.assert_array_equal(back, stream.indices)
    if groups == 1:
        np.testing.assert_array_equal(to_dense(stream), parts[0])
    counts = stream.headers["count"].astype(np.int64)
    assert len(packed.indices) == int8_columns.nbytes(counts).sum() + int8_columns.OVERRUN
    # Records say where the columns of each begin.
    for record in packed.records.ravel():
        first = record["headers"] // 4
        assert record["indices"] == int8_columns.nbytes(counts[:first]).sum()
    # As few zeros as reach allows.
    nonzero = sum(np.count_nonzero(part) for part in parts)
    assert nonzero <= len(stream.values) <= nonzero + groups * rows * wide / reach


def layer(outputs, inputs, size, kernel=1):
    halo = kernel // 2
    shape = Conv(
        padded(quad_count(inputs), size, size, halo=1), padded(quad_count(outputs), size, size, halo=1),
        (kernel, kernel), padding=(halo, halo),
    )  # fmt: skip
    return Int8Conv(shape, outputs, inputs, Quantisation(0.1, 0))


def linear(outputs, inputs, tokens):
    shape = Conv(columns(quad_count(inputs), tokens), columns(quad_count(outputs), tokens))
    return Int8Conv(shape, outputs, inputs, Quantisation(0.1, 0))


def in_blocks(problem, sparsity):
    """A weight of which exactly this share of blocks of four inputs is zero."""
    rng = np.random.default_rng(0)
    outputs, inputs, *kernel = problem.weight_shape
    weight = rng.choice([-3, -2, -1, 1, 2, 3], problem.weight_shape).astype(np.int8)
    kept = np.ones((outputs, inputs // 4, *kernel), bool)
    kept.reshape(-1)[rng.permutation(kept.size)[: round(sparsity * kept.size)]] = False
    return np.where(np.repeat(kept, 4, 1), weight, 0).astype(np.int8)


LAYERS = {
    "1x1, 1024 to 256": layer(256, 1024, 14),
    "1x1, 2048 to 512": layer(512, 2048, 7),
    "3x3, 256": layer(256, 256, 14, 3),
    "3x3, 512": layer(512, 512, 7, 3),
    "linear, 768 to 3072": linear(3072, 768, 128),
    "linear, 3072 to 768": linear(768, 3072, 128),
}


@pytest.mark.parametrize("name", LAYERS)
def test_packed_bytes(name):
    """At most 1.3 bytes for each weight that is not zero, with all tables up to 80 % of zeros.

    At 90 % the scale, bias and header of a row count double: there the matrix alone keeps to it.
    """
    for sparsity, parts in ((0.5, 12), (0.7, 12), (0.8, 12), (0.9, 4)):
        weight = in_blocks(LAYERS[name], sparsity)
        ones = np.ones((2, len(weight)), np.float32)
        kernel = int8_build.build(LAYERS[name], weight, ones, AVX512_VNNI)
        taken = sum(part.nbytes for part in kernel.constants[:parts])
        assert taken <= 1.3 * np.count_nonzero(weight), (sparsity, taken)


def stored(kernel):
    """What a file holds of a kernel's weight."""
    records, headers, indices, values = kernel.constants[:4]
    return StreamParts(records["count"].copy(), headers, indices, values)


def test_a_weight_comes_back_from_its_kernel_and_its_file():
    problem = layer(24, 600, 5)
    weight = in_blocks(problem, 0.98)  # far apart: 150 quads, of which 3 are left
    ones = np.ones((2, 24), np.float32)
    for packing in (ConvPacking(2, 100), ConvPacking(2, 100, height=4)):
        kernel = int8_build.build(
            problem, weight, ones, AVX512_VNNI, packing=Int8Packing(packing, wide=False)
        )
        again = int8_build.build(problem, stored(kernel), ones, AVX2, packing=kernel.packing)
        for each in (kernel, again):
            assert each.packing.distances == (packing.height == 1)
            found = PackedTensor(weight.shape, each).tensor()
            np.testing.assert_array_equal(found.numpy(), weight)


@given(st.binary(min_size=1, max_size=80))
def test_any_columns_of_a_file_are_within_their_block_or_refused(noise):
    """Kernels go where the columns of a file say."""
    problem = layer(8, 80, 3)
    ones = np.ones((2, 8), np.float32)
    packing = Int8Packing(ConvPacking(2, 20), wide=False)
    kernel = int8_build.build(problem, in_blocks(problem, 0.5), ones, AVX2, packing=packing)
    records, headers, indices, values = kernel.constants[:4]
    other = np.resize(np.frombuffer(noise, np.uint8), indices.shape)
    parts = StreamParts(records["count"].copy(), headers, other, values)
    try:
        int8_build.build(problem, parts, ones, AVX2, packing=kernel.packing)
    except BoxwoodError:
        return
    assert int8_columns.unpacked(headers, other).max() < 20


@pytest.mark.parametrize("change", [-1, 1, 64])
def test_columns_of_another_length_are_refused(change):
    problem = layer(8, 80, 3)
    ones = np.ones((2, 8), np.float32)
    kernel = int8_build.build(problem, in_blocks(problem, 0.5), ones, AVX2)
    records, headers, indices, values = kernel.constants[:4]
    other = np.resize(indices, len(indices) + change)
    parts = StreamParts(records["count"].copy(), headers, other, values)
    with pytest.raises(BoxwoodError, match="got other columns than its shape"):
        int8_build.build(problem, parts, ones, AVX2, packing=kernel.packing)
