"""How the tensors of a checkpoint are laid out in a packed file: chosen when writing, checked when reading.

The format is described in ``docs/format.md``. Its description is in the metadata of the file
itself, because a file that can be separated from what explains it will be.
"""

import json
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boxwood._internal.core.reading import strict_json
from boxwood._internal.files.bits import packed_bytes
from boxwood._internal.files.checkpoint import OnRead, StoredTensor
from boxwood._internal.files.header import (
    FLOATS,
    Entry,
    Header,
    make_header,
    parse_header,
    read_header,
)
from boxwood._internal.files.mask_files import StoredMask, bits_of
from boxwood._internal.files.run_lengths import FieldCounts, runs_between
from boxwood.errors import BoxwoodError, CheckpointError

VERSION = 1
_ABOUT, _HEADER = "boxwood.packed", "boxwood.header"
_LISTING = 80  # bytes that one more tensor takes in a header, in addition to its name


@dataclass(frozen=True)
class TensorLayout:
    """How one tensor lies in a packed file.

    Args:
        name: its dotted name.
        entry: where it lies in the dense file.
        crc32: of its dense bytes.
        kept: values that are kept; None for types that are never packed, and where nobody counted.
        packed: whether values and a mask are stored instead of the dense tensor.
        index_bits: width of the fields of its mask; 0 for plain bits.
        fields: how many fields, or bits, the mask has.
        mask_crc32: of its mask as plain bits.
        pruned: whether its mask was given, and so is data of its own.

    Example:
        >>> eye = TensorLayout("w", Entry("F32", (8, 8), 0, 256), 0, kept=8, packed=True, fields=64)
        >>> eye.bytes, eye.sparsity
        (40, 0.875)
    """

    name: str
    entry: Entry
    crc32: int
    kept: int | None = None
    packed: bool = False
    index_bits: int = 0
    fields: int = 0
    mask_crc32: int = 0
    pruned: bool = False

    @property
    def mask_bytes(self) -> int:
        """Bytes of the mask, a multiple of 8, so that what follows it stays aligned."""
        return -(-packed_bytes(self.fields, self.index_bits or 1) // 8) * 8

    @property
    def bytes(self) -> int:
        """Bytes of its data in the packed file."""
        return (
            (self.kept or 0) * self.entry.itemsize + self.mask_bytes
            if self.packed
            else self.entry.bytes
        )

    @property
    def sparsity(self) -> float | None:
        """Fraction of dropped values; None where nobody counted."""
        return None if self.kept is None else 1 - self.kept / max(self.entry.count, 1)


def choose_layout(
    tensor: StoredTensor,
    mask: StoredMask | None = None,
    on_read: OnRead = lambda size: None,  # noqa: ARG005
) -> TensorLayout:
    """Choose how a tensor is stored, by reading it once.

    It is packed if that takes fewer bytes, or if it has a mask, which must not be lost.

    Args:
        tensor: any tensor; only floats are ever packed.
        mask: what pruning keeps of it; without one, what is not ``+0.0`` is kept.
        on_read: called with progress.

    Raises:
        CheckpointError: the mask is of another shape, or drops values that are not zero.

    Example:
        >>> import tempfile
        >>> with tempfile.NamedTemporaryFile() as file:
        ...     _ = Path(file.name).write_bytes(bytes([0, 60]) + bytes(1998))
        ...     layout = choose_layout(StoredTensor("w", Path(file.name), Entry("F16", (1000,), 0, 2000)))
        >>> layout.kept, layout.packed, layout.bytes
        (1, True, 10)
    """
    crc = 0
    if tensor.entry.dtype not in FLOATS:
        if mask is not None:
            raise CheckpointError(
                f"Expected masks for float tensors, got one for {tensor.name!r} of type "
                f"{tensor.entry.dtype}; leave it out."
            )
        for piece in tensor.chunks():
            crc = zlib.crc32(piece, crc)
            on_read(len(piece))
        return TensorLayout(tensor.name, tensor.entry, crc)
    kept, mask_crc, last, counts = 0, 0, -1, FieldCounts()
    for raw, keep in kept_chunks(tensor, mask):
        crc = zlib.crc32(raw.data, crc)
        mask_crc = zlib.crc32(bits_of(keep), mask_crc)
        positions = np.flatnonzero(keep)
        kept += len(positions)
        counts.add_(runs_between(positions, last))
        last = last_before(positions, last, len(keep))
        on_read(raw.nbytes)
    width, fields = counts.best()
    if packed_bytes(fields, width) >= packed_bytes(tensor.entry.count, 1):
        width, fields = 0, tensor.entry.count
    packed = TensorLayout(
        tensor.name, tensor.entry, crc, kept, True, width, fields, mask_crc, mask is not None
    )
    if mask is not None or packed.bytes + _LISTING + len(tensor.name) < tensor.entry.bytes:
        return packed
    return TensorLayout(tensor.name, tensor.entry, crc, kept)


def choose_layouts(
    source: Path, header: Header, masks: Mapping[str, StoredMask], on_read: OnRead
) -> list[TensorLayout]:
    """Choose how every tensor of a file is stored.

    Raises:
        CheckpointError: a mask names no tensor, or does not fit.
    """
    if strangers := sorted(masks.keys() - header.entries.keys()):
        raise CheckpointError(
            f"Expected masks for tensors of {source}, got one for {strangers[0]!r}; give the masks "
            f"of this file."
        )
    return [
        choose_layout(StoredTensor(name, source, entry), masks.get(name), on_read)
        for name, entry in header.entries.items()
    ]


def kept_chunks(
    tensor: StoredTensor, mask: StoredMask | None
) -> Iterator[tuple[NDArray[Any], NDArray[np.bool_]]]:
    """Read the patterns of a tensor's floats as integers, and which of them are kept."""
    if mask is not None and mask.shape != tensor.entry.shape:
        raise CheckpointError(
            f"Expected a mask of shape {tensor.entry.shape} for {tensor.name!r}, got {mask.shape}; "
            f"give the masks of this file."
        )
    given = None if mask is None else mask.chunks()
    for piece in tensor.chunks():
        raw = np.frombuffer(piece, f"<u{tensor.entry.itemsize}")
        used = raw != 0
        if given is None:
            yield raw, used
            continue
        keep = next(given)
        if lost := int(np.count_nonzero(used & ~keep)):
            raise CheckpointError(
                f"Expected masks that were applied, got {lost} values that are not +0.0 where the "
                f"mask of {tensor.name!r} drops them; write zeros there first, or pack without masks."
            )
        yield raw, keep


def last_before(positions: NDArray[np.int64], last: int, length: int) -> int:
    """Return the last kept position, as the chunk after this one counts.

    Example:
        >>> last_before(np.array([2, 5]), -1, 8), last_before(np.array([], np.int64), -1, 8)
        (-3, -9)
    """
    return (int(positions[-1]) if len(positions) else last) - length


def in_order(layouts: Sequence[TensorLayout]) -> list[TensorLayout]:
    """Order tensors as a packed file holds them: wide types first, so that all are aligned."""
    return sorted(layouts, key=lambda layout: -layout.entry.itemsize)


def packed_header(header: Header, layouts: Sequence[TensorLayout], path: Path) -> Header:
    """Lay out the packed file of a dense one.

    Raises:
        CheckpointError: its header would be longer than any that is read.
    """
    parts: list[tuple[str, str, tuple[int, ...], int]] = []
    for layout in in_order(layouts):
        name, entry = layout.name, layout.entry
        if layout.packed:
            kept = layout.kept or 0
            parts.append((f"values/{name}", entry.dtype, (kept,), kept * entry.itemsize))
            parts.append((f"mask/{name}", "U8", (layout.mask_bytes,), layout.mask_bytes))
        else:
            parts.append((f"dense/{name}", entry.dtype, entry.shape, entry.bytes))
    about = {
        "version": VERSION,
        "bytes": 8 + len(header.text) + sum(entry.bytes for entry in header.entries.values()),
        "header_crc32": f"{zlib.crc32(header.text):08x}",
        "tensors": {layout.name: _described(layout) for layout in layouts},
    }
    text = json.dumps(about, separators=(",", ":"), ensure_ascii=False)
    return make_header(parts, {_ABOUT: text, _HEADER: header.text.decode()}, path)


def is_packed(header: Header) -> bool:
    """Say whether a file claims to be packed.

    Example:
        >>> is_packed(Header({}, {}, b"{}"))
        False
    """
    return header.metadata.keys() >= {_ABOUT, _HEADER}


def refuse_packed(header: Header, path: Path) -> None:
    """Refuse a packed file where a dense one is needed.

    Raises:
        CheckpointError: it is packed.

    Example:
        >>> refuse_packed(Header({}, {}, b"{}"), Path("a"))
    """
    if is_packed(header):
        raise CheckpointError(
            f"Expected a dense checkpoint, got {path}, which is packed; `boxwood unpack` it first."
        )


def open_packed(path: Path) -> tuple[Header, Header, list[TensorLayout]]:
    """Read what a packed file says of itself, and check it.

    Returns:
        Its own header, the header of the dense file, and the layouts in the order of the latter.

    Raises:
        CheckpointError: the file is not packed, or contradicts itself.

    Example:
        >>> import tempfile
        >>> with tempfile.NamedTemporaryFile() as file:
        ...     _ = Path(file.name).write_bytes(bytes([2, 0, 0, 0, 0, 0, 0, 0]) + b"{}")
        ...     open_packed(Path(file.name))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        boxwood.errors.CheckpointError: Expected a packed file, got ... pack it first.
    """
    outer = read_header(path)
    if not is_packed(outer):
        raise CheckpointError(
            f"Expected a packed file, got {path} without the description that `boxwood pack` "
            f"writes; pack it first."
        )
    text = outer.metadata[_HEADER].encode()
    try:
        about = strict_json(outer.metadata[_ABOUT].encode())
        if about.get("version") != VERSION:
            raise ValueError(f"version {about.get('version')!r}, this Boxwood knows {VERSION}")
        if about["header_crc32"] != f"{zlib.crc32(text):08x}":
            raise ValueError("a header with another checksum")
        inner = parse_header(text, _natural(about["bytes"]), path)
        if list(about["tensors"]) != list(inner.entries):
            raise ValueError("descriptions of other tensors")
        layouts = [
            _understood(name, entry, about["tensors"][name])
            for name, entry in inner.entries.items()
        ]
        expected = packed_header(inner, layouts, path)
    except BoxwoodError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise damaged(path, f"{type(error).__name__}: {error}"[:200]) from error
    if expected.entries != {n: _moved(e, outer, expected) for n, e in outer.entries.items()}:
        raise damaged(path, "tensors that are not those that it describes")
    return outer, inner, layouts


def damaged(path: Path, what: str) -> CheckpointError:
    """Make the error for a packed file that contradicts itself."""
    return CheckpointError(
        f"Expected an undamaged packed file at {path}, got {what}; copy it again, or pack again."
    )


def _described(layout: TensorLayout) -> dict[str, Any]:
    about: dict[str, Any] = {"crc32": f"{layout.crc32:08x}"}
    if layout.packed:
        about |= {
            "kept": layout.kept,
            "index_bits": layout.index_bits,
            "fields": layout.fields,
            "mask_crc32": f"{layout.mask_crc32:08x}",
            "pruned": layout.pruned,
        }
    return about


def _understood(name: str, entry: Entry, about: Mapping[str, Any]) -> TensorLayout:
    crc = _checksum(about["crc32"])
    if about.keys() == {"crc32"}:
        return TensorLayout(name, entry, crc)
    kept, index_bits, fields = (_natural(about[key]) for key in ("kept", "index_bits", "fields"))
    plain = index_bits == 0 and fields == entry.count
    if (
        entry.dtype not in FLOATS
        or kept > entry.count
        or not (plain or (2 <= index_bits <= 16 and kept <= fields))
        or type(about["pruned"]) is not bool
    ):
        raise ValueError(f"an impossible description of {name!r}")
    mask_crc = _checksum(about["mask_crc32"])
    return TensorLayout(name, entry, crc, kept, True, index_bits, fields, mask_crc, about["pruned"])


def _moved(entry: Entry, old: Header, new: Header) -> Entry:
    """Give an entry the place that it would have after a header of another length."""
    by = len(new.text) - len(old.text)
    return Entry(entry.dtype, entry.shape, entry.start + by, entry.end + by)


def _natural(number: object) -> int:
    if type(number) is not int or not 0 <= number < 2**63:
        raise ValueError(f"{ascii(number)[:40]}, which is no size")
    return number


def _checksum(text: object) -> int:
    if not isinstance(text, str) or not re.fullmatch("[0-9a-f]{8}", text):
        raise ValueError(f"{ascii(text)[:40]}, which is no CRC-32")
    return int(text, 16)
