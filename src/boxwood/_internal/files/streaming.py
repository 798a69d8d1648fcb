"""Magnitude pruning of checkpoints larger than memory, to exact counts.

    thresholds    the k-th largest magnitude, by the radix select of `boxwood._internal.core.selection` over chunks
    write         every shard once: what is pruned becomes zero, everything else is copied

What is held is a few chunks, however large the checkpoint. The input is only read. In the output a
shard appears whole or not at all, after its masks; so a run that was killed goes on with the first
shard that is missing, and the bytes are those of an undisturbed run.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from boxwood._internal.core.allocation import keep_of
from boxwood._internal.core.radix_select import Threshold
from boxwood._internal.core.reading import read_whole, strict_json
from boxwood._internal.core.replacing import UNFINISHED, disk_errors
from boxwood._internal.core.schedules import check_sparsity
from boxwood._internal.core.selection import keep_above_
from boxwood._internal.files.checkpoint import (
    Checkpoint,
    OnRead,
    Shard,
    StoredTensor,
    companion_files,
    open_checkpoint,
)
from boxwood._internal.files.mask_files import FOLDER, bits_of, open_masks, writing_with_masks
from boxwood._internal.files.quantised import refuse_unprunable
from boxwood._internal.files.thresholds import (
    Allocation,
    TensorFilter,
    Thresholds,
    common_dtype,
    global_thresholds,
    is_matrix,
    magnitudes_in,
    prunable_tensors,
)
from boxwood._internal.files.writing import check_space, copy_file, whole_file
from boxwood.errors import CheckpointError

Watch = Callable[[str, int, int], None]
"""Called with what is being done, how many bytes are done, and of how many; 0 where nobody knows."""

REPORT = "pruning.json"
_JOURNAL = ".pruning.json"
_LOCK = ".pruning.lock"
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True)
class PrunedTensor:
    """The mask and the counts of one pruned tensor.

    Args:
        name: its dotted name.
        weights: elements.
        kept: number of kept elements.
        threshold: the smallest kept magnitude; None if every weight was kept.
    """

    name: str
    weights: int
    kept: int
    threshold: float | None


def prune_checkpoint(
    source: Path | str,
    out: Path | str,
    sparsity: float,
    *,
    allocation: Allocation = global_thresholds,
    tensors: TensorFilter = is_matrix,
    follow_links: bool = False,
    watch: Watch = lambda what, done, total: None,  # noqa: ARG005
) -> tuple[PrunedTensor, ...]:
    """Prune a checkpoint by magnitude into a new folder, holding no more than a few chunks of it.

    The folder gets every shard under its name, the index, the other text files if ``source`` is a
    folder, the masks as bits in ``masks/``, and ``pruning.json``, which says what was done. After a
    kill, call it again to resume. If it is already finished, it only reports.

    Args:
        source: a safetensors file, an index of shards, or a folder with one of either.
        out: a folder that is new, empty, or was begun by this same call.
        sparsity: fraction of zeros in [0, 1).
        allocation: `global_thresholds`, or `uniform_thresholds` for the same sparsity in every tensor.
        tensors: which float tensors are pruned.
        follow_links: follow links from shards to other folders.
        watch: called with progress.

    Returns:
        The mask counts of every pruned tensor, sorted by name.

    Raises:
        CheckpointError: the checkpoint is damaged, quantised or an adapter, or has values that are not
            finite; the folder holds something else; or the disk is full; what was finished stays.

    Example:
        >>> import tempfile
        >>> from safetensors.torch import save_file
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_file({"fc": torch.tensor([[3.0, -1.0], [2.0, 0.5]])}, Path(folder) / "a.safetensors")
        ...     prune_checkpoint(Path(folder) / "a.safetensors", Path(folder) / "out", 0.5)
        (PrunedTensor(name='fc', weights=4, kept=2, threshold=2.0),)

    Source: Han, Pool, Tran and Dally (2015), with the default allocation.
    """
    check_sparsity(sparsity)
    source, out = Path(source), Path(out)
    checkpoint = open_checkpoint(source, follow_links=follow_links)
    refuse_unprunable(source, [shard.path for shard in checkpoint.shards])
    chosen = prunable_tensors(checkpoint.tensors(), tensors)
    job = _job(checkpoint, chosen, sparsity, allocation)
    with _claimed(out):
        done = _finished(out, job, checkpoint)
        if done is not None:
            return done
        thresholds = _begin(out, job)
        if thresholds is None:
            thresholds = allocation(chosen, sparsity, _counting(watch, "reading", 0))
            _write_json(out / _JOURNAL, {**job, "thresholds": _encoded(thresholds)})
        left = [shard for shard in checkpoint.shards if not _is_done(out, shard)]
        check_space(out, sum(shard.bytes for shard in left))
        total = sum(shard.bytes for shard in checkpoint.shards)
        on_read = _counting(watch, "writing", total)
        dtype = common_dtype(chosen)
        on_read(total - sum(shard.bytes for shard in left))
        for shard in left:
            _write_shard(shard, out, thresholds, dtype, on_read)
        for path in companion_files(source, checkpoint.index, follow_links=follow_links):
            if path.name != REPORT:
                copy_file(path, out / path.name)
        rows = _count(out, checkpoint, thresholds)
        _check_count(rows, out, sparsity, allocation)
        report = {**job, "tensors": [asdict(row) for row in rows]}
        _write_json(out / REPORT, {k: v for k, v in report.items() if k != "changed"})
        (out / _JOURNAL).unlink()
    return rows


def _write_shard(
    shard: Shard, out: Path, thresholds: Thresholds, dtype: torch.dtype, on_read: OnRead
) -> None:
    """Write the masks of a shard, then the shard; both whole or not at all."""
    shapes = {t.name: t.entry.shape for t in shard.tensors() if t.name in thresholds}
    with writing_with_masks(out / shard.name, shard.header, shapes) as (weights, bits):
        for tensor in shard.tensors():
            threshold = thresholds.get(tensor.name)
            for piece in tensor.chunks():
                if threshold is not None and bits is not None:
                    scores = magnitudes_in(piece, tensor.entry.dtype, dtype)
                    mask = torch.empty(scores.shape, dtype=torch.bool)
                    threshold = keep_above_(mask, scores, threshold)
                    bits.write(bits_of(mask.numpy()))
                    # Integers times 0 or 1: exact for NaN and -0.0 too, and far faster than filling.
                    torch.frombuffer(piece, dtype=_INTEGERS[tensor.entry.itemsize]).mul_(mask)
                weights.write(piece)
                on_read(len(piece))


def _is_done(out: Path, shard: Shard) -> bool:
    """Say whether a shard was written: it has its name only once all of it is on the disk."""
    path = out / shard.name
    return path.exists() and path.stat().st_size == shard.bytes


def _count(out: Path, checkpoint: Checkpoint, thresholds: Thresholds) -> tuple[PrunedTensor, ...]:
    """Count what the masks on the disk keep."""
    rows = []
    for shard in checkpoint.shards:
        if thresholds.keys() & shard.header.entries.keys():
            for name, mask in open_masks(out / FOLDER / shard.name).items():
                rows.append(PrunedTensor(name, mask.count, mask.kept(), thresholds[name].value))
    return tuple(sorted(rows, key=lambda row: row.name))


def _check_count(
    rows: tuple[PrunedTensor, ...], out: Path, sparsity: float, allocation: Allocation
) -> None:
    """Compare with what the built-in allocations promise: a file may have changed between readings."""
    if allocation is global_thresholds:
        wanted = keep_of(sum(row.weights for row in rows), sparsity)
        found = sum(row.kept for row in rows)
        if found != wanted:
            raise CheckpointError(
                f"Expected to keep {wanted} weights in {out}, got {found}; the checkpoint was "
                f"changed while it was pruned: delete {out} and run again."
            )


def _job(
    checkpoint: Checkpoint, tensors: list[StoredTensor], sparsity: float, allocation: Allocation
) -> dict[str, Any]:
    """Describe what is asked for, so that only the same thing is ever resumed."""
    return {
        "format": "boxwood pruning",
        "version": 2,
        "criterion": "magnitude",
        "sparsity": sparsity,
        "allocation": getattr(allocation, "__name__", repr(allocation)),
        "pruned": [tensor.name for tensor in tensors],
        "shards": [
            {
                "file": shard.name,
                "bytes": shard.bytes,
                "header_sha256": hashlib.sha256(shard.header.text).hexdigest(),
            }
            for shard in checkpoint.shards
        ],
        "changed": [shard.path.stat().st_mtime_ns for shard in checkpoint.shards],
    }


@contextmanager
def _claimed(out: Path) -> Iterator[None]:
    """Be the only process that writes there; the system lets go when a process ends."""
    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        lock = FileLock(out / _LOCK)
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise CheckpointError(
                f"Expected {out} for this process alone, got one that another process writes; "
                f"wait for it, or give another folder."
            ) from error
    try:
        yield
    finally:
        (out / _LOCK).unlink(missing_ok=True)
        lock.release()


def _finished(
    out: Path, job: dict[str, Any], checkpoint: Checkpoint
) -> tuple[PrunedTensor, ...] | None:
    """Return what was kept, if this very job is done."""
    if not (out / REPORT).exists():
        return None
    found = _read_json(out / REPORT)
    if any(found.get(key) != value for key, value in job.items() if key != "changed"):
        raise _occupied(out, "the result of another pruning")
    if lost := [shard.name for shard in checkpoint.shards if not _is_done(out, shard)]:
        raise _occupied(out, f"a result that lacks {lost[0]}")
    (out / _JOURNAL).unlink(missing_ok=True)  # killed just before it was
    return tuple(PrunedTensor(**row) for row in found["tensors"])


def _begin(out: Path, job: dict[str, Any]) -> Thresholds | None:
    """Take a new folder, or go on in one; returns the thresholds if they were found before."""
    masks = out / FOLDER
    if masks.is_symlink():
        raise _occupied(out, f"the link {masks}")
    here = [path for path in [*out.iterdir(), *masks.glob("*")] if path != masks]
    begun = _read_json(out / _JOURNAL) if (out / _JOURNAL).exists() else {}
    # Ours to delete: once there is a journal, whatever is unfinished; before, only a journal.
    ending = "" if begun else _JOURNAL
    unfinished = [
        path for path in here if path.name.startswith(UNFINISHED) and path.name.endswith(ending)
    ]
    left = {path.name for path in here} - {path.name for path in unfinished} - {_LOCK, _JOURNAL}
    same = all(begun.get(key) == value for key, value in job.items())
    if left and not same:
        what = "the beginning of another pruning or of a checkpoint since changed" if begun else ""
        raise _occupied(out, what or f"{len(left)} files such as {min(left)!r}")
    with disk_errors(out):
        for path in unfinished:
            path.unlink()
        masks.mkdir(exist_ok=True)
    if not same:
        _write_json(out / _JOURNAL, job)
    thresholds = begun.get("thresholds") if same else None
    return (
        None
        if thresholds is None
        else {name: Threshold(*each) for name, each in thresholds.items()}
    )


def _counting(watch: Watch, what: str, total: int) -> OnRead:
    done = 0

    def read(size: int) -> None:
        nonlocal done
        done += size
        watch(what, done, total)

    return read


def _encoded(thresholds: Thresholds) -> dict[str, list[Any]]:
    """Floats as JSON writes them come back as the same floats."""
    return {name: [threshold.value, threshold.ties] for name, threshold in thresholds.items()}


def _write_json(path: Path, content: dict[str, Any]) -> None:
    with whole_file(path) as opened:
        opened.write((json.dumps(content, indent=1) + "\n").encode())


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = strict_json(read_whole(path))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"Expected a file that Boxwood wrote in {path}, got {error}; delete {path.parent} "
            f"and run again."
        ) from error
    return found


def _occupied(out: Path, what: str) -> CheckpointError:
    return CheckpointError(
        f"Expected {out} to be new, empty, or begun by this same command, got {what}; give another "
        f"folder, or delete this one."
    )
