"""Weights as streams of non-zeros in the order in which kernels use them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from boxwood.core.errors import BoxwoodError

FIELDS = ("headers", "count", "indices", "values", "source", "first", "width", "row")
RECORD = np.dtype([(name, np.int64) for name in FIELDS])
"""One chunk of rows within one block of columns; byte offsets into the streams."""

HEADER = np.dtype([("count", np.uint16), ("row", np.uint16)])
"""Non-zeros of one block row, and which row of its chunk that is."""

AHEAD = 3
"""Headers that kernels look ahead; streams end in so many empty ones."""

NUMBERED = (1 << 16) - 1
"""What 16 bits count."""


@dataclass(frozen=True, eq=False)
class Stream:
    """A matrix as non-zero columns of row blocks, blocked over columns for the first cache.

    Each non-zero column of a block of ``height`` rows takes a 16-bit column, counted from the
    start of its column block, and ``height`` float32 values: (2 + 4) bytes per non-zero when
    ``height`` is 1. Within a chunk of rows and a block of columns, rows with more non-zeros come
    first, so that the processor predicts the ends of their loops.

    Args:
        shape: rows and columns of the matrix.
        height: rows per row block; a last block that is not full repeats the last row.
        block: columns per column block.
        chunks: shares of rows that threads may take.
        chunk: row blocks of a chunk that is full.
        records: [chunks, column blocks] of `RECORD`.
        headers: `HEADER` of each row block with non-zeros; of all in the first and last block,
            and `AHEAD` empty ones at the end.
        indices: uint16 columns.
        values: float32 [non-zero columns, height].
    """

    shape: tuple[int, int]
    height: int
    block: int
    chunks: int
    chunk: int
    records: NDArray[np.void]
    headers: NDArray[np.void]
    indices: NDArray[np.uint16]
    values: NDArray[np.float32]

    @property
    def nbytes(self) -> int:
        """Bytes of everything."""
        return sum(
            array.nbytes for array in (self.records, self.headers, self.indices, self.values)
        )


def from_dense(
    weight: NDArray[np.float32],
    *,
    height: int = 1,
    block: int,
    chunks: int = 1,
    multiple: int = 1,
) -> Stream:
    """Pack a matrix.

    Args:
        weight: [rows, columns] with zeros.
        height: rows per row block.
        block: columns per column block, at most 65535.
        chunks: shares of rows, at most.
        multiple: row blocks of a chunk are a multiple of this.

    Returns:
        The stream.

    Raises:
        BoxwoodError: the block is too wide for 16-bit columns, or a chunk has too many rows.

    Example:
        >>> stream = from_dense(np.eye(4, dtype=np.float32), block=2)
        >>> stream.values.size, stream.indices.tolist()
        (4, [0, 1, 0, 1])
    """
    rows, columns = weight.shape
    tall = math.ceil(rows / height)
    chunk = math.ceil(math.ceil(tall / min(chunks, tall)) / multiple) * multiple
    chunks = math.ceil(tall / chunk)
    blocks = max(1, math.ceil(columns / block))
    if max(block, chunk) > NUMBERED:
        raise BoxwoodError(
            f"Expected at most {NUMBERED} columns per block and rows per chunk, got {block} and "
            f"{chunk}; take smaller blocks or more chunks."
        )
    # Row blocks of full height: rows behind the last repeat it, which writes the same value twice.
    full = weight[np.minimum(np.arange(tall * height), rows - 1)].reshape(tall, height, columns)
    present = (full != 0).any(1)
    row, column = np.nonzero(present)
    part = column // block
    run = np.bincount(row * blocks + part, minlength=tall * blocks)  # by row, then column block
    listed, order = _longest_first(run.reshape(tall, blocks), chunks, chunk)
    # Non-zeros lie in runs by (row, column block); streams want the runs by (chunk, column block,
    # order): move whole runs.
    wanted = (np.arange(chunks)[:, None, None] * chunk + order) * blocks
    wanted = (wanted + np.arange(blocks)[None, :, None])[listed > 0]
    lengths = run[wanted]
    entries = np.repeat(_starts(run)[wanted] - _starts(lengths), lengths) + np.arange(len(row))
    row, column, part = row[entries], column[entries], part[entries]

    keep = listed > 0
    keep[:, [0, -1]] |= listed[:, [0, -1]] == 0
    headers = np.zeros(int(keep.sum()) + AHEAD, HEADER)
    headers["count"][:-AHEAD] = listed[keep]
    headers["row"][:-AHEAD] = order[keep]
    records = np.zeros((chunks, blocks), RECORD)
    records["count"] = keep.sum(2)
    records["headers"] = _starts(records["count"]) * HEADER.itemsize
    first = _starts(np.maximum(listed, 0).sum(2))
    records["indices"] = first * 2
    records["values"] = first * 4 * height
    records["first"] = np.arange(blocks) * block
    records["width"] = np.minimum(block, columns - records["first"])
    records["row"] = (np.arange(chunks) * chunk * height)[:, None]
    return Stream(
        (rows, columns),
        height,
        block,
        chunks,
        chunk,
        records,
        headers,
        (column - part * block).astype(np.uint16),
        np.ascontiguousarray(full[row, :, column], np.float32),
    )


def join(streams: Sequence[Stream]) -> Stream:
    """Streams of equal shape and blocking, one behind the other: the groups of a convolution."""
    if len(streams) == 1:
        return streams[0]
    first = streams[0]
    records = np.concatenate([stream.records for stream in streams])
    parts = records.reshape(len(streams), first.chunks, -1)
    for name in ("headers", "indices", "values"):
        sizes = np.array([getattr(stream, name).nbytes for stream in streams])
        parts[name] += (np.cumsum(sizes) - sizes)[:, None, None]
    return Stream(
        (first.shape[0] * len(streams), first.shape[1]),
        first.height,
        first.block,
        first.chunks * len(streams),
        first.chunk,
        records,
        *(
            np.concatenate([getattr(stream, field) for stream in streams])
            for field in ("headers", "indices", "values")
        ),
    )


def to_dense(stream: Stream) -> NDArray[np.float32]:
    """The matrix of a stream.

    Example:
        >>> weight = np.array([[0, 2], [3, 0]], np.float32)
        >>> to_dense(from_dense(weight, block=1)).tolist()
        [[0.0, 2.0], [3.0, 0.0]]
    """
    weight = np.zeros(stream.shape, np.float32)
    for record in stream.records.ravel():
        at = int(record["indices"]) // 2
        start = int(record["headers"]) // HEADER.itemsize
        for header in stream.headers[start : start + int(record["count"])]:
            stop = at + int(header["count"])
            columns = stream.indices[at:stop].astype(np.int64) + record["first"]
            for lane in range(stream.height):
                row = int(record["row"]) + int(header["row"]) * stream.height + lane
                if row < stream.shape[0]:
                    weight[row, columns] = stream.values[at:stop, lane]
            at = stop
    return weight


def _longest_first(
    count: NDArray[np.int64], chunks: int, chunk: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sort the rows of each chunk and column block by falling count.

    Args:
        count: [row blocks, column blocks].
        chunks: chunks of rows.
        chunk: row blocks per chunk.

    Returns:
        Counts in order, -1 behind the last row, and the rows they belong to, counted within
        their chunk: both [chunks, column blocks, chunk].
    """
    padded = np.full((chunks * chunk, count.shape[1]), -1, np.int64)
    padded[: len(count)] = count
    by_block = padded.reshape(chunks, chunk, -1).transpose(0, 2, 1)
    order = np.argsort(-by_block, axis=2, kind="stable")
    return np.take_along_axis(by_block, order, 2), order


def _starts(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Exclusive running sum in C order."""
    flat = counts.ravel()
    return (np.cumsum(flat) - flat).reshape(counts.shape)
