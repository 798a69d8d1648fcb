"""A teacher's logits, computed once: stored in memory, and on disk if a folder is given.

A training without augmentation needs the logits of each example once, whatever its seed, order,
batch and temperature: `cache_logits`. One that changes its inputs at random needs those of each
step. As its inputs follow from the seed, it shows the same ones when it is run again, and so does
every other student of that seed: `CachedStepLogits`.

Cached and fresh logits are the same bytes. A cached one was computed in the batch in which a fresh
one would be, and both go through the same `LogitEncoding`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from boxwood._internal.core.examples import Examples
from boxwood._internal.core.replacing import disk_errors
from boxwood._internal.core.tensor_files import read_checked, write_tensors
from boxwood._internal.distill.encodings import EncodedLogits, Float32, LogitEncoding
from boxwood._internal.distill.ensembles import Forward
from boxwood._internal.distill.losses import TeacherTargets
from boxwood.errors import CheckpointError, InvalidInput

STEPS_PER_SHARD = 256
_DEFAULT_ENCODING = Float32()


@dataclass(frozen=True)
class Shards:
    """Numbered files of tensors in a folder, each there whole or not at all.

    Several processes may write the same shard: they write the same bytes, and the last one stays.

    Args:
        folder: made when something is first written; what it holds can be computed again.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Shards(Path(folder)).write(3, {"a": torch.ones(2)})
        ...     Shards(Path(folder)).read(3)
        {'a': tensor([1., 1.])}
    """

    folder: Path

    def read(self, number: int) -> EncodedLogits | None:
        """Read a shard; None if it is not there.

        Raises:
            CheckpointError: the file is not what was written.
        """
        path = self._path(number)
        if not path.exists():
            return None
        try:
            return read_checked(path).tensors
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"Expected undamaged logits of a teacher at {path}, got a file that cannot be used "
                f"({error}); delete it: they are computed again."
            ) from error

    def write(self, number: int, tensors: Mapping[str, Tensor]) -> None:
        """Write a shard in place of what was there.

        Raises:
            CheckpointError: the disk is full or not writable; no unfinished file is left.
        """
        path = self._path(number)
        way_out = "free some space, or train without keeping them."
        with disk_errors(f"a teacher's logits into {self.folder}", way_out):
            self.folder.mkdir(parents=True, exist_ok=True)
            write_tensors(path, tensors)

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06d}.safetensors"


@dataclass(frozen=True, eq=False)
class CachedLogits:
    """A teacher's logits of all examples; called with a batch, it makes the `TeacherTargets`.

    Args:
        kept: encoded logits, tensors whose first dimension is the examples.
        encoding: decodes them.
    """

    kept: EncodedLogits
    encoding: LogitEncoding

    def __call__(
        self,
        step: int,  # noqa: ARG002 - see `MakeTargets`
        indices: Tensor,
        inputs: Tensor,  # noqa: ARG002 - see `MakeTargets`
        labels: Tensor,
    ) -> TeacherTargets:
        """Look up the logits of a batch.

        Args:
            step: not used.
            indices: int64 [N].
            inputs: not used.
            labels: int64 [N].
        """
        chosen = {
            name: tensor.index_select(0, indices.to(tensor.device))
            for name, tensor in self.kept.items()
        }
        return TeacherTargets(labels, self.encoding.decode(chosen))


def cache_logits(
    forward: Forward,
    examples: Examples,
    *,
    encoding: LogitEncoding = _DEFAULT_ENCODING,
    batch: int = 1000,
    shards: Shards | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> CachedLogits:
    """Compute a teacher's logits of every example, in their order; shards that exist are read.

    Args:
        forward: the teacher.
        examples: N of them, at least one.
        encoding: the form in which logits are kept; the student learns from what is kept.
        batch: examples per forward pass and per shard, at least 1.
        shards: where logits are kept; None for memory only.
        progress: called with (done, all), in examples, after each batch.

    Raises:
        InvalidInput: the teacher does not return finite logits [N, C].
        CheckpointError: a shard is damaged or of another length, or the disk is full.

    Example:
        >>> from boxwood.data import InMemory
        >>> known = cache_logits(lambda x: 2 * x, InMemory(torch.eye(2), torch.tensor([0, 1])))
        >>> known(0, torch.tensor([1]), torch.empty(0), torch.tensor([1])).logits
        tensor([[0., 2.]])
    """
    total = len(examples)
    parts: list[EncodedLogits] = []
    for number, indices in enumerate(torch.arange(total).split(batch)):
        part = None if shards is None else shards.read(number)
        if part is None:
            inputs, _ = examples.take(indices)
            part = encoding.encode(_checked(forward(inputs), len(indices)))
            if shards is not None:
                shards.write(number, part)
        elif any(len(tensor) != len(indices) for tensor in part.values()):
            assert shards is not None  # noqa: S101 - it was read from them
            raise CheckpointError(
                f"Expected logits of {len(indices)} examples in shard {number} of "
                f"{shards.folder}, got others; give these examples their own folder."
            )
        parts.append(part)
        if progress is not None:
            progress(min(total, (number + 1) * batch), total)
    whole = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    return CachedLogits(whole, encoding)


class CachedStepLogits:
    """A teacher's logits of the batches of one training, each step's computed once.

    Args:
        forward: the teacher.
        encoding: the form in which logits are kept; the student learns from what is kept.
        shards: where logits are kept; None to compute them every time. The folder belongs to one
            teacher and one sequence of inputs: examples, seed, order, batch and augmentation.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for source in (lambda x: 2 * x, None):  # the second time they are read
        ...         known = CachedStepLogits(source, Float32(), Shards(Path(folder)))
        ...         known(7, torch.tensor([0]), torch.ones(1, 2), torch.tensor([1])).logits
        ...         known.close()
        tensor([[2., 2.]])
        tensor([[2., 2.]])
    """

    def __init__(self, forward: Forward, encoding: LogitEncoding, shards: Shards | None) -> None:
        self._forward, self._encoding, self._shards = forward, encoding, shards
        self._open: int | None = None
        self._steps: dict[int, EncodedLogits] = {}
        self._fresh = False

    def __call__(
        self,
        step: int,
        indices: Tensor,  # noqa: ARG002 - see `MakeTargets`
        inputs: Tensor,
        labels: Tensor,
    ) -> TeacherTargets:
        """Compute or read the logits of a step's batch.

        Args:
            step: counted from the beginning of the whole training.
            indices: not used.
            inputs: as the student sees them, [N, ...].
            labels: int64 [N].

        Raises:
            InvalidInput: as for `cache_logits`.
            CheckpointError: likewise.
        """
        number = step // STEPS_PER_SHARD
        if self._shards is not None and number != self._open:
            self.close()
            self._open, self._steps = number, _by_step(self._shards.read(number) or {})
        kept = self._steps.get(step)
        if kept is None:
            kept = self._encoding.encode(_checked(self._forward(inputs), len(labels)))
            if self._shards is not None:
                self._steps[step], self._fresh = kept, True
        logits = self._encoding.decode(kept)
        if len(logits) != len(labels):
            raise CheckpointError(
                f"Expected kept logits of {len(labels)} examples at step {step}, got "
                f"{len(logits)}; they belong to another training: give each training its own "
                f"folder."
            )
        return TeacherTargets(labels, logits)

    def close(self) -> None:
        """Write what is not yet on disk."""
        if self._shards is not None and self._open is not None and self._fresh:
            flat = {f"{s}/{n}": t for s, kept in self._steps.items() for n, t in kept.items()}
            self._shards.write(self._open, flat)
        self._fresh = False


def _by_step(flat: EncodedLogits) -> dict[int, EncodedLogits]:
    steps: dict[int, EncodedLogits] = {}
    for name, tensor in flat.items():
        step, _, part = name.partition("/")
        steps.setdefault(int(step), {})[part] = tensor
    return steps


def _checked(logits: Tensor, count: int) -> Tensor:
    if logits.dim() != 2 or len(logits) != count or not logits.isfinite().all():
        raise InvalidInput(
            f"Expected a teacher that returns finite logits [{count}, classes] of {count} "
            f"inputs, got {'NaN or infinite values' if len(logits) == count else 'a tensor'} of "
            f"shape {tuple(logits.shape)}; check the teacher on one batch."
        )
    return logits.cpu()  # where they are kept, and hashed
