"""Which weights of stored tensors stay: by magnitude, to exact counts, read in chunks."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from boxwood._internal.core.allocation import keep_of
from boxwood._internal.core.radix_select import Threshold, kth_of_chunks
from boxwood._internal.files.checkpoint import OnRead, StoredTensor
from boxwood._internal.files.header import FLOATS, Entry
from boxwood.errors import InvalidInput

Thresholds = dict[str, Threshold]
"""What each tensor keeps: all above a value, and the first ones equal to it."""

TensorFilter = Callable[[str, Entry], bool]
"""Says of a tensor, by name and entry, whether it may be pruned; asked about floats only."""

Allocation = Callable[[Sequence[StoredTensor], float, OnRead], Thresholds]
"""Tensors and a sparsity to what each of them keeps."""

FLOAT_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
}
"""Torch's types of the floats in files."""


def is_matrix(name: str, entry: Entry) -> bool:
    """Choose every tensor of two or more dimensions: matrices, kernels and embeddings.

    The lengths that weight norm keeps apart from the directions have as many dimensions as these,
    and are left alone: a zero there would delete a whole row.

    Example:
        >>> is_matrix("fc.weight", Entry("F32", (2, 3), 0, 24)), is_matrix("b", Entry("F32", (2,), 0, 8))
        (True, False)
        >>> is_matrix("fc.weight_g", Entry("F32", (2, 1), 0, 8))
        False
    """
    return len(entry.shape) >= 2 and not name.endswith(("weight_g", ".original0"))


@dataclass(frozen=True)
class NamePatterns:
    """Choose tensors by patterns of their names, as in a shell.

    Args:
        patterns: at least one must match; with none, `is_matrix` decides.
        skip: none of these may match.

    Example:
        >>> chosen = NamePatterns(("*.weight",), skip=("embed*",))
        >>> entry = Entry("F32", (2,), 0, 8)
        >>> chosen("norm.weight", entry), chosen("embed.weight", entry)
        (True, False)
    """

    patterns: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()

    def __call__(self, name: str, entry: Entry) -> bool:
        """Say whether a tensor may be pruned."""
        wanted = any(fnmatchcase(name, pattern) for pattern in self.patterns)
        if not self.patterns:
            wanted = is_matrix(name, entry)
        return wanted and not any(fnmatchcase(name, pattern) for pattern in self.skip)

    def check(self, names: Sequence[str]) -> None:
        """Refuse a pattern that matches nothing.

        Raises:
            InvalidInput: there is one.
        """
        for pattern in (*self.patterns, *self.skip):
            if not any(fnmatchcase(name, pattern) for name in names):
                raise InvalidInput(
                    f"Expected patterns that match a tensor, got {pattern!r}, which matches none "
                    f"of {', '.join(names[:8])}; correct the pattern."
                )


def prunable_tensors(tensors: Sequence[StoredTensor], wanted: TensorFilter) -> list[StoredTensor]:
    """Find the float tensors that may be pruned, in the order given.

    Raises:
        InvalidInput: there is none.

    Example:
        >>> from pathlib import Path
        >>> weight = StoredTensor("w", Path("a"), Entry("F32", (2, 3), 0, 24))
        >>> counter = StoredTensor("n", Path("a"), Entry("I64", (1, 1), 24, 32))
        >>> [tensor.name for tensor in prunable_tensors([weight, counter], is_matrix)]
        ['w']
    """
    chosen = [t for t in tensors if t.entry.dtype in FLOATS and wanted(t.name, t.entry)]
    if not chosen:
        names = ", ".join(tensor.name for tensor in tensors[:8])
        raise InvalidInput(
            f"Expected float tensors to prune, got none selected among {len(tensors)} "
            f"({names}); choose others with --layers."
        )
    return chosen


def global_thresholds(
    tensors: Sequence[StoredTensor], sparsity: float, on_read: OnRead
) -> Thresholds:
    """Rank all tensors together: the largest ``round((1 - s) · Σ n_l)`` magnitudes stay.

    Ties go to the earlier tensor and the earlier place in it. Needs one reading for every 16 bits
    of a float32 that are not always zero, and one more to share out the ties.

    Example:
        >>> global_thresholds([], 0.5, print)
        {}
    """
    kept = keep_of(sum(tensor.entry.count for tensor in tensors), sparsity)
    threshold = _threshold(tensors, kept, on_read)
    thresholds, ties = {}, threshold.ties
    for tensor in tensors:
        equal = 0
        if threshold.value is not None and ties:
            for chunk in magnitudes([tensor], on_read, common_dtype(tensors)):
                equal += int((chunk == threshold.value).count_nonzero())
        thresholds[tensor.name] = Threshold(threshold.value, min(ties, equal))
        ties -= min(ties, equal)
    return thresholds


def uniform_thresholds(
    tensors: Sequence[StoredTensor], sparsity: float, on_read: OnRead
) -> Thresholds:
    """Give every tensor the same sparsity: its largest ``round((1 - s) · n_l)`` magnitudes stay.

    Example:
        >>> uniform_thresholds([], 0.5, print)
        {}
    """
    return {t.name: _threshold([t], keep_of(t.entry.count, sparsity), on_read) for t in tensors}


def magnitudes(
    tensors: Sequence[StoredTensor], on_read: OnRead, dtype: torch.dtype
) -> Iterator[Tensor]:
    """Read the magnitudes of all tensors in turn, chunk by chunk."""
    for tensor in tensors:
        for piece in tensor.chunks():
            yield magnitudes_in(piece, tensor.entry.dtype, dtype)
            on_read(len(piece))


def magnitudes_in(piece: memoryview, stored: str, dtype: torch.dtype) -> Tensor:
    """Return the magnitudes in a piece of a file, in a type that holds them exactly.

    Example:
        >>> magnitudes_in(memoryview(bytearray.fromhex("80bf")), "BF16", torch.float32)
        tensor([1.])
    """
    return torch.frombuffer(piece, dtype=FLOAT_DTYPES[stored]).to(dtype).abs()


def common_dtype(tensors: Sequence[StoredTensor]) -> torch.dtype:
    """Choose the type in which the magnitudes of all these tensors are exact.

    Example:
        >>> from pathlib import Path
        >>> common_dtype([StoredTensor("w", Path("a"), Entry("F16", (1,), 0, 2))])
        torch.float32
    """
    return torch.float64 if any(t.entry.dtype == "F64" for t in tensors) else torch.float32


def _threshold(tensors: Sequence[StoredTensor], kept: int, on_read: OnRead) -> Threshold:
    dtype = common_dtype(tensors)
    return kth_of_chunks(
        lambda: magnitudes(tensors, on_read, dtype),
        kept,
        dtypes={FLOAT_DTYPES[tensor.entry.dtype] for tensor in tensors},
        not_finite=lambda: _refuse_not_finite(tensors, dtype),
    )


def _refuse_not_finite(tensors: Sequence[StoredTensor], dtype: torch.dtype) -> None:
    for tensor in tensors:
        bad = sum(
            int((~chunk.isfinite()).count_nonzero())
            for chunk in magnitudes([tensor], lambda _: None, dtype)
        )
        if bad:
            raise InvalidInput(
                f"Expected finite weights, got {bad} NaN or infinite value{'s' * (bad > 1)} in "
                f"{tensor.name!r} of shape {tensor.entry.shape} in {tensor.path}; repair the "
                f"checkpoint, or leave this tensor out."
            )
