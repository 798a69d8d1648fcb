"""Kept positions as the lengths of the runs of dropped ones before them, in fields of a few bits.

    field f < 2^b - 1     f dropped positions, then a kept one
    field f = 2^b - 1     an escape: 2^b - 1 dropped positions and nothing kept

Positions after the last kept one are not stored.

Source: Han, Pool, Tran, Dally 2015, "Learning both Weights and Connections for Efficient Neural
Networks", relative indices; there an escape is a stored zero instead of a field of its own.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from boxwood._internal.files.bits import pack, packed_bytes, unpack
from boxwood.errors import CheckpointError

WIDTHS = range(2, 13)
"""Widths of fields that are tried: one bit is a plain mask, and what needs more takes little anyway."""

_LONG = 1 << 12  # runs from here on are rare, and counted one by one
BLOCK = 1 << 18
"""Fields that are packed or unpacked at a time; a multiple of 8, so that blocks end with a byte."""


def encode_runs(
    runs: NDArray[np.int64], index_bits: int
) -> tuple[NDArray[np.uint16], NDArray[np.int64]]:
    """Turn the run before each kept position into fields.

    Returns:
        The fields, and which of them ends at each kept position.

    Example:
        >>> fields, ends = encode_runs(np.array([1, 4]), 2)
        >>> fields.tolist(), ends.tolist()
        ([1, 3, 1], [0, 2])
    """
    escape = 2**index_bits - 1
    fillers, rests = np.divmod(runs, escape)
    ends = np.cumsum(fillers + 1) - 1
    fields = np.full(int(ends[-1]) + 1 if len(ends) else 0, escape, dtype=np.uint16)
    fields[ends] = rests
    return fields, ends


def decode_fields(
    fields: NDArray[np.uint16], index_bits: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Count the positions up to the end of each field, and say which fields keep the last of them.

    Example:
        >>> ends, kept = decode_fields(np.array([1, 3, 1], dtype=np.uint16), 2)
        >>> (ends[kept] - 1).tolist()
        [1, 6]
    """
    kept = fields != 2**index_bits - 1
    return np.cumsum(fields + kept, dtype=np.int64), kept


def runs_between(positions: NDArray[np.int64], last: int) -> NDArray[np.int64]:
    """Count the dropped positions before each kept one, the last before them all being ``last``.

    Example:
        >>> runs_between(np.array([1, 6]), -1).tolist()
        [1, 4]
    """
    return np.diff(positions, prepend=last) - 1


class FieldCounts:
    """How many fields every width would take, added up over chunks.

    Example:
        >>> counts = FieldCounts()
        >>> counts.add_(np.array([1, 4]))
        >>> counts.fields(2), counts.fields(3), counts.best()
        (3, 2, (2, 3))
    """

    def __init__(self) -> None:
        self._runs = np.zeros(_LONG, np.int64)
        self._long = dict.fromkeys(WIDTHS, 0)

    def add_(self, runs: NDArray[np.int64]) -> None:
        """Count the runs of one chunk."""
        self._runs += np.bincount(runs[runs < _LONG], minlength=_LONG)
        long = runs[runs >= _LONG]
        for width in WIDTHS if len(long) else ():
            self._long[width] += int((long // (2**width - 1) + 1).sum())

    def fields(self, width: int) -> int:
        """Count the fields that a width takes."""
        each = np.arange(_LONG) // (2**width - 1) + 1
        return int(self._runs @ each) + self._long[width]

    def best(self) -> tuple[int, int]:
        """Find the width of the fewest bytes, and how many fields it takes."""
        return min(
            ((width, self.fields(width)) for width in WIDTHS),
            key=lambda found: packed_bytes(found[1], found[0]),
        )


def pack_runs(
    left: NDArray[np.uint16], runs: NDArray[np.int64], index_bits: int
) -> tuple[bytes, NDArray[np.uint16]]:
    """Pack the fields that were left and those of further runs, as far as they fill whole bytes.

    Returns:
        The bytes, and the fields that are left.

    Example:
        >>> packed, left = pack_runs(np.empty(0, np.uint16), np.array([1, 4]), 2)
        >>> packed, left.tolist()
        (b'', [1, 3, 1])
    """
    fields = np.concatenate([left, encode_runs(runs, index_bits)[0]])
    whole = len(fields) // 8 * 8
    return pack(fields[:whole], index_bits), fields[whole:]


def unpack_masks(
    stream: Iterator[memoryview], fields: int, index_bits: int, count: int, chunk: int
) -> Iterator[NDArray[np.bool_]]:
    """Unpack a stream into masks of ``chunk`` positions each, ``count`` in all.

    Args:
        stream: the packed fields, ``BLOCK * index_bits / 8`` bytes at a time.
        fields: how many there are.
        index_bits: their width.
        count: positions.
        chunk: positions of one mask.

    Raises:
        CheckpointError: the fields lead beyond the last position, or are missing.

    Example:
        >>> list(unpack_masks(iter([memoryview(bytes.fromhex("1d"))]), 3, 2, 8, 8))[0].nonzero()[0].tolist()
        [1, 6]
    """
    pending, reached = np.empty(0, np.int64), 0
    for start in range(0, count, chunk):
        end = min(start + chunk, count)
        while fields and reached < end:
            part = min(fields, BLOCK)
            ends, kept = decode_fields(unpack(bytes(next(stream)), part, index_bits), index_bits)
            ends += reached
            pending, reached = np.concatenate([pending, ends[kept] - 1]), int(ends[-1])
            fields -= part
        cut = int(np.searchsorted(pending, end))
        mask = np.zeros(end - start, np.bool_)
        mask[pending[:cut] - start] = True
        pending = pending[cut:]
        yield mask
    if fields or reached > count:
        raise CheckpointError(
            f"Expected a mask of {count} positions, got fields that point beyond them; the file "
            f"is damaged: copy it again."
        )
