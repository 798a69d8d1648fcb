"""Tensors and texts in one safetensors file: written whole, and checked when it is read.

Everything that Boxwood keeps in memory before it writes it goes through here: snapshots, a
teacher's answers, shrunken networks, masks of a training. Files larger than memory are written by
`boxwood._internal.files`, piece by piece, with a checksum for each tensor.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from boxwood._internal.core.reading import check_regular, refuse_pickle
from boxwood._internal.core.replacing import replacing

CHECKSUM = "boxwood.sha256"
"""Key of the checksum among the texts of a file."""

_NO_TEXTS: Mapping[str, str] = {}


@dataclass(frozen=True)
class TensorFile:
    """What a safetensors file holds.

    Args:
        tensors: by name.
        texts: its metadata, without the checksum.
        checksum: the one that the file carries; None where it carries none.
    """

    tensors: dict[str, Tensor]
    texts: dict[str, str]
    checksum: str | None = None


def checksum_of(tensors: Mapping[str, Tensor], text: str = "") -> str:
    """Return the SHA-256 of some tensors and of the text about them, in hexadecimal digits.

    It guards against damage, not against malice: whoever changes a file can change this too.

    Args:
        tensors: by name; their order does not matter.
        text: what is written about them.

    Example:
        >>> checksum_of({"a": torch.ones(2)}) == checksum_of({"a": torch.ones(2, 1)})
        False
    """
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu()
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], texts: Mapping[str, str] = _NO_TEXTS
) -> None:
    """Write tensors, texts and their checksum in place of what was there, whole or not at all.

    Args:
        path: the file, in a folder that exists.
        tensors: by name, on any device; no two may share memory.
        texts: by key; the checksum covers the texts, in the order of their keys, and not the keys:
            whoever reads a text by a key that was changed does not find it.

    Raises:
        OSError: the disk is full or not writable; whoever calls says in its own words what to do.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "a.safetensors"
        ...     write_tensors(path, {"a": torch.ones(2)}, {"from": "here"})
        ...     found = read_checked(path)
        >>> found.tensors, found.texts
        ({'a': tensor([1., 1.])}, {'from': 'here'})
    """
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        with replacing(path) as new:
            save_file(plain, new, {**texts, CHECKSUM: checksum_of(plain, _joined(texts))})
    except SafetensorError as error:  # how the library reports a full disk
        raise OSError(str(error)) from error


def read_tensors(path: Path) -> TensorFile:
    """Read any safetensors file, without a look at its checksum.

    Raises:
        OSError: there is no such file, or it cannot be read.
        ValueError: it is cut short, or no safetensors file.
        CheckpointError: it is a pickle.

    Example:
        >>> read_tensors(Path("gone"))
        Traceback (most recent call last):
        ...
        FileNotFoundError: [Errno 2] No such file or directory: 'gone'
    """
    check_regular(path)
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            texts = dict(file.metadata() or {})
    except SafetensorError as error:
        with path.open("rb") as start:
            refuse_pickle(start.read(4), path)
        raise ValueError(str(error)) from error
    return TensorFile(tensors, texts, texts.pop(CHECKSUM, None))


def read_checked(path: Path, *, older: bool = False) -> TensorFile:
    """Read what `write_tensors` wrote; whoever calls says in its own words what to do about damage.

    Args:
        path: the file.
        older: also take a file that carries no checksum, as older ones do.

    Raises:
        OSError: there is no such file, or it cannot be read.
        ValueError: it is not what was written.
        CheckpointError: it is a pickle.
    """
    found = read_tensors(path)
    if found.checksum is None and older:
        return found
    if found.checksum != checksum_of(found.tensors, _joined(found.texts)):
        raise ValueError("its contents are not those that were written")
    return found


def _joined(texts: Mapping[str, str]) -> str:
    return "".join(texts[key] for key in sorted(texts))
