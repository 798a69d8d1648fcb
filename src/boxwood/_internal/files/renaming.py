"""A copy of a checkpoint without some of its tensors, and with other names for the rest.

Bytes go from file to file in chunks, so that what is held is a chunk and never a tensor.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from boxwood._internal.core.replacing import disk_errors, replacing_folder
from boxwood._internal.files.checkpoint import Checkpoint, Shard
from boxwood._internal.files.header import Entry, Header, make_header, preamble
from boxwood._internal.files.mask_files import FOLDER
from boxwood._internal.files.rewriting import DTYPES, copy_texts, put
from boxwood._internal.files.writing import check_new_folder, check_space
from boxwood.errors import CheckpointError


@dataclass(frozen=True)
class RenamedCopy:
    """A copy that is being written.

    Args:
        folder: its place for the time being.
        places: file and entry of each tensor, by its new name.
    """

    folder: Path
    places: Mapping[str, tuple[Path, Entry]]

    def write(self, name: str, tensor: Tensor) -> None:
        """Write new values of the stored shape, in the stored type.

        Raises:
            CheckpointError: another shape.
        """
        path, entry = self.places[name]
        if tuple(tensor.shape) != entry.shape:
            raise CheckpointError(
                f"Expected {name!r} of shape {entry.shape}, got {tuple(tensor.shape)}; give one of "
                f"the stored shape."
            )
        put(path, entry.start, tensor.cpu().to(DTYPES[entry.dtype]))


@contextmanager
def renamed_copy(
    source: Path,
    checkpoint: Checkpoint,
    out: Path,
    names: Mapping[str, str],
    *,
    follow_links: bool = False,
) -> Iterator[RenamedCopy]:
    """Copy some tensors of a checkpoint, and its texts, into a folder that appears once all is there.

    Files keep their names; one of which nothing is left is not written.

    Args:
        source: what the checkpoint was opened from.
        checkpoint: it is only read.
        out: a folder that does not exist yet, or is empty.
        names: the new name of every tensor that stays, by its old one.
        follow_links: copy texts that are links, as in a download cache.

    Yields:
        The copy, in which tensors can be written again.

    Raises:
        CheckpointError: the folder holds something, the disk is full, or the checkpoint has masks, whose
            tensors would lose them.
    """
    check_new_folder(out)
    if (source / FOLDER).is_dir():
        raise CheckpointError(
            f"Expected a checkpoint without masks, got {source / FOLDER}, which the copy would lose; "
            f"remove blocks first and prune afterwards."
        )
    kept = {
        shard.name: [tensor for tensor in shard.tensors() if tensor.name in names]
        for shard in checkpoint.shards
    }
    with disk_errors(out), replacing_folder(out) as new:
        check_space(new, sum(tensor.entry.bytes for each in kept.values() for tensor in each))
        places: dict[str, tuple[Path, Entry]] = {}
        for shard in checkpoint.shards:
            if kept[shard.name]:
                header = _copied(shard, new / shard.name, names)
                places |= {name: (new / shard.name, e) for name, e in header.entries.items()}
        copy_texts(source, checkpoint.index, new, follow_links=follow_links)
        if checkpoint.index is not None:
            (new / checkpoint.index.name).write_text(_index(places))
        yield RenamedCopy(new, places)


def _copied(shard: Shard, path: Path, names: Mapping[str, str]) -> Header:
    tensors = [tensor for tensor in shard.tensors() if tensor.name in names]
    header = make_header(
        [(names[t.name], t.entry.dtype, t.entry.shape, t.entry.bytes) for t in tensors],
        shard.header.metadata,
        path,
    )
    with path.open("xb") as opened:
        opened.write(preamble(header))
        for tensor in tensors:
            for piece in tensor.chunks():
                opened.write(piece)
    return header


def _index(places: Mapping[str, tuple[Path, Entry]]) -> str:
    size = sum(entry.bytes for _, entry in places.values())
    where = {name: path.name for name, (path, _) in sorted(places.items())}
    index = {"metadata": {"total_size": size}, "weight_map": where}
    return json.dumps(index, indent=2) + "\n"
