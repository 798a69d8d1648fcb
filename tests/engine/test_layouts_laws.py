"""Layouts: addresses, zeros around values, alignment, slices."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boxwood._internal.engine.layouts import (
    FLOATS_PER_LINE,
    Planes,
    columns,
    contiguous,
    padded,
    position_mask,
    vector,
    zeros,
)
from boxwood.errors import BoxwoodError

sizes = st.tuples(st.integers(1, 9), st.integers(1, 20), st.integers(1, 20))
layouts = st.one_of(
    st.builds(lambda size, halo: padded(*size, halo=halo), sizes, st.integers(0, 3)),
    st.builds(lambda size: contiguous(*size), sizes),
    st.builds(columns, st.integers(1, 40), st.integers(1, 40)),
    st.builds(vector, st.integers(1, 40)),
)


@settings(deadline=None)
@given(layouts, st.integers(1, 3))
def test_what_is_written_is_read(layout, images):
    """Values come back as they were, and everything around them is zero."""
    values = np.arange(1, 1 + images * int(np.prod(layout.shape)), dtype=np.float32)
    values = values.reshape(images, *layout.shape)
    buffer = np.full(layout.size(images), np.nan, np.float32)
    layout.write_(buffer, values)
    np.testing.assert_array_equal(layout.view(buffer, images), values)
    assert np.count_nonzero(buffer) == values.size


@settings(deadline=None)
@given(layouts, st.data())
def test_address_formula(layout, data):
    """Address = n · image + c · plane + origin + r · row_stride + w."""
    c, r, w = (data.draw(st.integers(0, size - 1)) for size in layout.shape)
    buffer = np.zeros(layout.size(2), np.float32)
    layout.view(buffer, 2)[1, c, r, w] = 1
    place = layout.image + c * layout.plane + layout.origin + r * layout.row_stride + w
    assert np.flatnonzero(buffer).tolist() == [place]


@settings(deadline=None)
@given(sizes, st.integers(0, 3))
def test_neighbours_within_the_halo_are_zeros_or_values(size, halo):
    """Around any value, up to the halo away, a plane reads as if padded with zeros."""
    layout = padded(*size, halo=halo)
    values = np.random.default_rng(0).standard_normal((1, *size)).astype(np.float32)
    buffer = np.zeros(layout.size(), np.float32)
    layout.write_(buffer, values)
    wide = np.pad(values[0], ((0, 0), (halo, halo), (halo, halo)))
    start = layout.origin - halo * (layout.row_stride + 1)
    assert start >= 0
    for channel in range(size[0]):
        for row in range(size[1] + 2 * halo):
            at = channel * layout.plane + start + row * layout.row_stride
            read = buffer[at : at + size[2] + 2 * halo]
            np.testing.assert_array_equal(read, wide[channel, row])


@given(sizes, st.integers(0, 3))
def test_padded_planes_are_aligned(size, halo):
    """First values start lines, and neighbouring planes lie an odd number of lines apart."""
    layout = padded(*size, halo=halo)
    assert layout.aligned
    assert layout.plane // FLOATS_PER_LINE % 2 == 1


@given(sizes, st.sampled_from([4, 8, 16]))
def test_mask_marks_positions_of_values(size, lanes):
    """As many bits as a plane has values, each where the row has one."""
    layout = padded(*size, halo=1)
    bits = np.unpackbits(position_mask(layout, lanes), bitorder="little")
    bits = bits.reshape(-1, max(lanes, 8))[:, :lanes].ravel()
    where = np.flatnonzero(bits)
    row, column = np.divmod(where, layout.row_stride)
    assert len(where) == size[1] * size[2]
    assert (column < size[2]).all()
    assert (row < size[1]).all()


def test_slices_share_the_buffer():
    """A slice's values are the parent's, from its first plane on."""
    layout = padded(6, 3, 4, halo=1)
    buffer = np.zeros(layout.size(2), np.float32)
    values = np.arange(1, 145, dtype=np.float32).reshape(2, 6, 3, 4)
    layout.write_(buffer, values)
    part = layout.slice(2, 5)
    own = buffer[2 * layout.plane :]
    view = np.lib.stride_tricks.as_strided(
        own[part.origin :],
        (2, *part.shape),
        tuple(4 * step for step in (part.image, part.plane, part.row_stride, 1)),
    )
    np.testing.assert_array_equal(view, values[:, 2:5])


def test_flat_vectors():
    """A vector is one row; other layouts stay."""
    assert vector(5).flat == Planes(1, 1, 5, 0, 5, 0, 16, 16)
    assert padded(2, 3, 4).flat == padded(2, 3, 4)


@given(st.integers(1, 100))
def test_buffers_start_on_lines(floats):
    """Buffers are aligned, of the length asked for, and zero."""
    buffer = zeros(floats)
    assert len(buffer) == floats
    assert buffer.ctypes.data % 64 == 0
    assert not buffer.any()


def test_wrong_slices():
    """A slice outside the channels is refused."""
    with pytest.raises(BoxwoodError, match="Expected a slice within 3 channels, got 1 to 4"):
        padded(3, 2, 2).slice(1, 4)


def test_wrong_values():
    """Values of another shape are refused."""
    layout = padded(1, 2, 2)
    with pytest.raises(BoxwoodError, match=r"Expected values of shape \(1, 1, 2, 2\), got"):
        layout.write_(zeros(layout.size()), np.zeros((1, 1, 2, 3), np.float32))


@pytest.mark.parametrize("buffer", [np.zeros(3, np.float32), np.zeros(999), np.zeros((99, 9), "f")])
def test_wrong_buffers(buffer):
    """Short, double-precision and many-dimensional buffers are refused."""
    with pytest.raises(BoxwoodError, match="Expected a flat float32 buffer of at least"):
        padded(1, 2, 2).view(buffer)


@pytest.mark.parametrize(
    ("size", "more"), [((0, 1, 1), {}), ((1, 1, 4), {"row_stride": 3}), ((1, 1, 1), {"halo": -1})]
)
def test_wrong_sizes(size, more):
    """Empty planes and rows that overlap are refused."""
    with pytest.raises(BoxwoodError, match="Expected positive sizes and row_stride >= width"):
        padded(*size, **more)
