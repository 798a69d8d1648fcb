"""Unsigned integers of a few bits each, packed one after another into bytes."""

import numpy as np
from numpy.typing import NDArray

from boxwood.core.errors import BoxwoodError

WIDEST = 16
"""The most bits that one field may have."""


def check_width(bits: int) -> None:
    """Check that a field width is one that can be packed, 1 to 16 bits.

    Raises:
        BoxwoodError: it is not.

    Example:
        >>> check_width(5)
    """
    if not 1 <= bits <= WIDEST:
        raise BoxwoodError(
            f"Expected 1 to {WIDEST} bits for an index, got {bits}; 5 suits linear layers and "
            "8 convolutions (Han et al. 2015)."
        )


def packed_bytes(fields: int, bits: int) -> int:
    """Return how many bytes that many fields take: ``⌈fields · bits / 8⌉``.

    Example:
        >>> packed_bytes(7, 2)
        2
    """
    return -(-fields * bits // 8)


def pack(fields: NDArray[np.uint16], bits: int) -> bytes:
    """Pack fields lowest bit first, from the lowest bit of the first byte up; pad with zeros.

    Args:
        fields: (n,) integers, each below ``2**bits``.
        bits: the width of a field, 1 to 16.

    Raises:
        BoxwoodError: a width that cannot be packed.

    Example:
        >>> pack(np.array([1, 2, 3], dtype=np.uint16), 2).hex()
        '39'
    """
    check_width(bits)
    pairs = np.ascontiguousarray(fields, dtype="<u2").view(np.uint8).reshape(-1, 2)
    single = np.unpackbits(pairs, axis=1, count=bits, bitorder="little")
    return np.packbits(single.ravel(), bitorder="little").tobytes()


def unpack(data: bytes, count: int, bits: int) -> NDArray[np.uint16]:
    """Return the first ``count`` fields of a packed stream.

    Args:
        data: what ``pack`` returned.
        count: how many fields to read.
        bits: the width of a field, 1 to 16.

    Raises:
        BoxwoodError: a width that cannot be packed, or a stream too short.

    Example:
        >>> unpack(bytes.fromhex("39"), 3, 2).tolist()
        [1, 2, 3]
    """
    check_width(bits)
    if len(data) < packed_bytes(count, bits):
        raise BoxwoodError(
            f"Expected {packed_bytes(count, bits)} bytes for {count} fields of {bits} bits, "
            f"got {len(data)}; the stream is cut short, write it again."
        )
    stream = np.frombuffer(data, dtype=np.uint8)
    single = np.unpackbits(stream, count=count * bits, bitorder="little").reshape(count, bits)
    pairs = np.zeros((count, 2), dtype=np.uint8)
    octets = np.packbits(single, axis=1, bitorder="little")
    pairs[:, : octets.shape[1]] = octets
    return pairs.view("<u2").ravel().astype(np.uint16)
