"""A copy of a checkpoint in which some tensors are written again, with their masks.

Tensors keep names, shapes, types and places, so the copy is laid out like the original, and one
tensor after the other can be written into it: what is held is a tensor, not a shard.
"""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from boxwood._internal.core.replacing import disk_errors, replacing_folder
from boxwood._internal.files.checkpoint import Checkpoint, StoredTensor, companion_files
from boxwood._internal.files.header import Entry, Header, preamble
from boxwood._internal.files.mask_files import FOLDER, bits_of, checksum, mask_header
from boxwood._internal.files.thresholds import FLOAT_DTYPES
from boxwood._internal.files.writing import check_new_folder, check_space
from boxwood.errors import CheckpointError

DTYPES = FLOAT_DTYPES | {
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""Types of torch, by their names in a file."""


def read_tensor(stored: StoredTensor) -> Tensor:
    """Read a tensor into memory of its own.

    Raises:
        CheckpointError: its type is none of torch's usual ones, or the file cannot be read.

    Example:
        >>> read_tensor(StoredTensor("w", Path("a.safetensors"), Entry("F8_E8M0", (1,), 0, 1)))
        Traceback (most recent call last):
        ...
        boxwood.errors.CheckpointError: Expected floats, integers or bools, got F8_E8M0 for 'w' in a.safetensors; convert the checkpoint to bfloat16 first.
    """
    entry = stored.entry
    if entry.dtype not in DTYPES:
        raise CheckpointError(
            f"Expected floats, integers or bools, got {entry.dtype} for {stored.name!r} in "
            f"{stored.path}; convert the checkpoint to bfloat16 first."
        )
    tensor = torch.empty(entry.shape, dtype=DTYPES[entry.dtype])
    raw, done = tensor.view(-1).view(torch.uint8), 0
    for piece in stored.chunks():
        raw[done : done + len(piece)] = torch.frombuffer(piece, dtype=torch.uint8)
        done += len(piece)
    return tensor


@contextmanager
def rewritten_copy(
    source: Path,
    checkpoint: Checkpoint,
    out: Path,
    masked: Mapping[str, StoredTensor],
    *,
    follow_links: bool = False,
) -> Iterator["RewrittenCopy"]:
    """Copy a checkpoint and its texts into a new folder, which appears once all is there.

    Args:
        source: what the checkpoint was opened from.
        checkpoint: it is only read.
        out: a folder that does not exist yet, or is empty.
        masked: what will be written again, by name.
        follow_links: copy texts that are links, as in a download cache.

    Yields:
        The copy, by which tensors are written.

    Raises:
        CheckpointError: the folder holds something, the disk is full, or a tensor was not written.
    """
    check_new_folder(out)
    with disk_errors(out), replacing_folder(out) as new:
        check_space(new, sum(shard.bytes for shard in checkpoint.shards))
        places: dict[str, Entry] = {}
        shapes: dict[str, dict[str, tuple[int, ...]]] = {}
        for shard in checkpoint.shards:
            shutil.copyfile(shard.path, new / shard.name)
            inside = {t.name: t.entry.shape for t in shard.tensors() if t.name in masked}
            if inside:
                places |= _blank_masks(new / FOLDER / shard.name, inside).entries
                shapes[shard.name] = inside
        copy_texts(source, checkpoint.index, new, follow_links=follow_links)
        copy = RewrittenCopy(new, dict(masked), places, {})
        yield copy
        if copy.left:
            raise CheckpointError(
                f"Expected every masked tensor to be written, got no {min(copy.left)!r}; write each "
                f"one before the copy ends."
            )
        for name, inside in shapes.items():
            path = new / FOLDER / name
            _put(path, 0, preamble(mask_header(inside, path, copy.checksums)))


def copy_texts(source: Path, index: Path | None, new: Path, *, follow_links: bool = False) -> None:
    """Copy the index, and the texts without which no model can be loaded from a folder.

    Example:
        >>> copy_texts(Path("gone"), None, Path("gone"))
    """
    for path in companion_files(source, index, follow_links=follow_links):
        shutil.copyfile(path, new / path.name)
    # Sentence encoders keep the settings of their pooling in folders of their own.
    for path in sorted(source.glob("[!.]*/*.json")):
        if follow_links or not (path.is_symlink() or path.parent.is_symlink()):
            (new / path.parent.name).mkdir(exist_ok=True)
            shutil.copyfile(path, new / path.parent.name / path.name)


@dataclass(frozen=True)
class RewrittenCopy:
    """A copy that is being written.

    Args:
        folder: its place for the time being.
        left: what is still to be written again.
        masks: where the bits of each mask go.
        checksums: of the masks that were written.
    """

    folder: Path
    left: dict[str, StoredTensor]
    masks: Mapping[str, Entry]
    checksums: dict[str, int]

    def write(self, name: str, weight: Tensor, mask: Tensor) -> None:
        """Write new values, of the stored shape, and their mask.

        Raises:
            CheckpointError: another shape.
        """
        stored = self.left.pop(name)
        if not weight.shape == mask.shape == torch.Size(stored.entry.shape):
            raise CheckpointError(
                f"Expected {name!r} of shape {stored.entry.shape}, got {tuple(weight.shape)} and a "
                f"mask of {tuple(mask.shape)}; give both the stored shape."
            )
        file = stored.path.name
        put(self.folder / file, stored.entry.start, weight.cpu().to(DTYPES[stored.entry.dtype]))
        bits = bits_of(mask.cpu().numpy())
        self.checksums[name] = checksum(name, stored.entry.shape, bits)
        _put(self.folder / FOLDER / file, self.masks[name].start, bits)


def _blank_masks(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> Header:
    """Lay out the masks of a shard, so that each can be put into its place."""
    path.parent.mkdir(exist_ok=True)
    header = mask_header(shapes, path)
    with path.open("xb") as opened:
        opened.write(preamble(header))
        opened.truncate(max(entry.end for entry in header.entries.values()))
    return header


def put(path: Path, start: int, tensor: Tensor) -> None:
    """Write the bytes of a tensor into a file that is there.

    Example:
        >>> put(Path("gone"), 0, torch.ones(1))
        Traceback (most recent call last):
        ...
        FileNotFoundError: [Errno 2] No such file or directory: 'gone'
    """
    _put(path, start, tensor.detach().contiguous().flatten().view(torch.uint8).numpy().data)


def _put(path: Path, start: int, data: bytes | memoryview) -> None:
    with path.open("r+b") as opened:
        opened.seek(start)
        opened.write(data)
