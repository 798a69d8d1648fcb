"""Matrices kept as bits and entries: what is packed, and what their kernel computes."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("llvmlite")

from boxwood._internal.engine.kernels import bit_packing, bitmask, matvec
from boxwood._internal.engine.kernels.bit_packing import BitMaskPacking, ValueType
from boxwood._internal.engine.kernels.contract import Activation
from boxwood._internal.engine.kernels.matvec import MatVec
from boxwood._internal.engine.kernels.packing import prefers_bits
from boxwood._internal.engine.layouts import Planes
from boxwood._internal.engine.targets import AVX2, AVX512
from boxwood.errors import BoxwoodError


def sparse(rows: int, columns: int, sparsity: float, values: ValueType) -> np.ndarray:
    """A matrix whose entries the type holds exactly."""
    rng = np.random.default_rng(rows)
    weight = rng.standard_normal((rows, columns)) * (rng.random((rows, columns)) >= sparsity)
    narrow = torch.from_numpy(weight).to(getattr(torch, values.value))
    return narrow.float().numpy()


def as_planes(values: np.ndarray) -> np.ndarray:
    return values[:, :, None, None]


@settings(max_examples=40, deadline=None)
@given(
    inputs=st.integers(1, 70),
    outputs=st.integers(1, 40),
    values=st.sampled_from(ValueType),
    sparsity=st.sampled_from([0, 0.6, 0.95, 1]),
    residual=st.booleans(),
    activation=st.sampled_from([Activation.NONE, Activation.SIGMOID]),
    images=st.integers(1, 9),
    chunks=st.integers(1, 5),
    in_place=st.booleans(),
)
def test_matrix_times_vectors(
    run_kernel, inputs, outputs, values, sparsity, residual, activation, images, chunks, in_place
):
    """Any matrix, of any type and in any chunks, equals the reference, over its residual too."""
    if not bitmask.is_supported(run_kernel.target):
        return
    problem = MatVec(inputs, outputs, activation, residual)
    weight = sparse(outputs, inputs, sparsity, values)
    rng = np.random.default_rng(1)
    bias, x, added = (
        rng.standard_normal(shape).astype(np.float32)
        for shape in (outputs, (images, inputs), (images, outputs))
    )
    packing = BitMaskPacking(chunks, values)
    kernel = matvec.build(problem, weight, bias, run_kernel.target, packing=packing)
    second = (problem.target, as_planes(added)) if residual else None
    source, out = problem.source, problem.target
    y = run_kernel(kernel, source, out, as_planes(x), second, in_place=in_place)
    expected = matvec.reference(problem, x, weight, bias, added if residual else None)
    np.testing.assert_allclose(y[:, :, 0, 0], expected, atol=4e-6)


@pytest.mark.parametrize("images", [1, 5])
def test_images_without_a_gap(run_kernel, images):
    """Torch's own matrices are read and written to their last value, and no further."""
    if not bitmask.is_supported(run_kernel.target):
        return
    weight = sparse(37, 23, 0.5, ValueType.FLOAT32)
    kernel = bitmask.build(
        (37, 23), weight, None, bitmask.Strides(23, 37), BitMaskPacking(1, ValueType.FLOAT32)
    )
    rows = [Planes(each, 1, 1, 0, 1, 0, 1, each) for each in (23, 37)]
    x = np.random.default_rng(0).standard_normal((images, 23)).astype(np.float32)
    y = run_kernel(kernel, *rows, as_planes(x))
    np.testing.assert_allclose(y[:, :, 0, 0], x @ weight.T, atol=4e-6)


@given(
    rows=st.integers(1, 20),
    columns=st.integers(1, 40),
    values=st.sampled_from(ValueType),
    sparsity=st.sampled_from([0, 0.7, 1]),
)
def test_what_is_packed_comes_back(rows, columns, values, sparsity):
    """To the last bit."""
    weight = sparse(rows, columns, sparsity, values)
    parts = bit_packing.pack(weight, values)
    np.testing.assert_array_equal(bit_packing.unpack(parts, weight.shape, values), weight)


def test_types_keep_every_value():
    """The narrowest type that changes nothing is taken; infinities of one are not of the other."""
    for values in ValueType:
        assert bit_packing.narrowest(sparse(16, 64, 0.5, values)) is values
    assert bit_packing.narrowest(np.array([65504, 0.1], np.float16).astype(np.float32)) is (
        ValueType.FLOAT16
    )
    assert bit_packing.narrowest(np.array([1e38, 1 + 2**-10], np.float32)) is ValueType.FLOAT32
    assert bit_packing.narrowest(np.array([np.nan, 0.1], np.float32)) is ValueType.FLOAT32


def test_where_bits_are_best():
    """Single weights between a twentieth and all; not very few, and not in whole blocks."""
    weight = sparse(512, 512, 0.5, ValueType.FLOAT32)
    assert prefers_bits(weight, 4, AVX512)
    assert not prefers_bits(sparse(512, 512, 0.98, ValueType.FLOAT32), 4, AVX512)
    blocks = np.repeat(sparse(64, 512, 0.9, ValueType.FLOAT32), 8, 0)
    assert not prefers_bits(blocks, 4, AVX512)
    assert not bitmask.is_supported(AVX2)


def test_memory_by_hand():
    """A bit for each of 64 × 64 entries and four bytes for each of the kept ones."""
    weight = np.zeros((64, 64), np.float32)
    weight[:, :13] = 1.1
    parts = bit_packing.pack(weight, ValueType.FLOAT32)
    assert parts.masks.nbytes == 64 * 64 // 8
    assert parts.values.nbytes == 4 * 64 * 13


def test_parts_of_another_matrix_are_refused():
    """A kernel would read after their end."""
    parts = bit_packing.pack(sparse(16, 32, 0.5, ValueType.FLOAT32), ValueType.FLOAT32)
    packing = BitMaskPacking(1, ValueType.FLOAT32)
    with pytest.raises(BoxwoodError, match="Expected the packed weight of a kernel of 16 × 48"):
        bitmask.build((16, 48), parts, None, bitmask.Strides(48, 16), packing)
    with pytest.raises(BoxwoodError, match=r"got 32 masks and \d+ values"):
        bitmask.build((16, 32), parts, None, bitmask.Strides(32, 16), packing)  # no spill
