"""A weight as a bit for each entry and the entries that are not zero."""

import enum
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from boxwood._internal.engine.layouts import Array

ROWS = 4
"""Rows that share each load of x."""

COLUMNS = 16
"""Columns of a vector."""


class ValueType(enum.Enum):
    """How entries are kept; sums are float32."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"

    @property
    def nbytes(self) -> int:
        """Bytes of an entry."""
        return 4 if self is ValueType.FLOAT32 else 2


@dataclass(frozen=True)
class BitMaskPacking:
    """How a matrix is packed.

    Args:
        chunks: shares of rows, at most.
        values: how entries are kept.
    """

    chunks: int
    values: ValueType


@dataclass(frozen=True, eq=False)
class BitMaskParts:
    """What of a packed matrix depends on its values: a file holds it.

    Args:
        masks: uint16 [groups of four rows, groups of 16 columns, 4], flat; bit c is column c.
        values: the entries in the order of their bits; uint16 patterns of 16-bit types.
    """

    masks: NDArray[np.uint16]
    values: NDArray[np.generic]


def usual_packing(weight: Array, threads: int) -> BitMaskPacking:
    """The smallest packing that keeps a weight's values exactly."""
    return BitMaskPacking(4 * threads if threads > 1 else 1, narrowest(weight))


def narrowest(weight: Array) -> ValueType:
    """The smallest type that holds all of a float32 weight's values exactly.

    Example:
        >>> narrowest(np.array([1.0, -0.5], np.float32)).value
        'bfloat16'
    """
    if not (np.ascontiguousarray(weight).view(np.uint32) & 0xFFFF).any():
        return ValueType.BFLOAT16
    flat = weight.reshape(-1)
    # Most weights show at once that they need more.
    fits = all(_are_halves(part) for part in (flat[:FIRST], flat[FIRST:]))
    return ValueType.FLOAT16 if fits else ValueType.FLOAT32


FIRST = 4096
"""Entries that are looked at first."""


def _are_halves(weight: Array) -> bool:
    with np.errstate(over="ignore"):
        return np.array_equal(weight.astype(np.float16).astype(np.float32), weight)


def pack(weight: Array, values: ValueType) -> BitMaskParts:
    """Pack a float32 matrix [rows, columns], whose values the type has to hold exactly.

    Example:
        >>> parts = pack(np.array([[0.0, 2.0], [3.0, 0.0]], np.float32), ValueType.FLOAT32)
        >>> parts.masks.tolist(), parts.values[:2].tolist()
        ([2, 1, 0, 0], [2.0, 3.0])
    """
    tall, wide = groups_of(weight.shape)
    padded = np.zeros((tall * ROWS, wide * COLUMNS), np.float32)
    padded[: weight.shape[0], : weight.shape[1]] = weight
    grouped = padded.reshape(tall, ROWS, wide, COLUMNS).swapaxes(1, 2)
    present = grouped != 0
    masks = np.packbits(present, axis=-1, bitorder="little").reshape(-1).view(np.uint16)
    kept = torch.from_numpy(grouped[present])
    if values is not ValueType.FLOAT32:
        kept = kept.to(getattr(torch, values.value)).view(torch.uint16)
    return BitMaskParts(masks, kept.numpy())


def unpack(parts: BitMaskParts, shape: tuple[int, int], values: ValueType) -> Array:
    """The float32 matrix of a packed one."""
    tall, wide = groups_of(shape)
    present = np.unpackbits(parts.masks.view(np.uint8), bitorder="little").view(bool)
    grouped = np.zeros(tall * wide * ROWS * COLUMNS, np.float32)
    kept = parts.values[: np.count_nonzero(present)]
    if values is not ValueType.FLOAT32:
        narrow = torch.from_numpy(kept.copy()).view(getattr(torch, values.value))
        kept = narrow.float().numpy()
    grouped[present] = kept
    whole = grouped.reshape(tall, wide, ROWS, COLUMNS).swapaxes(1, 2)
    return np.ascontiguousarray(whole.reshape(tall * ROWS, wide * COLUMNS)[: shape[0], : shape[1]])


def groups_of(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return groups of rows and of columns of a matrix."""
    return -(-shape[0] // ROWS), -(-shape[1] // COLUMNS)
