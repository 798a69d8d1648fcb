"""Weights as streams of non-zeros in the order in which kernels use them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boxwood.errors import CheckpointError

FIELDS = ("headers", "count", "indices", "values", "source", "first", "width", "row")
RECORD = np.dtype([(name, np.int64) for name in FIELDS])
"""One chunk of rows within one block of columns; byte offsets into the streams."""

HEADER = np.dtype([("count", np.uint16), ("row", np.uint16)])
"""Non-zeros of one block row, and which row of its chunk that is."""

AHEAD = 3
"""Headers that kernels read ahead; streams end in this number of empty ones."""

NUMBERED = (1 << 16) - 1
"""What 16 bits count."""


@dataclass(frozen=True, eq=False)
class WeightStream:
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
        indices: uint16 columns; of weights in bytes a byte each, or as in `int8_columns`.
        values: [non-zero columns, height], float32 or four int8 in an int32.
    """

    shape: tuple[int, int]
    height: int
    block: int
    chunks: int
    chunk: int
    records: NDArray[np.void]
    headers: NDArray[np.void]
    indices: NDArray[Any]
    values: NDArray[Any]

    @property
    def nbytes(self) -> int:
        """Bytes of everything."""
        return sum(
            array.nbytes for array in (self.records, self.headers, self.indices, self.values)
        )


@dataclass(frozen=True, eq=False)
class StreamParts:
    """What of a stream depends on a weight's values: a file holds it, and the rest is made again.

    Args:
        counts: headers of each record.
        headers: `HEADER`, as in `WeightStream`.
        indices: as in `WeightStream`.
        values: float32 or int32, flat.
    """

    counts: NDArray[np.int64]
    headers: NDArray[np.void]
    indices: NDArray[Any]
    values: NDArray[Any]


def from_dense(
    weight: NDArray[Any],
    *,
    height: int = 1,
    block: int,
    chunks: int = 1,
    multiple: int = 1,
    reach: int | None = None,
) -> WeightStream:
    """Pack a matrix.

    Args:
        weight: [rows, columns] with zeros, of entries of four bytes.
        height: rows per row block.
        block: columns per column block, at most 65535.
        chunks: shares of rows, at most.
        multiple: row blocks of a chunk are a multiple of this.
        reach: the greatest distance between two columns of a row block, and from the start of a
            column block to its first; columns of zeros are kept where it would be greater.

    Returns:
        The stream.

    Raises:
        CheckpointError: the block is too wide for 16-bit columns, or a chunk has too many rows.

    Example:
        >>> stream = from_dense(np.eye(4, dtype=np.float32), block=2)
        >>> stream.values.size, stream.indices.tolist()
        (4, [0, 1, 0, 1])
    """
    rows, columns = weight.shape
    tall, chunk, chunks, blocks = _shares(weight.shape, height, block, chunks, multiple)
    if tall * height > rows:  # rows after the last repeat it, which writes the same value twice
        weight = np.concatenate([weight, weight[-1:].repeat(tall * height - rows, 0)])
    weight = np.ascontiguousarray(weight)
    present = weight[::height] != 0
    for lane in range(1, height):
        present |= weight[lane::height] != 0
    if reach is not None:
        _bridge(present, block, reach)
    # Non-zeros lie in runs by (row, column block): places where each begins, and their counts.
    place = np.flatnonzero(present)
    begin = np.arange(tall)[:, None] * columns + np.arange(blocks) * block
    run = np.diff(np.searchsorted(place, begin.ravel()), append=len(place))
    listed, order = _longest_first(run.reshape(tall, blocks), chunks, chunk)
    # Streams want the runs by (chunk, column block, order): move whole runs.
    wanted = (np.arange(chunks)[:, None, None] * chunk + order) * blocks
    wanted = (wanted + np.arange(blocks)[None, :, None])[listed > 0]
    lengths = run[wanted]
    moved = np.repeat(_starts(run)[wanted] - _starts(lengths), lengths)
    place = place.take(moved + np.arange(len(place)))
    values = np.empty((len(place), height), weight.dtype)
    above = place
    if height > 1:  # rows of the row blocks before
        above = place + np.repeat(wanted // blocks * ((height - 1) * columns), lengths)
    for lane in range(height):
        values[:, lane] = weight.ravel().take(above + lane * columns if lane else above)

    keep = listed > 0
    keep[:, [0, -1]] |= listed[:, [0, -1]] == 0
    headers = np.zeros(int(keep.sum()) + AHEAD, HEADER)
    headers["count"][:-AHEAD] = listed[keep]
    headers["row"][:-AHEAD] = order[keep]
    return WeightStream(
        (rows, columns),
        height,
        block,
        chunks,
        chunk,
        _records(
            keep.sum(2),
            np.maximum(listed, 0).sum(2),
            columns=columns,
            height=height,
            block=block,
            chunk=chunk,
        ),
        headers,
        (place - np.repeat(begin.ravel()[wanted], lengths)).astype(np.uint16),
        values,
    )


def _bridge(present: NDArray[np.bool_], block: int, reach: int) -> None:
    """Mark columns so that no two neighbours in a column block are further apart than ``reach``."""
    row, column = np.nonzero(present)
    before = np.concatenate([[0], column[:-1]])
    first = np.concatenate(
        [[True], (row[1:] != row[:-1]) | (column[1:] // block != before[1:] // block)]
    )
    before = np.where(first[: len(row)], column // block * block, before[: len(row)])
    missing = np.maximum(column - before - 1, 0) // reach
    steps = np.arange(1, missing.sum() + 1) - np.repeat(_starts(missing), missing)
    present[np.repeat(row, missing), np.repeat(before, missing) + reach * steps] = True


def from_parts(
    parts: StreamParts,
    shape: tuple[int, int],
    *,
    height: int,
    block: int,
    chunks: int = 1,
    multiple: int = 1,
    groups: int = 1,
) -> WeightStream:
    """Make a packed matrix again from what a file holds of it.

    Args:
        parts: of the stream, or of the joined ones.
        shape: rows and columns of one group's matrix.
        height: as in `from_dense`.
        block: as in `from_dense`.
        chunks: as in `from_dense`.
        multiple: as in `from_dense`.
        groups: how many streams were joined.

    Raises:
        CheckpointError: the parts are not a stream of this shape; a kernel would read outside.
    """
    tall, chunk, chunks, blocks = _shares(shape, height, block, chunks, multiple)
    counts, headers = parts.counts, parts.headers
    if counts.size != groups * chunks * blocks or (counts < 0).any() or counts.max() > chunk:
        raise broken("counts of headers")
    counts = counts.reshape(groups, chunks * blocks)
    listed = counts.sum(1)
    if headers.size != listed.sum() + groups * AHEAD:
        raise broken("headers")
    # Of each group, the headers that are of rows; AHEAD empty ones follow.
    real = np.concatenate(
        [
            headers[start + AHEAD * group : start + AHEAD * group + length]
            for group, (start, length) in enumerate(zip(_starts(listed), listed, strict=True))
        ]
    )
    rows = np.minimum(chunk, tall - np.arange(chunks) * chunk)  # row blocks of each chunk
    most = np.broadcast_to(rows[None, :, None], (groups, chunks, blocks)).reshape(-1)
    flat = counts.reshape(-1)
    if (real["row"] >= np.repeat(most, flat)).any():
        raise broken("rows")
    ends = np.concatenate([[0], np.cumsum(real["count"].astype(np.int64))])
    runs = ends[np.cumsum(flat)] - ends[_starts(flat)]
    if parts.indices.size != runs.sum() or parts.values.size != height * runs.sum():
        raise broken("columns and values")
    records = [
        _records(
            one.reshape(chunks, blocks), run.reshape(chunks, blocks),
            columns=shape[1], height=height, block=block, chunk=chunk,
        )
        for one, run in zip(counts, runs.reshape(groups, -1), strict=True)
    ]  # fmt: skip
    widths = np.concatenate([each["width"].ravel() for each in records])
    if (parts.indices >= np.repeat(widths, runs)).any():
        raise broken("columns")
    heads, entries = _starts(listed), _starts(runs.reshape(groups, -1).sum(1))
    for group, each in enumerate(records):
        each["headers"] += HEADER.itemsize * (heads[group] + group * AHEAD)
        each["indices"] += 2 * entries[group]
        each["values"] += 4 * height * entries[group]
    return WeightStream(
        (groups * shape[0], shape[1]),
        height,
        block,
        groups * chunks,
        chunk,
        np.concatenate(records),
        headers,
        parts.indices,
        parts.values.reshape(-1, height),
    )


def broken(what: str) -> CheckpointError:
    """Return the error for a file whose parts are no packed weight."""
    return CheckpointError(
        f"Expected the packed weight of a kernel in the file, got other {what} than its shape "
        f"has; compile the model again."
    )


def _shares(
    shape: tuple[int, int], height: int, block: int, chunks: int, multiple: int
) -> tuple[int, int, int, int]:
    """Return row blocks, row blocks per chunk, chunks and column blocks of a matrix."""
    rows, columns = shape
    tall = math.ceil(rows / height)
    chunk = math.ceil(math.ceil(tall / min(chunks, tall)) / multiple) * multiple
    if max(block, chunk) > NUMBERED:
        raise CheckpointError(
            f"Expected at most {NUMBERED} columns per block and rows per chunk, got {block} and "
            f"{chunk}; take smaller blocks or more chunks."
        )
    return tall, chunk, math.ceil(tall / chunk), max(1, math.ceil(columns / block))


def _records(
    counts: NDArray[np.int64],
    runs: NDArray[np.int64],
    *,
    columns: int,
    height: int,
    block: int,
    chunk: int,
) -> NDArray[np.void]:
    """Return the records of one stream: its counts of headers and of columns, and where they lie."""
    records = np.zeros(counts.shape, RECORD)
    records["count"] = counts
    records["headers"] = _starts(counts) * HEADER.itemsize
    records["indices"] = _starts(runs) * 2
    records["values"] = _starts(runs) * 4 * height
    records["first"] = np.arange(counts.shape[1]) * block
    records["width"] = np.minimum(block, columns - records["first"])
    records["row"] = (np.arange(counts.shape[0]) * chunk * height)[:, None]
    return records


def concatenate(streams: Sequence[WeightStream]) -> WeightStream:
    """Streams of equal shape and blocking, one after the other: the groups of a convolution."""
    if len(streams) == 1:
        return streams[0]
    first = streams[0]
    records = np.concatenate([stream.records for stream in streams])
    parts = records.reshape(len(streams), first.chunks, -1)
    for name in ("headers", "indices", "values"):
        sizes = np.array([getattr(stream, name).nbytes for stream in streams])
        parts[name] += (np.cumsum(sizes) - sizes)[:, None, None]
    return WeightStream(
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


def to_dense(stream: WeightStream) -> NDArray[Any]:
    """The matrix of a stream.

    Example:
        >>> weight = np.array([[0, 2], [3, 0]], np.float32)
        >>> to_dense(from_dense(weight, block=1)).tolist()
        [[0.0, 2.0], [3.0, 0.0]]
    """
    return unpack(stream.records, stream.headers, stream.indices, stream.values, stream.shape)


def unpack(
    records: NDArray[Any],
    headers: NDArray[Any],
    indices: NDArray[Any],
    values: NDArray[Any],
    shape: tuple[int, int],
    groups: int = 1,
) -> NDArray[Any]:
    """The matrix of a stream, or of the joined ones of groups.

    Args:
        records: as in `WeightStream`.
        headers: as in `WeightStream`.
        indices: as in `WeightStream`.
        values: [non-zero columns, height].
        shape: rows and columns of the whole matrix.
        groups: how many streams were joined; each has its share of the rows.
    """
    records = records.ravel()
    counts = records["count"]
    # Of each header: the record that it belongs to, and its place.
    owner = np.repeat(np.arange(len(records)), counts)
    place = (records["headers"] // HEADER.itemsize - _starts(counts))[owner]
    listed = headers[place + np.arange(len(owner))]
    height, per_group = values.shape[1], shape[0] // groups
    row = records["row"][owner] + height * listed["row"].astype(np.int64)
    group = owner // (len(records) // groups)
    # Of each non-zero column: its header.
    header = np.repeat(np.arange(len(owner)), listed["count"])
    column = indices + records["first"][owner[header]]
    weight = np.zeros(shape, values.dtype)
    for lane in range(height):
        real = (row + lane < per_group)[header]  # rows after the last repeat it
        rows = (row + lane + per_group * group)[header[real]]
        weight[rows, column[real]] = values[real, lane]
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
        Counts in order, -1 after the last row, and the rows they belong to, counted within
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
