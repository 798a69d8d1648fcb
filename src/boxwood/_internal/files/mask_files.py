"""Masks of a checkpoint: ``masks/NAME`` belongs to the file ``NAME`` of the same folder.

Each mask is stored under the name of its tensor as bits, U8: eight weights to a byte, lowest bit
first, in C order; the metadata carry the shapes and checksums. Masks that were saved as bools are read
as well.
"""

import json
import math
import re
import warnings
import zlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor

from boxwood._internal.core.placement import check_whole
from boxwood._internal.core.reading import shown, strict_json
from boxwood._internal.core.replacing import check_suffix, disk_errors
from boxwood._internal.files.checkpoint import CHUNK, StoredTensor
from boxwood._internal.files.header import (
    Header,
    make_header,
    parse_header,
    preamble,
    read_header,
)
from boxwood._internal.files.writing import whole_file
from boxwood.errors import CheckpointError

FOLDER = "masks"
VERSION = 2
"""The newest version that is known; 1 had no checksums."""

_KEY = "boxwood.masks"


@dataclass(frozen=True)
class StoredMask:
    """A mask in a file.

    Args:
        tensor: its bits or bools.
        shape: the shape of what it masks.
        count: weights.
        crc32: the checksum that it must have; None where none was written.
    """

    tensor: StoredTensor
    shape: tuple[int, ...]
    count: int
    crc32: int | None = None

    def chunks(self) -> Iterator[NDArray[np.bool_]]:
        """Read as many weights at a time as a chunk of the checkpoint has.

        Raises:
            CheckpointError: the file cannot be read, is damaged, or holds what is no bool; damage is
                noticed before the last chunk is given.
        """
        if self.tensor.entry.dtype != "BOOL":
            yield from bool_chunks(self._checked(self.tensor.chunks(CHUNK // 8)), self.count)
            return
        for piece in self.tensor.chunks():
            values = np.frombuffer(piece, np.uint8)
            if values.size and values.max() > 1:
                raise _wrong(self.tensor.path, f"{values.max()} in {self.tensor.name!r}")
            yield values.astype(np.bool_)  # a copy: the buffer is used again

    def _checked(self, pieces: Iterator[memoryview]) -> Iterator[memoryview]:
        found, left = checksum(self.tensor.name, self.shape), self.tensor.entry.bytes
        for piece in pieces:
            found, left = zlib.crc32(piece, found), left - len(piece)
            if not left:
                self._compare(found)
            yield piece
        if not self.tensor.entry.bytes:
            self._compare(found)

    def _compare(self, found: int) -> None:
        if self.crc32 not in (None, found):
            raise _wrong(self.tensor.path, f"a mask of {self.tensor.name!r} that was damaged")

    def kept(self) -> int:
        """Count the weights that it keeps."""
        return sum(int(np.count_nonzero(chunk)) for chunk in self.chunks())


def bool_chunks(bits: Iterator[memoryview], count: int) -> Iterator[NDArray[np.bool_]]:
    r"""Turn pieces of packed bits into bools, ``count`` in all.

    Example:
        >>> list(bool_chunks(iter([memoryview(b"\x05")]), 3))
        [array([ True, False,  True])]
    """
    for piece in bits:
        part = min(8 * len(piece), count)
        yield np.unpackbits(np.frombuffer(piece, np.uint8), count=part, bitorder="little").view(
            np.bool_
        )
        count -= part


def bits_of(mask: NDArray[np.bool_]) -> bytes:
    """Pack bools as masks are stored.

    Example:
        >>> bits_of(np.array([True, False, True])).hex()
        '05'
    """
    return np.packbits(mask, bitorder="little").tobytes()


def checksum(name: str, shape: tuple[int, ...], bits: bytes = b"") -> int:
    """Return the CRC-32 of a mask: of its name, its shape and its bits.

    Example:
        >>> checksum("w", (3, 5)) == checksum("w", (5, 3))
        False
    """
    return zlib.crc32(bits, zlib.crc32(json.dumps([name, list(shape)]).encode()))


def mask_header(
    shapes: Mapping[str, tuple[int, ...]], path: Path, checksums: Mapping[str, int] | None = None
) -> Header:
    """Lay out a file of masks as bits.

    Args:
        shapes: by name, in the order of the bits.
        path: how to call the file in errors.
        checksums: by name; a header without them is as long as the one with them.

    Example:
        >>> mask_header({"w": (3, 5)}, Path("a")).entries["w"].bytes
        2
    """
    about = {
        "version": VERSION,
        "shapes": {name: list(shape) for name, shape in shapes.items()},
        "crc32": {name: f"{(checksums or {}).get(name, 0):08x}" for name in shapes},
    }
    sizes = {name: -(-math.prod(shape) // 8) for name, shape in shapes.items()}
    return make_header(
        [(name, "U8", (size,), size) for name, size in sizes.items()],
        {_KEY: json.dumps(about, separators=(",", ":"))},
        path,
    )


@contextmanager
def writing_with_masks(
    path: Path, header: Header, shapes: Mapping[str, tuple[int, ...]]
) -> Iterator[tuple[BinaryIO, "MaskWriter | None"]]:
    """Write a file and, if it has any, the file of its masks; the masks take their name first.

    Args:
        path: the file.
        header: what it will hold; it is written already when the block begins.
        shapes: what is masked, in the order in which the bits will come.

    Yields:
        The file, open after its header, and what takes the bits of the masks.
    """
    masks = path.parent / FOLDER / path.name
    with ExitStack() as files:  # leaves in reverse order
        weights = files.enter_context(whole_file(path))
        weights.write(preamble(header))
        bits = None
        if shapes:
            with disk_errors(masks):
                masks.parent.mkdir(exist_ok=True)
            bits = files.enter_context(_mask_file(masks, shapes))
        yield weights, bits


class MaskWriter:
    """Takes the bits of some masks, one mask after the other, and remembers their checksums.

    Args:
        file: where they go, open after the header.
        shapes: of the masks, in order.
    """

    def __init__(self, file: BinaryIO, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self._file = file
        self._left = {name: -(-math.prod(shape) // 8) for name, shape in shapes.items()}
        self.checksums = {name: checksum(name, shape) for name, shape in shapes.items()}

    def write(self, bits: bytes) -> None:
        """Take the next bits, which are of one mask."""
        if not bits:
            return
        name = next(name for name, left in self._left.items() if left)
        self._left[name] -= len(bits)
        self.checksums[name] = zlib.crc32(bits, self.checksums[name])
        self._file.write(bits)


@contextmanager
def _mask_file(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[MaskWriter]:
    with whole_file(path) as file:
        file.write(preamble(mask_header(shapes, path)))
        bits = MaskWriter(file, shapes)
        yield bits
        file.seek(0)
        file.write(preamble(mask_header(shapes, path, bits.checksums)))


def write_with_masks(
    path: Path | str, weights: Mapping[str, Tensor], masks: Mapping[str, Tensor]
) -> None:
    """Write tensors as a safetensors file and their masks as another, each whole or not at all.

    Args:
        path: the file.
        weights: what it will hold.
        masks: bool, by the names of what they mask.

    Raises:
        CheckpointError: a name cannot stand in a header, the file's name is that of another format, or
            the disk is full or not writable.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "a.safetensors"
        ...     write_with_masks(path, {"w": torch.eye(2)}, {"w": torch.eye(2).bool()})
        ...     load_masks(masks_file_of(path))
        {'w': tensor([[ True, False],
                [False,  True]])}
    """
    path = Path(path)
    check_suffix(path, ".safetensors")
    check_whole({**weights, **{f"mask of {name}": mask for name, mask in masks.items()}})
    whole = save({name: tensor.cpu().contiguous() for name, tensor in weights.items()})
    start = 8 + int.from_bytes(whole[:8], "little")
    header = parse_header(whole[8:start], len(whole), path)
    shapes = {name: tuple(mask.shape) for name, mask in masks.items()}
    with writing_with_masks(path, header, shapes) as (opened, bits):
        opened.write(memoryview(whole)[start:])
        if bits is not None:
            for mask in masks.values():
                bits.write(bits_of(mask.cpu().numpy()))


def write_masks(path: Path, masks: Mapping[str, Tensor]) -> None:
    """Write masks as a file of their own, whole or not at all, and the folder that it is in.

    Args:
        path: as ``masks/NAME`` next to the checkpoint's file ``NAME``.
        masks: bool, by the names of what they mask.

    Raises:
        CheckpointError: the disk is full or not writable.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "masks" / "model.safetensors"
        ...     write_masks(path, {"w": torch.eye(2).bool()})
        ...     load_masks(path)
        {'w': tensor([[ True, False],
                [False,  True]])}
    """
    shapes = {name: tuple(mask.shape) for name, mask in masks.items()}
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with _mask_file(path, shapes) as bits:
        for mask in masks.values():
            bits.write(bits_of(mask.cpu().numpy()))


def open_masks(path: Path) -> dict[str, StoredMask]:
    """Find the masks of a file.

    Raises:
        CheckpointError: the file is damaged, or holds something that is no mask.

    Warns:
        UserWarning: the file is older than checksums.

    Example:
        >>> open_masks(Path("gone.safetensors"))
        Traceback (most recent call last):
        ...
        boxwood.errors.CheckpointError: Expected a safetensors file at gone.safetensors, got none; check the path.
    """
    header = read_header(path)
    try:
        about = strict_json(header.metadata.get(_KEY, "{}").encode())
    except ValueError as error:
        raise _wrong(path, f"metadata that are no valid JSON ({error})") from error
    shapes, version = about.get("shapes", {}), about.get("version", 1)
    if type(version) is not int or not 1 <= version <= VERSION:
        raise _wrong(path, f"version {shown(version)}, where this Boxwood knows {VERSION}")
    checksums = _checksums(about, header, path)
    found = {}
    for name, entry in header.entries.items():
        shape = entry.shape if entry.dtype == "BOOL" else _shape(shapes, name)
        count = math.prod(shape)
        if entry.dtype != "BOOL" and (entry.dtype, entry.bytes) != ("U8", -(-count // 8)):
            raise _wrong(path, f"{entry.dtype} of shape {entry.shape} for {name!r}")
        found[name] = StoredMask(StoredTensor(name, path, entry), shape, count, checksums.get(name))
    if about and version == 1:
        warnings.warn(
            f"The masks in {path} were written by an older Boxwood without checksums, so damage "
            f"would not be noticed; `boxwood pack` and `boxwood unpack` write them again.",
            UserWarning,
            stacklevel=2,
        )
    return found


def load_masks(source: Path | str) -> dict[str, Tensor]:
    """Read masks into memory.

    Args:
        source: a file of masks, or a checkpoint's folder with ``masks/`` in it.

    Returns:
        Bool tensors by name, True keeps.

    Raises:
        CheckpointError: a file is damaged, or there is none.

    Example:
        >>> from boxwood.oneshot import prune_checkpoint
        >>> pruned = prune_checkpoint(Path("gone"), Path("out"), 0.5)  # doctest: +SKIP
        >>> masks = load_masks(Path("out"))  # doctest: +SKIP
    """
    source = Path(source)
    files = sorted((source / FOLDER).glob("*.safetensors")) if source.is_dir() else [source]
    if not files:
        raise CheckpointError(f"Expected masks in {source / FOLDER}, got none; prune it first.")
    return {
        name: torch.from_numpy(np.concatenate([*mask.chunks(), np.empty(0, np.bool_)])).view(
            mask.shape
        )
        for file in files
        for name, mask in open_masks(file).items()
    }


def masks_file_of(path: Path) -> Path | None:
    """Find the masks of a checkpoint's file, if it has any.

    Example:
        >>> masks_file_of(Path("model.safetensors"))
    """
    masks = path.parent / FOLDER / path.name
    return masks if masks.exists() else None


def _checksums(about: Mapping[str, object], header: Header, path: Path) -> dict[str, int]:
    """Return the checksums of a file; none of an old one."""
    listed = about.get("crc32")
    if not about or (about.get("version", 1) == 1 and listed is None):
        return {}
    known = isinstance(listed, dict) and listed.keys() == header.entries.keys()
    texts = listed.values() if isinstance(listed, dict) and known else [None]
    if not all(isinstance(text, str) and re.fullmatch("[0-9a-f]{8}", text) for text in texts):
        raise _wrong(path, "no checksum for every mask")
    if any(entry.dtype != "U8" for entry in header.entries.values()):
        raise _wrong(path, "bools with the checksums of bits")
    return {name: int(text, 16) for name, text in dict(listed or {}).items()}  # type: ignore[call-overload]


def _shape(shapes: object, name: str) -> tuple[int, ...]:
    """Return the shape that the metadata give, or one that fits no bits at all."""
    shape = shapes.get(name) if isinstance(shapes, dict) else None
    if not isinstance(shape, list) or not all(type(n) is int and 0 <= n < 2**63 for n in shape):
        return (-1,)
    return tuple(shape)


def _wrong(path: Path, what: str) -> CheckpointError:
    return CheckpointError(
        f"Expected bool masks, or bits with their shapes, in {path}, got {what}; "
        f"give the file of masks that was written with this checkpoint."
    )
