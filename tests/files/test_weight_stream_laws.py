"""Weight streams hold a matrix exactly, in few bytes, in the order that kernels need."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boxwood._internal.engine import weight_streams
from boxwood.errors import BoxwoodError


def matrix(rows, columns, sparsity, seed=0):
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((rows, columns)).astype(np.float32)
    weight[rng.random(weight.shape) < sparsity] = 0
    return weight


@settings(deadline=None)
@given(
    st.integers(1, 40),
    st.integers(1, 60),
    st.sampled_from([0.0, 0.5, 0.9, 1.0]),
    st.integers(1, 5),
    st.integers(1, 70),
    st.integers(1, 6),
    st.sampled_from([1, 4]),
)
def test_round_trip(rows, columns, sparsity, height, block, chunks, multiple):
    """A matrix becomes a stream and back without a bit changed."""
    weight = matrix(rows, columns, sparsity)
    stream = weight_streams.from_dense(
        weight, height=height, block=block, chunks=chunks, multiple=multiple
    )
    np.testing.assert_array_equal(weight_streams.to_dense(stream), weight)


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 60), st.integers(1, 30), st.integers(1, 4))
def test_first_and_last_block_list_every_row(rows, columns, block, chunks):
    """Every row has a header in the first and in the last column block, even if it is all zeros."""
    stream = weight_streams.from_dense(matrix(rows, columns, 0.95), block=block, chunks=chunks)
    for edge in (0, -1):
        assert stream.records["count"][:, edge].sum() == rows


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 60), st.integers(1, 30))
def test_longest_rows_first(rows, columns, block):
    """Within a column block, rows come in falling order of their non-zeros."""
    stream = weight_streams.from_dense(matrix(rows, columns, 0.5), block=block)
    for record in stream.records.ravel():
        start = int(record["headers"]) // weight_streams.HEADER.itemsize
        counts = stream.headers["count"][start : start + int(record["count"])].astype(int)
        assert (np.diff(counts) <= 0).all()


def test_six_bytes_per_weight():
    """A large matrix at 90 % takes (2 + 4) bytes per non-zero plus less than a twelfth."""
    weight = matrix(512, 2048, 0.9)
    stream = weight_streams.from_dense(weight, block=96)
    assert stream.nbytes < 6 * np.count_nonzero(weight) * 13 / 12


def test_too_wide_blocks():
    """Blocks that 16-bit columns cannot number are refused."""
    with pytest.raises(BoxwoodError, match="at most 65535 columns per block"):
        weight_streams.from_dense(np.zeros((1, 2), np.float32), block=70000)
