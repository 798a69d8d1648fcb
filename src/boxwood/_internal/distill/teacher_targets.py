"""A teacher's predictions for pieces of text: computed on demand, or once and stored on disk."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from boxwood._internal.core.replacing import write_whole
from boxwood._internal.distill.cached_logits import Shards
from boxwood._internal.distill.encodings import EncodedLogits, TopK
from boxwood.errors import CheckpointError, InvalidInput

Forward = Callable[[Tensor], Tensor]
"""Token ids [N, T] to logits [N, T, V], without gradients."""
Targets = Callable[[Tensor, Tensor], Tensor | EncodedLogits]
"""Numbers of pieces [N] and their ids [N, T] to logits, or what is kept of them."""
ABOUT = "teacher.json"


def computed(forward: Forward) -> Targets:
    """Ask the teacher every time.

    Example:
        >>> ask = computed(lambda ids: torch.zeros(*ids.shape, 3))
        >>> ask(torch.tensor([0]), torch.tensor([[1, 2]])).shape
        torch.Size([1, 2, 3])
    """

    def targets(pieces: Tensor, ids: Tensor) -> Tensor:  # noqa: ARG001 - see `Targets`
        return forward(ids)

    return targets


@dataclass(frozen=True)
class KeptTargets:
    """The most probable words of each piece, computed when it is first read and kept in a folder.

    The student learns from what is kept, the first time too; so a training that is taken up again
    learns the same.

    Args:
        load: makes the teacher; called when a piece is not there yet, and never where all are.
        shards: a file for each piece.
        encoding: of the logits.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for load in (lambda: lambda ids: torch.zeros(*ids.shape, 3), None):
        ...         ask = KeptTargets(load, Shards(Path(folder)), TopK(1, classes=3))
        ...         kept = ask(torch.tensor([7]), torch.tensor([[1, 2]]))
        >>> kept["values"].shape, kept["rest"].shape
        (torch.Size([2, 1]), torch.Size([2, 1]))
    """

    load: Callable[[], Forward]
    shards: Shards
    encoding: TopK
    _loaded: list[Forward] = field(default_factory=list)

    def __call__(self, pieces: Tensor, ids: Tensor) -> EncodedLogits:
        """Read what is kept of the pieces, or compute and keep it.

        Raises:
            CheckpointError: a file is damaged, or belongs to a text that is cut in another way.
        """
        numbers = [int(piece) for piece in pieces]
        found = {number: self.shards.read(number) for number in numbers}
        if any(each is None for each in found.values()):
            if not self._loaded:
                self._loaded.append(self.load())
            logits = self._loaded[0](ids)
            for number, mine in zip(numbers, logits, strict=True):
                if found[number] is None:
                    found[number] = {n: t.cpu() for n, t in self.encoding.encode(mine).items()}
                    self.shards.write(number, found[number] or {})
        kept = [each for number in numbers if (each := found[number]) is not None]
        if any(len(tensor) != ids.shape[1] for each in kept for tensor in each.values()):
            raise CheckpointError(
                f"Expected a teacher's stored tokens for pieces of {ids.shape[1]} tokens in "
                f"{self.shards.folder}, got other ones; delete the folder: they will be "
                f"computed again."
            )
        return {name: torch.cat([each[name] for each in kept]) for name in kept[0]}


def claim_folder(folder: Path, about: dict[str, Any]) -> None:
    """Say whose words a folder keeps, or refuse one that keeps another teacher's or another text's.

    Raises:
        InvalidInput: it keeps others.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     claim_folder(Path(folder) / "kept", {"teacher": "a"})
        ...     claim_folder(Path(folder) / "kept", {"teacher": "a"})
    """
    path = folder / ABOUT
    if not path.exists():
        if folder.is_dir() and any(folder.iterdir()):
            raise InvalidInput(
                f"Expected a new or empty folder, or one with a teacher's stored tokens, got "
                f"{folder}, which has other contents; give another."
            )
        write_whole(path, json.dumps(about, indent=1).encode())
        return
    found = json.loads(path.read_text())
    other = [name for name in about if found.get(name) != about[name]]
    if other:
        raise InvalidInput(
            f"Expected stored tokens of this teacher for this text in {folder}, got those of "
            f"another "
            f"{', '.join(other)}; give another folder, or delete this one."
        )


def digest_of(folder: Path) -> str:
    """Return the SHA-256 of a model: of its configuration and its weights.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = (Path(folder) / "config.json").write_text("{}")
        ...     digest_of(Path(folder))[:8]
        '310141a6'
    """
    digest = hashlib.sha256()
    for path in sorted([*folder.glob("*.safetensors"), folder / "config.json"]):
        digest.update(path.name.encode())
        with path.open("rb") as opened:
            digest.update(hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest()
