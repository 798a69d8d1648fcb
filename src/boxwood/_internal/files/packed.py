"""Packed checkpoints: the kept values and a mask of every sparse tensor, in a safetensors file.

What is packed comes back byte for byte, because a value is dropped only if all its bits are zero. A
mask that is given decides what is kept, kept zeros included, and comes back as well. The format is
described in ``docs/format.md``, with a reader of one page in numpy alone.
"""

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from boxwood._internal.files.bits import pack, packed_bytes
from boxwood._internal.files.checkpoint import CHUNK, OnRead, StoredTensor, read_chunks
from boxwood._internal.files.header import Header, preamble, read_header
from boxwood._internal.files.layout import (
    TensorLayout,
    choose_layouts,
    damaged,
    in_order,
    is_packed,
    kept_chunks,
    last_before,
    open_packed,
    packed_header,
)
from boxwood._internal.files.mask_files import (
    StoredMask,
    bits_of,
    bool_chunks,
    open_masks,
    writing_with_masks,
)
from boxwood._internal.files.quantised import refuse_unprunable
from boxwood._internal.files.run_lengths import BLOCK, pack_runs, runs_between, unpack_masks
from boxwood._internal.files.writing import check_space, whole_file


def pack_file(
    source: Path,
    target: Path,
    masks: Path | None = None,
    on_read: OnRead = lambda size: None,  # noqa: ARG005
) -> list[TensorLayout]:
    """Write a checkpoint's file in packed form, holding no more than a few chunks of it.

    Args:
        source: a safetensors file.
        target: the file to write.
        masks: a file of masks for some of its tensors; without one, everything except ``+0.0`` is
            kept.
        on_read: called with progress; every byte is read twice.

    Returns:
        How each tensor is stored in the new file, in the order of the old one.

    Raises:
        CheckpointError: a file is damaged, quantised or an adapter, a mask does not fit or was not
            applied, or the disk is full.

    Example:
        >>> import tempfile, torch
        >>> from safetensors.torch import save_file
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     dense, packed = Path(folder) / "a.safetensors", Path(folder) / "packed.safetensors"
        ...     save_file({"fc": torch.eye(64)}, dense)
        ...     layouts = pack_file(dense, packed)
        ...     _ = unpack_file(packed, Path(folder) / "b.safetensors")
        ...     (Path(folder) / "b.safetensors").read_bytes() == dense.read_bytes()
        True
        >>> layouts[0].entry.bytes, layouts[0].bytes
        (16384, 312)
    """
    header = read_header(source)
    refuse_unprunable(source, [source])
    found = {} if masks is None else open_masks(masks)
    layouts = choose_layouts(source, header, found, on_read)
    outer = packed_header(header, layouts, target)
    with whole_file(target) as opened:
        opened.write(preamble(outer))
        for layout in in_order(layouts):
            tensor = StoredTensor(layout.name, source, layout.entry)
            if layout.packed:
                _write_packed(opened, outer, tensor, layout, found.get(layout.name), on_read)
                continue
            for piece in tensor.chunks():
                opened.write(piece)
                on_read(len(piece))
    return layouts


def unpack_file(
    source: Path,
    target: Path,
    on_read: OnRead = lambda size: None,  # noqa: ARG005
) -> list[TensorLayout]:
    """Restore the dense file that was packed, byte for byte, and write its masks to ``masks/``.

    Args:
        source: a packed file.
        target: the file to write.
        on_read: called with progress.

    Raises:
        CheckpointError: the file is damaged, which is noticed before the target is written, or the
            disk is full.

    Example:
        >>> unpack_file(Path("gone.safetensors"), Path("dense.safetensors"))
        Traceback (most recent call last):
        ...
        boxwood.errors.CheckpointError: Expected a safetensors file at gone.safetensors, got none; check the path.
    """
    outer, inner, layouts = open_packed(source)
    check_space(target.parent, sum(layout.entry.bytes for layout in layouts))
    shapes = {layout.name: layout.entry.shape for layout in layouts if layout.pruned}
    with writing_with_masks(target, inner, shapes) as (weights, bits):
        for layout in layouts:
            for raw, mask in restored(source, outer, layout):
                weights.write(raw.data)
                if layout.pruned and bits is not None and mask is not None:
                    bits.write(bits_of(mask))
                on_read(raw.nbytes)
    return layouts


def dense_pieces(source: Path) -> Iterator[bytes | memoryview]:
    """Read the bytes of a dense file piece by piece, out of a packed file or of itself.

    Raises:
        CheckpointError: the file is damaged.
    """
    header = read_header(source)
    if not is_packed(header):
        yield from read_chunks(source, 0, source.stat().st_size, 4 * CHUNK)
        return
    outer, inner, layouts = open_packed(source)
    yield preamble(inner)
    for layout in layouts:
        for raw, _ in restored(source, outer, layout):
            yield raw.data


def restored(
    source: Path, outer: Header, layout: TensorLayout
) -> Iterator[tuple[NDArray[np.generic], NDArray[np.bool_] | None]]:
    """Read a tensor of a packed file chunk by chunk: patterns of its floats, and its mask if packed.

    Raises:
        CheckpointError: it is not what was written; after the chunks, where only all of them show it.
    """
    crc = mask_crc = 0
    if not layout.packed:
        for piece in StoredTensor("", source, outer.entries[f"dense/{layout.name}"]).chunks():
            crc = zlib.crc32(piece, crc)
            yield np.frombuffer(piece, np.uint8), None
    else:
        left = layout.kept or 0
        itemsize = layout.entry.itemsize
        with source.open("rb") as values:
            values.seek(outer.entries[f"values/{layout.name}"].start)
            for mask in _masks(source, outer, layout):
                positions = np.flatnonzero(mask)
                left -= len(positions)
                data = values.read(len(positions) * itemsize)
                if left < 0 or len(data) != len(positions) * itemsize:
                    raise damaged(source, f"a mask of {layout.name!r} that keeps too many values")
                raw = np.zeros(len(mask), f"<u{itemsize}")
                raw[positions] = np.frombuffer(data, raw.dtype)
                crc = zlib.crc32(raw.data, crc)
                mask_crc = zlib.crc32(bits_of(mask), mask_crc)
                yield raw, mask
        if left:
            raise damaged(source, f"a mask of {layout.name!r} that keeps too few values")
    if crc != layout.crc32 or mask_crc != layout.mask_crc32:
        raise damaged(source, f"another checksum for {layout.name!r}")


def _write_packed(
    opened: BinaryIO,
    outer: Header,
    tensor: StoredTensor,
    layout: TensorLayout,
    mask: StoredMask | None,
    on_read: OnRead,
) -> None:
    """Write values and mask in turn, each to its own place."""
    values_at = outer.entries[f"values/{layout.name}"].start
    mask_at, mask_end = (
        getattr(outer.entries[f"mask/{layout.name}"], side) for side in ("start", "end")
    )
    left, last = np.empty(0, np.uint16), -1
    for raw, keep in kept_chunks(tensor, mask):
        positions = np.flatnonzero(keep)
        opened.seek(values_at)
        values_at += opened.write(raw[positions].data)
        if layout.index_bits:
            packed, left = pack_runs(left, runs_between(positions, last), layout.index_bits)
            last = last_before(positions, last, len(keep))
        else:
            packed = bits_of(keep)
        opened.seek(mask_at)
        mask_at += opened.write(packed)
        on_read(raw.nbytes)
    if len(left):
        mask_at += opened.write(pack(left, layout.index_bits))
    opened.write(bytes(mask_end - mask_at))


def _masks(source: Path, outer: Header, layout: TensorLayout) -> Iterator[NDArray[np.bool_]]:
    start = outer.entries[f"mask/{layout.name}"].start
    width = layout.index_bits or 1
    end = start + packed_bytes(layout.fields, width)
    if layout.index_bits:
        stream = read_chunks(source, start, end, BLOCK * width // 8)
        return unpack_masks(stream, layout.fields, width, layout.entry.count, CHUNK)
    return bool_chunks(read_chunks(source, start, end, CHUNK // 8), layout.entry.count)
