"""A `.bxw` file's outer form: a checksum, a header and sections of raw bytes, mapped when read."""

import hashlib
import mmap
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boxwood._internal.core.replacing import replacing
from boxwood.errors import CheckpointError

MAGIC = b"BXW\x00\x00\x00\x00\x05"
"""The last byte is the version of the format."""

ALIGN = 64
"""Sections start at multiples of it, from the start of the file."""

START = len(MAGIC) + 32 + 8
"""Where the header begins: after the checksum and the header's length."""


class Sections:
    """Arrays for a file, in order."""

    def __init__(self) -> None:
        self.arrays: list[NDArray[Any]] = []
        self._end = 0

    def add(self, array: NDArray[Any]) -> list[int]:
        """Add an array; return where it will lie after the header, and its bytes."""
        array = np.ascontiguousarray(array)
        start = self._end
        self.arrays.append(array)
        self._end += -(-array.nbytes // ALIGN) * ALIGN
        return [start, array.nbytes]


def section(place: list[int], data: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a section of a mapped file.

    Args:
        place: what `Sections.add` returned.
        data: the file.

    Raises:
        ValueError: it lies outside the file.
    """
    (length,) = data[START - 8 : START].view("<u8")
    if len(place) != 2 or any(type(each) is not int for each in place):
        raise ValueError("a section has no place")
    begin = -(-(START + int(length)) // ALIGN) * ALIGN + place[0]
    if place[0] < 0 or place[0] % ALIGN or place[1] < 0 or begin + place[1] > len(data):
        raise ValueError("a section lies outside the file")
    return data[begin : begin + place[1]]


def write_sections(path: Path, header: bytes, sections: Sections) -> None:
    """Write a file, whole or not at all.

    Raises:
        CheckpointError: the disk is full or not writable.
    """
    try:
        _write_whole(path, header, sections)
    except OSError as error:
        raise CheckpointError(
            f"Expected to write {path}, got {error}; free some space, or give a path in a folder "
            f"that exists and can be written. The old file is unchanged."
        ) from error


def _write_whole(path: Path, header: bytes, sections: Sections) -> None:
    digest = hashlib.sha256()
    with replacing(path) as new, new.open("wb") as file:

        def put(part: bytes) -> None:
            digest.update(part)
            file.write(part)

        file.write(MAGIC + bytes(32))
        put(len(header).to_bytes(8, "little"))
        put(header)
        put(bytes(-(START + len(header)) % ALIGN))
        for array in sections.arrays:
            put(array.tobytes())
            put(bytes(-array.nbytes % ALIGN))
        file.seek(len(MAGIC))
        file.write(digest.digest())


def mapped(path: Path) -> NDArray[np.uint8]:
    """Map a file, whose checksum fits.

    Raises:
        CheckpointError: no such file, or one that is cut short, changed, or of another format.
    """
    try:
        with path.open("rb") as file:
            memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            file.seek(len(MAGIC) + 32)
            # Read and not through the mapping, of which only what is used may be in memory.
            digest = hashlib.file_digest(file, "sha256").digest()
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"Expected a compiled model at {path}, got {error}; give a file that "
            f"`boxwood compile` wrote."
        ) from error
    data = np.frombuffer(memory, np.uint8)
    if len(data) < START or data[: len(MAGIC)].tobytes() != MAGIC:
        raise CheckpointError(
            f"Expected a compiled model in {path}, got another kind of file or another version of "
            f"the format; give a file that `boxwood compile` wrote."
        )
    if data[len(MAGIC) : len(MAGIC) + 32].tobytes() != digest:
        raise CheckpointError(
            f"Expected {path} as it was written, got one that is cut short or changed (its "
            f"checksum differs); copy it again, or compile the model again."
        )
    return data
