"""Sparse tensors as kept values and the short runs of zeros before them.

The tensor is read in row-major order. Every stored entry is a 32-bit value and an index field of
``b`` bits; the all-ones field is an escape, every other field is a number of zeros:

    field f < 2^b - 1     f zeros, then the kept weight that is the entry's value
    field f = 2^b - 1     2^b - 1 zeros and nothing kept: a filler, whose value is 0.0

Zeros after the last kept weight are not stored. An entry is dropped when its mask is False or,
without a mask, when it is ``+0.0``; ``-0.0``, NaN and kept zeros are entries like any other, so
decoding gives back every bit of the tensor, and the mask.

Source: Han, Pool, Tran, Dally 2015, "Learning both Weights and Connections for Efficient Neural
Networks" (relative indices: 5 bits for fully connected layers, 8 for convolutions).

Differs from the paper: it stores index differences and pads with a filler zero when one exceeds
the bound, so a filler looks like a weight that is zero. Here a filler has a field of its own, so
the mask survives; the price is a reach of one position less per field.
"""

import math
import struct
import zlib
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from boxwood._internal.core.errors import BoxwoodError
from boxwood._internal.files.bits import check_width, pack, packed_bytes, unpack
from boxwood._internal.files.run_lengths import fields_of, places_of, runs_between

MAGIC = b"BXREL\x01"
_HEAD = struct.Struct("<6sBBQQ")
_CRC = struct.Struct("<I")


@dataclass(frozen=True, eq=False)
class RelativeCode:
    """A sparse tensor in relative indices; see the head of this module for the fields.

    Args:
        shape: the tensor's.
        index_bits: bits of an index field, 1 to 16.
        values: (entries,) float32, kept weights and fillers in order.
        index: the index fields, packed.
        fillers: how many entries are fillers.

    Example:
        >>> code = encode(torch.tensor([0.0, 0, 0, 0, 7, 0]), index_bits=2)
        >>> code.values.tolist(), code.fillers, code.bytes
        ([0.0, 7.0], 1, 9)
    """

    shape: tuple[int, ...]
    index_bits: int
    values: NDArray[np.float32]
    index: bytes
    fillers: int

    @property
    def nonzeros(self) -> int:
        """Kept weights: the entries that are not fillers, kept zeros among them."""
        return len(self.values) - self.fillers

    @property
    def value_bytes(self) -> int:
        """Bytes of the values, fillers included."""
        return 4 * len(self.values)

    @property
    def index_bytes(self) -> int:
        """Bytes of the packed index fields."""
        return len(self.index)

    @property
    def bytes(self) -> int:
        """Bytes of values and index fields together, without the header of a file."""
        return self.value_bytes + self.index_bytes


def encode(
    weight: Tensor | NDArray[np.float32], *, index_bits: int, mask: Tensor | None = None
) -> RelativeCode:
    """Store the kept entries of a tensor and the runs of zeros before them.

    Args:
        weight: float32, any shape.
        index_bits: bits of an index field, 1 to 16.
        mask: bool, the shape of ``weight``, True keeps; without one, all but ``+0.0`` is kept.

    Raises:
        BoxwoodError: another dtype, a mask that does not fit, or a width out of range.

    Example:
        >>> encode(torch.tensor([[0.0, 3.0], [0.0, 4.0]]), index_bits=5).values.tolist()
        [3.0, 4.0]

    Reference: Han et al. 2015, arXiv:1506.02626, section 5.
    """
    check_width(index_bits)
    array = _array(weight)
    flat = np.ascontiguousarray(array).ravel()
    positions = np.flatnonzero(flat.view(np.uint32) if mask is None else _fitting(mask, array))
    fields, entry = fields_of(runs_between(positions, -1), index_bits)
    entries = len(fields)
    values = np.zeros(entries, dtype=np.float32)
    values[entry] = flat[positions]
    return RelativeCode(
        shape=array.shape,
        index_bits=index_bits,
        values=values,
        index=pack(fields, index_bits),
        fillers=entries - len(positions),
    )


def decode(code: RelativeCode) -> Tensor:
    """Return the tensor that was encoded, bit for bit, with ``+0.0`` where nothing was kept.

    Raises:
        BoxwoodError: the fields and the rest of the code contradict each other.

    Example:
        >>> decode(encode(torch.tensor([0.0, 3.0]), index_bits=5))
        tensor([0., 3.])
    """
    return torch.from_numpy(decode_array(code))


def decode_mask(code: RelativeCode) -> Tensor:
    """Return the mask of what was kept, zeros that a mask kept included.

    Raises:
        BoxwoodError: the fields and the rest of the code contradict each other.

    Example:
        >>> kept = torch.tensor([False, True, True])
        >>> decode_mask(encode(torch.tensor([0.0, 3.0, 0.0]), index_bits=5, mask=kept))
        tensor([False,  True,  True])
    """
    positions, _ = _placed(code)
    mask = np.zeros(math.prod(code.shape), dtype=np.bool_)
    mask[positions] = True
    return torch.from_numpy(mask.reshape(code.shape))


def decode_array(code: RelativeCode) -> NDArray[np.float32]:
    """Do what ``decode`` does in numpy alone.

    Raises:
        BoxwoodError: the fields and the rest of the code contradict each other.

    Example:
        >>> decode_array(encode(np.array([0, 3], dtype=np.float32), index_bits=5)).tolist()
        [0.0, 3.0]
    """
    positions, values = _placed(code)
    flat = np.zeros(math.prod(code.shape), dtype=np.float32)
    flat[positions] = values
    return flat.reshape(code.shape)


def to_bytes(code: RelativeCode) -> bytes:
    """Write a code as bytes that describe themselves.

    Little-endian: the magic ``BXREL`` and version 1 (6 bytes), ``index_bits`` (1), the number of
    dimensions (1), entries (8), fillers (8), every dimension (8 each), the values, the packed
    index fields, and the CRC-32 of all of it (4).

    Example:
        >>> len(to_bytes(encode(torch.zeros(3, 4), index_bits=5)))
        44
    """
    head = _HEAD.pack(MAGIC, code.index_bits, len(code.shape), len(code.values), code.fillers)
    dimensions = struct.pack(f"<{len(code.shape)}Q", *code.shape)
    body = head + dimensions + code.values.astype("<f4", copy=False).tobytes() + code.index
    return body + _CRC.pack(zlib.crc32(body))


def from_bytes(data: bytes) -> RelativeCode:
    """Read what ``to_bytes`` wrote, in numpy alone.

    Raises:
        BoxwoodError: the bytes are not a code, cut short, or damaged.

    Example:
        >>> from_bytes(to_bytes(encode(torch.tensor([0.0, 3.0]), index_bits=5))).shape
        (2,)
    """
    if data[: len(MAGIC)] != MAGIC:
        raise BoxwoodError(
            f"Expected a relative code that starts with {MAGIC!r}, got {data[: len(MAGIC)]!r}; "
            "give the bytes that `to_bytes` wrote."
        )
    start = _HEAD.size
    if len(data) < start + _CRC.size:
        raise _damaged(f"only {len(data)} bytes")
    if zlib.crc32(data[: -_CRC.size]) != _CRC.unpack(data[-_CRC.size :])[0]:
        raise _damaged("a checksum that does not match")
    _, index_bits, dimensions, entries, fillers = _HEAD.unpack_from(data)
    check_width(index_bits)
    values_at = start + 8 * dimensions
    index_at = values_at + 4 * entries
    if len(data) != index_at + packed_bytes(entries, index_bits) + _CRC.size:
        raise _damaged(f"{len(data)} bytes, which do not fit its header")
    return RelativeCode(
        shape=struct.unpack_from(f"<{dimensions}Q", data, start),
        index_bits=index_bits,
        values=np.frombuffer(data, "<f4", entries, values_at).astype(np.float32),
        index=data[index_at : -_CRC.size],
        fillers=fillers,
    )


def _placed(code: RelativeCode) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the positions of the kept entries, and their values."""
    fields = unpack(code.index, len(code.values), code.index_bits)
    ends, kept = places_of(fields, code.index_bits)
    if (
        len(kept) - np.count_nonzero(kept) != code.fillers
        or code.values[~kept].any()
        or (len(ends) and ends[-1] > math.prod(code.shape))
    ):
        raise BoxwoodError(
            f"Expected a relative code of {code.fillers} fillers that are 0.0 and of entries "
            f"inside the shape {code.shape}, got fields that say otherwise; encode the tensor again."
        )
    return ends[kept] - 1, code.values[kept]


def _array(tensor: Tensor | NDArray[np.float32]) -> NDArray[np.float32]:
    if str(tensor.dtype) not in ("float32", "torch.float32"):
        raise BoxwoodError(
            f"Expected a float32 tensor to encode, got {tensor.dtype}; convert it with `.float()`."
        )
    return tensor.detach().cpu().numpy() if isinstance(tensor, Tensor) else tensor


def _fitting(mask: Tensor, array: NDArray[np.float32]) -> NDArray[np.bool_]:
    if mask.dtype != torch.bool or mask.shape != array.shape:
        raise BoxwoodError(
            f"Expected a bool mask of shape {array.shape}, got {mask.dtype} of shape "
            f"{tuple(mask.shape)}; give the mask of this tensor."
        )
    return mask.detach().cpu().numpy().ravel()


def _damaged(what: str) -> BoxwoodError:
    return BoxwoodError(
        f"Expected a whole relative code, got {what}; the file is cut short or damaged, "
        "write it again with `to_bytes`."
    )
