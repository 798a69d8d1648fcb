"""Unsigned integers of a few bits each, packed one after another into bytes."""

import numpy as np
from numpy.typing import NDArray

from boxwood.errors import InvalidInput

WIDEST = 16
"""The most bits that one field may have."""


def check_width(bits: int) -> None:
    """Check that a field width is one that can be packed, 1 to 16 bits.

    Raises:
        InvalidInput: it is not.

    Example:
        >>> check_width(5)
    """
    if not 1 <= bits <= WIDEST:
        raise InvalidInput(
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
        InvalidInput: a width that cannot be packed.

    Example:
        >>> pack(np.array([1, 2, 3], dtype=np.uint16), 2).hex()
        '39'
    """
    check_width(bits)
    groups = np.zeros((-(-len(fields) // 8), 8), "<u8")
    groups.reshape(-1)[: len(fields)] = fields
    words = np.zeros((len(groups), 2), "<u8")
    for place, word, shift in _places(bits):
        words[:, word] |= groups[:, place] << np.uint64(shift)
        if shift + bits > 64:
            words[:, word + 1] |= groups[:, place] >> np.uint64(64 - shift)
    whole = words.view(np.uint8)[:, :bits].tobytes()
    return whole[: packed_bytes(len(fields), bits)]


def unpack(data: bytes, count: int, bits: int) -> NDArray[np.uint16]:
    """Return the first ``count`` fields of a packed stream.

    Args:
        data: what ``pack`` returned.
        count: how many fields to read.
        bits: the width of a field, 1 to 16.

    Raises:
        InvalidInput: a width that cannot be packed, or a stream too short.

    Example:
        >>> unpack(bytes.fromhex("39"), 3, 2).tolist()
        [1, 2, 3]
    """
    check_width(bits)
    if len(data) < packed_bytes(count, bits):
        raise InvalidInput(
            f"Expected {packed_bytes(count, bits)} bytes for {count} fields of {bits} bits, "
            f"got {len(data)}; the stream is truncated: write it again."
        )
    groups = -(-count // 8)
    stream = np.zeros(groups * bits, np.uint8)
    used = packed_bytes(count, bits)
    stream[:used] = np.frombuffer(data, np.uint8, used)
    octets = np.zeros((groups, 16), np.uint8)
    octets[:, :bits] = stream.reshape(groups, bits)
    words = octets.view("<u8")
    fields = np.empty((groups, 8), np.uint16)
    for place, word, shift in _places(bits):
        found = words[:, word] >> np.uint64(shift)
        if shift + bits > 64:
            found |= words[:, word + 1] << np.uint64(64 - shift)
        fields[:, place] = found & np.uint64(2**bits - 1)
    return fields.reshape(-1)[:count]


def _places(bits: int) -> list[tuple[int, int, int]]:
    """Say where each of eight fields begins: they fill ``bits`` bytes, at most two words of 64 bits."""
    return [(place, *divmod(place * bits, 64)) for place in range(8)]
