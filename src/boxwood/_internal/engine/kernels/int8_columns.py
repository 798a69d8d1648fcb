"""Columns of rows of bytes: four in three bytes.

The columns of a row ascend. Each is kept as its distance from the one before, the first as its
distance from the start of its column block. Four distances of six bits are three bytes; the up to
three columns that a row has left over take a byte each. Where two columns are further apart than
`REACH`, quads of zeros lie between them.

Three quarters of a byte for a 1x4 block of weights, where a byte would count 256 columns. Decoding
adds one integer addition to what a byte would need, which is next to a load and at least one
product of a whole register.
"""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boxwood._internal.engine.weight_streams import HEADER, StreamParts, WeightStream, broken

BITS = 6
"""Bits of a distance, where four lie together."""

REACH = (1 << BITS) - 1
"""The greatest distance that they count."""

TOGETHER = 4
"""Distances of a group."""

BYTES = BITS * TOGETHER // 8
"""Bytes of a group."""

OVERRUN = 1
"""Bytes that kernels read after the last column: they load a group as a word."""

_SHIFTS = np.arange(0, BITS * TOGETHER, BITS, dtype=np.uint32)


def packed(stream: WeightStream) -> WeightStream:
    """Return a stream of rows whose columns are packed.

    Args:
        stream: of height 1, made with a reach of `REACH`.

    Example:
        >>> from boxwood._internal.engine.weight_streams import from_dense
        >>> weight = np.array([[1, 0, 1, 1, 1, 0, 1]], np.int32)
        >>> packed(from_dense(weight, block=8, reach=REACH)).indices.tolist()
        [128, 16, 4, 2, 0]
    """
    counts = stream.headers["count"].astype(np.int64)
    ends = np.cumsum(counts)
    before = np.concatenate([[0], stream.indices[:-1]])
    before[(ends - counts)[counts > 0]] = 0
    slots, whole, used = _groups(counts)
    fours = np.zeros((len(whole), TOGETHER), np.uint32)
    fours.reshape(-1)[slots] = stream.indices - before
    words = np.bitwise_or.reduce(fours << _SHIFTS, axis=1)
    threes = np.where(
        whole[:, None],
        words[:, None] >> np.arange(0, 8 * BYTES, 8, dtype=np.uint32),
        fours[:, :BYTES],
    ).astype(np.uint8)
    indices = threes[np.arange(BYTES) < used[:, None]]
    return placed(stream, np.concatenate([indices, np.zeros(OVERRUN, np.uint8)]))


def placed(stream: WeightStream, indices: NDArray[np.uint8]) -> WeightStream:
    """Return a stream with packed columns, and where those of each record begin."""
    counts = stream.headers["count"].astype(np.int64)
    starts = np.concatenate([[0], np.cumsum(nbytes(counts))])
    records = stream.records.copy()
    records["indices"] = starts[records["headers"] // HEADER.itemsize]
    return replace(stream, records=records, indices=indices)


def unpacked(headers: NDArray[Any], indices: NDArray[Any]) -> NDArray[np.int64]:
    """Return the columns that `packed` packed, counted from the start of their column block.

    Args:
        headers: of the stream.
        indices: packed columns.

    Raises:
        CheckpointError: they are not as many as the headers say.
    """
    counts = headers["count"].astype(np.int64)
    if indices.size != nbytes(counts).sum() + OVERRUN:
        raise broken("columns")
    slots, whole, used = _groups(counts)
    threes = np.zeros((len(whole), BYTES), np.uint32)
    threes[np.arange(BYTES) < used[:, None]] = indices[:-OVERRUN]
    words = np.bitwise_or.reduce(threes << np.arange(0, 8 * BYTES, 8, dtype=np.uint32), axis=1)
    fours = np.where(
        whole[:, None], (words[:, None] >> _SHIFTS) & REACH, np.pad(threes, ((0, 0), (0, 1)))
    )
    sums = np.cumsum(fours.reshape(-1)[slots].astype(np.int64))
    ends = np.cumsum(counts)
    rows = np.concatenate([[0], sums])[ends - counts]  # of all rows before
    return np.asarray(sums - np.repeat(rows, counts), np.int64)


def with_columns(parts: StreamParts) -> StreamParts:
    """Return what a file holds of a stream, with its columns unpacked."""
    return replace(parts, indices=unpacked(parts.headers, parts.indices))


def nbytes(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the bytes that the columns of rows take.

    Example:
        >>> nbytes(np.array([4, 6])).tolist()
        [3, 5]
    """
    return BYTES * (counts // TOGETHER) + counts % TOGETHER


def _groups(
    counts: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.int64]]:
    """Return the slot of each column in groups, and of each group if it is whole and its bytes."""
    groups = -(-counts // TOGETHER)
    first = np.cumsum(groups) - groups
    starts = np.cumsum(counts) - counts
    slots = np.arange(counts.sum()) + np.repeat(TOGETHER * first - starts, counts)
    left = np.repeat(counts, groups) - TOGETHER * (
        np.arange(groups.sum()) - np.repeat(first, groups)
    )
    return slots, left >= TOGETHER, np.minimum(left, BYTES)
