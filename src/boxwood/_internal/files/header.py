"""The header of a safetensors file, read strictly and without touching the tensors.

A file is eight bytes with the length of the header (little-endian), the header as JSON, padded with
spaces, and the tensors one after another:

    {"__metadata__": {"text": "text"}, "NAME": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}

Whatever a header may claim, what is read here has been checked against the size of the file: every
byte after the header belongs to exactly one tensor, and every tensor has the bytes of its shape.
"""

import json
import math
import os
import re
import stat
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from boxwood._internal.core.reading import opened, refuse_pickle, shown, strict_json
from boxwood.errors import CheckpointError

BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "F8_E8M0"), 8),
    **dict.fromkeys(("I8", "U8", "BOOL"), 8),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}
"""Bits of one element, by the name of its type in the file."""

FLOATS = frozenset(
    {"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ"}
)
"""Types that can be pruned: floats of whole bytes, whose zero is a pattern of zero bits."""

LONGEST = 16 << 20
"""The longest header that is read, enough for 130,000 tensors in one file; parsing it takes memory."""

_LENGTH = struct.Struct("<Q")
_MOST_DIMENSIONS = 32
_LARGEST = 2**63 - 1
_HALVES = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Entry:
    """Where one tensor lies in a file.

    Args:
        dtype: the type's name in the file, a key of `BITS`.
        shape: sizes of its dimensions.
        start: its first byte, counted from the beginning of the file.
        end: the byte after its last.

    Example:
        >>> entry = Entry("F32", (2, 3), 100, 124)
        >>> entry.count, entry.bytes, entry.itemsize
        (6, 24, 4)
    """

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def count(self) -> int:
        """Elements."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """Bytes in the file."""
        return self.end - self.start

    @property
    def itemsize(self) -> int:
        """Bytes of one element, for types of whole bytes."""
        return BITS[self.dtype] // 8


@dataclass(frozen=True)
class Header:
    """What a safetensors file holds.

    Args:
        entries: tensors by name, in the order of their bytes.
        metadata: the texts that the file carries.
        text: the header as it is in the file, padding included.
    """

    entries: dict[str, Entry]
    metadata: dict[str, str]
    text: bytes


def read_header(path: Path) -> Header:
    """Read and check the header of a file.

    Raises:
        CheckpointError: there is no file, it is a pickle, or its header is not true.

    Example:
        >>> read_header(Path("gone.safetensors"))
        Traceback (most recent call last):
        ...
        boxwood.errors.CheckpointError: Expected a safetensors file at gone.safetensors, got none; check the path.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise CheckpointError(
                f"Expected a safetensors file at {path}, got something that is not a file; give "
                f"a file."
            )
        with opened(path) as file:
            size = os.fstat(file.fileno()).st_size
            head = file.read(_LENGTH.size)
            length = announced_length(head, size, path)
            return parse_header(file.read(length), size, path)
    except FileNotFoundError as error:
        raise CheckpointError(
            f"Expected a safetensors file at {path}, got none; check the path."
        ) from error
    except OSError as error:
        raise CheckpointError(
            f"Expected to read {path}, got {error}; check the path and its permissions."
        ) from error


def announced_length(head: bytes, size: int, path: Path) -> int:
    r"""Return how long the header says that it is, once that can be true.

    Example:
        >>> announced_length(b"\x02" + bytes(7), 10, Path("a"))
        2
    """
    if len(head) < _LENGTH.size:
        refuse_pickle(head, path)
        _refuse(path, f"only {size} bytes")
    length: int = _LENGTH.unpack(head)[0]
    if length > min(size - _LENGTH.size, LONGEST):
        refuse_pickle(head, path)  # only now: a length that is true may begin as a pickle does
    if length > size - _LENGTH.size:
        _refuse(path, f"a header of {length} bytes in a file of {size}")
    if length > LONGEST:
        _refuse(path, f"a header of {length} bytes, more than {LONGEST} are never needed")
    return length


def parse_header(text: bytes, size: int, path: Path) -> Header:
    """Check the text of a header against the size of its file.

    Args:
        text: the header, without the eight bytes before it.
        size: bytes of the whole file.
        path: how to call the file in errors.

    Raises:
        CheckpointError: the header is not true, saying what of it.

    Example:
        >>> text = b'{"w":{"dtype":"F16","shape":[2],"data_offsets":[0,4]}}'
        >>> parse_header(text, 8 + len(text) + 4, Path("a")).entries["w"]
        Entry(dtype='F16', shape=(2,), start=62, end=66)
    """
    if not (text.startswith(b"{") and text.rstrip(b" ").endswith(b"}")):
        _refuse(path, "a header that is no JSON object")
    try:
        found = strict_json(text)
    except ValueError as error:
        _refuse(path, f"a header that is no valid JSON ({error})", error)
    metadata = found.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not _texts([*metadata, *metadata.values()]):
        _refuse(path, "metadata that are not texts")
    data_at = _LENGTH.size + len(text)
    entries = {name: _entry(name, about, data_at, path) for name, about in found.items()}
    ordered = sorted(entries.items(), key=lambda item: (item[1].start, item[1].end))
    reached = data_at
    for name, entry in ordered:
        if entry.start != reached:
            what = "overlaps the tensor" if entry.start < reached else "leaves a hole after what is"
            _refuse(path, f"a tensor {shown(name)} that {what} before it")
        reached = entry.end
    if reached != size:
        _refuse(path, f"tensors that end at byte {reached} of {size}")
    return Header(dict(ordered), metadata, text)


def make_header(
    tensors: Iterable[tuple[str, str, tuple[int, ...], int]],
    metadata: Mapping[str, str],
    path: Path,
) -> Header:
    """Lay out a new file: tensors one after another in the order given.

    Args:
        tensors: name, type, shape and bytes of each.
        metadata: texts to carry.
        path: how to call the file in errors.

    Raises:
        CheckpointError: the header would be longer than any that is read.

    Example:
        >>> made = make_header([("w", "F16", (2,), 4)], {}, Path("a"))
        >>> made.text
        b'{"w":{"dtype":"F16","shape":[2],"data_offsets":[0,4]}}  '
        >>> preamble(made)[:8].hex()
        '3800000000000000'
    """
    listed: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    at = 0
    for name, dtype, shape, size in tensors:
        listed[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(listed, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > LONGEST:
        raise CheckpointError(
            f"Expected a header of at most {LONGEST} bytes for {path}, got {len(text)}; "
            f"split the checkpoint into shards of fewer tensors."
        )
    return parse_header(text, _LENGTH.size + len(text) + at, path)


def preamble(header: Header) -> bytes:
    r"""Return what a file holds before its tensors.

    Example:
        >>> preamble(Header({}, {}, b"{}      "))
        b'\x08\x00\x00\x00\x00\x00\x00\x00{}      '
    """
    return _LENGTH.pack(len(header.text)) + header.text


def _entry(name: str, about: object, data_at: int, path: Path) -> Entry:
    """Check what a header says of one tensor, in integers that cannot overflow."""
    if not name.isprintable():
        _refuse(path, f"a tensor whose name cannot be printed, {shown(name)}")
    if not isinstance(about, dict) or about.keys() != {"dtype", "shape", "data_offsets"}:
        _refuse(path, f"not dtype, shape and data_offsets for {shown(name)}")
    dtype, shape, offsets = about["dtype"], about["shape"], about["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BITS:
        _refuse(path, f"the unknown type {shown(dtype)} for {shown(name)}")
    if not _naturals(shape) or len(shape) > _MOST_DIMENSIONS:
        _refuse(path, f"the impossible shape {shown(shape)} for {shown(name)}")
    if not _naturals(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        _refuse(path, f"the impossible offsets {shown(offsets)} for {shown(name)}")
    if math.prod(size for size in shape if size) * BITS[dtype] > _LARGEST:
        _refuse(path, f"the huge shape {shown(shape)} for {shown(name)}")
    entry = Entry(dtype, tuple(shape), data_at + offsets[0], data_at + offsets[1])
    if entry.count * BITS[dtype] != 8 * entry.bytes:
        _refuse(
            path,
            f"{entry.bytes} bytes for {shown(name)}, where {dtype} of shape {shown(shape)} "
            f"takes {entry.count * BITS[dtype] / 8:.15g}",
        )
    return entry


def _texts(values: list[object]) -> bool:
    """Say whether all are texts, without the halves of characters that JSON can spell."""
    return all(isinstance(v, str) and not _HALVES.search(v) for v in values)


def _naturals(numbers: object) -> bool:
    return isinstance(numbers, list) and all(type(n) is int and 0 <= n <= _LARGEST for n in numbers)


def _refuse(path: Path, what: str, cause: Exception | None = None) -> NoReturn:
    raise CheckpointError(
        f"Expected an undamaged safetensors file at {path}, got {what}; download or copy it again."
    ) from cause
