"""The k-th largest of many floats, by the digits of their bits.

A histogram of the upper 16 bits says in which bucket it is, and a histogram of the next 16 bits of
those in that bucket where within it. Memory is bounded by a chunk and a histogram, and histograms of
several tensors, shards or ranks simply add up. Each is counted where its chunk is, so that of scores
on a device only histograms go to the host.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

Chunks = Callable[[], Iterable[Tensor]]
"""Scores piece by piece, again at every call; a piece may be overwritten once the next is asked for."""

_DIGIT = 16  # bits per histogram: 65,536 bins
_HALF = 1 << (_DIGIT - 1)  # digits of signed keys start below zero


@dataclass(frozen=True)
class _TopDigit:
    """Where the first digit of a key lies, and from which digit on a float is infinite or NaN."""

    shift: int
    infinite: int

    def count_not_finite(self, counts: Tensor) -> int:
        high = counts[_HALF + self.infinite :].sum()
        low = counts[: _HALF - self.infinite].sum()
        return int(high + low)


_TOP = {False: _TopDigit(16, 0x7F80), True: _TopDigit(48, 0x7FF0)}
_SHORT = {
    torch.bfloat16,
    torch.float8_e4m3fn,
    torch.float8_e4m3fnuz,
    torch.float8_e5m2,
    torch.float8_e5m2fnuz,
}
"""Types whose values fit the upper half of a float32."""


@dataclass(frozen=True)
class Threshold:
    """The k-th largest score: what is above it stays, and so do the first ``ties`` equal to it.

    With ``value`` None nothing stays.
    """

    value: float | None
    ties: int = 0


def kth_of_chunks(
    chunks: Chunks, k: int, *, dtypes: set[torch.dtype], not_finite: Callable[[], None]
) -> Threshold:
    """Find the k-th largest of scores that do not fit into memory, read once for every 16 bits.

    Args:
        chunks: flat float tensors.
        k: from 0 (nothing is kept) to the number of scores.
        dtypes: the types of the scores; they decide how often they are read.
        not_finite: called when a score is NaN or infinite, to raise an error that names it.

    Example:
        >>> pieces = torch.tensor([3.0, 1.0]), torch.tensor([2.0, 2.0])
        >>> kth_of_chunks(lambda: pieces, 2, dtypes={torch.float32}, not_finite=exit)
        Threshold(value=2.0, ties=1)
    """
    # Keys of 64 bits order doubles; everything else is exact in float32.
    wide = torch.float64 in dtypes
    top = _TOP[wide]
    counts = _histogram(chunks(), lambda chunk: (keys_of(chunk, wide=wide) >> top.shift) + _HALF)
    if top.count_not_finite(counts):
        not_finite()
    if k == 0:
        return Threshold(None)
    bucket, rank = bucket_of_rank(counts, k)
    prefix = bucket - _HALF
    # Each further pass looks at the keys that begin with the digits found so far. They are never
    # kept: where many scores are equal, they would be as many as the weights.
    for shift in range(top.shift - _DIGIT, -1, -_DIGIT):
        if not wide and dtypes <= _SHORT:
            # The rest of a key is zeros, or ones where a negative float was flipped.
            prefix = (prefix << _DIGIT) + (0xFFFF if prefix < 0 else 0)
            break
        further = partial(_next_digits, wide=wide, prefix=prefix, shift=shift)
        bucket, rank = bucket_of_rank(_histogram(chunks(), further), rank)
        prefix = (prefix << _DIGIT) + bucket
    return Threshold(float_of(prefix, wide=wide), rank)


def keys_of(chunk: Tensor, *, wide: bool) -> Tensor:
    """Make integers in the order of the scores: of 64 bits if ``wide``, or else of 32.

    Example:
        >>> keys_of(torch.tensor([-2.0, -0.0, 0.0, 1.0]), wide=False)
        tensor([-1073741825,           0,           0,  1065353216], dtype=torch.int32)
    """
    dtype, integers, sign = (
        (torch.float64, torch.int64, 63) if wide else (torch.float32, torch.int32, 31)
    )
    bits = chunk.to(dtype).view(integers)
    if not bits.is_cpu or (bits.numel() and int(bits.amin()) < 0):
        # Negative floats order backwards as integers: flip all but their sign. Adding 0 first
        # makes -0.0 equal to 0.0. On the CPU magnitudes never come here; elsewhere to ask costs more.
        bits = (chunk.to(dtype) + 0.0).view(integers)
        bits = bits ^ ((bits >> sign) & torch.iinfo(integers).max)
    return bits


def _next_digits(chunk: Tensor, *, wide: bool, prefix: int, shift: int) -> Tensor:
    """Take the digits at ``shift`` of the keys that have ``prefix`` before them."""
    return (_beginning_with(keys_of(chunk, wide=wide), prefix, shift + _DIGIT) >> shift) & 0xFFFF


def _beginning_with(keys: Tensor, prefix: int, shift: int) -> Tensor:
    """Take the keys whose bits from ``shift`` on are ``prefix``."""
    matches = (keys >> shift) == prefix
    if not keys.is_cpu:
        return keys[matches]
    whole = len(keys) // 8 * 8
    rows = matches[:whole].view(torch.int64).nonzero().view(-1)
    if 32 * len(rows) > whole:
        return keys[matches]
    # Where there are few, to look at eight flags as one integer halves the time.
    near, flags = (each[:whole].view(-1, 8).index_select(0, rows) for each in (keys, matches))
    return torch.cat((near[flags], keys[whole:][matches[whole:]]))


def _histogram(chunks: Iterable[Tensor], digits_of: Callable[[Tensor], Tensor]) -> Tensor:
    """Count digits from 0 to 65,535 where the chunks are, and add the counts up on the CPU."""
    found: dict[torch.device, Tensor] = {}
    for chunk in chunks:
        digits = digits_of(chunk)
        if chunk.device not in found:
            found[chunk.device] = torch.zeros(1 << _DIGIT, dtype=torch.int64, device=chunk.device)
        if chunk.is_cpu:
            found[chunk.device] += torch.bincount(digits, minlength=1 << _DIGIT)
        else:  # a bincount would wait for the device, at every chunk
            one = torch.ones((), dtype=torch.int64, device=chunk.device)
            found[chunk.device].scatter_add_(0, digits.long(), one.expand(len(digits)))
    none = torch.zeros(1 << _DIGIT, dtype=torch.int64)
    return sum((each.cpu() for each in found.values()), none)


def bucket_of_rank(counts: Tensor, rank: int) -> tuple[int, int]:
    """Find the bin of the rank-th largest, and its rank within that bin."""
    from_top = counts.flip(0).cumsum(0)
    place = int(torch.searchsorted(from_top, rank))
    bucket = counts.numel() - 1 - place
    return bucket, rank - (int(from_top[place]) - int(counts[bucket]))


def float_of(key: int, *, wide: bool) -> float:
    """Undo `keys_of`.

    Example:
        >>> float_of(1065353216, wide=False)
        1.0
    """
    integer = torch.tensor(key, dtype=torch.int64 if wide else torch.int32)
    bits = integer ^ ((integer >> (63 if wide else 31)) & torch.iinfo(integer.dtype).max)
    return float(bits.view(torch.float64 if wide else torch.float32))
