"""The k-th largest score of tensors that are sharded over ranks.

Ranks exchange histograms of 256 bins, one for each 8 bits of a float, and never a score: 2 KB at a
time, however large the tensors are. All ranks find the same threshold, which is that of one process.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from boxwood._internal.core.radix_select import Threshold, bucket_of_rank, float_of, keys_of
from boxwood._internal.core.shards import is_distributed, local, positions, sharing, total, total_of

_CHUNK = 1 << 20
_BITS = 8  # of a histogram
_BINS = 1 << _BITS

Keys = Callable[[], Iterable[tuple[Tensor, Tensor]]]
"""Signed integers piece by piece, each with the tensor whose part they come from."""


def kth_over_shards(scores: Mapping[str, Tensor], k: int, masks: Mapping[str, Tensor]) -> Threshold:
    """Find the k-th largest score over all tensors together and all of their parts.

    Args:
        scores: finite floats, some of them ``DTensor``; all ranks call this with the same.
        k: from 0 to the number of candidates, the same on all ranks.
        masks: placed as the scores; outside them scores do not count.

    Example:
        >>> kth_over_shards({"a": torch.tensor([3.0, 2.0, 2.0])}, 2, {})
        Threshold(value=2.0, ties=1)
    """
    if k == 0:
        return Threshold(None)
    wide = torch.float64 in {score.dtype for score in scores.values()}

    def keys() -> Iterator[tuple[Tensor, Tensor]]:
        for name, score in scores.items():
            inside = _pieces(masks[name]) if name in masks else None
            for number, piece in enumerate(_pieces(score)):
                found = keys_of(piece, wide=wide)
                yield (found if inside is None else found[inside[number]]), score

    key, rank = _kth_key(keys, k, bits=64 if wide else 32)
    return Threshold(float_of(key, wide=wide), rank)


def ties_held(score: Tensor, limit: Threshold, within: Tensor | None) -> Threshold:
    """Turn a threshold for a whole tensor into that for the part which this process holds.

    Of equal scores the first in C order of the whole tensor stay, wherever they lie.

    Example:
        >>> ties_held(torch.ones(3), Threshold(1.0, ties=2), None)
        Threshold(value=1.0, ties=2)
    """
    if not is_distributed(score) or limit.value is None or not limit.ties:
        return limit
    equal = local(score) == limit.value
    places = positions(score)[(equal if within is None else equal & local(within)).reshape(-1)]
    if total(len(places), score) > limit.ties:
        # The first places are the largest of their complements.
        last, _ = _kth_key(lambda: [(~places, score)], limit.ties, bits=64)
        places = places[places <= ~last]
    return Threshold(limit.value, len(places))


def _kth_key(keys: Keys, k: int, *, bits: int) -> tuple[int, int]:
    """Find the k-th largest integer, and its rank among those equal to it."""
    prefix = 0
    for shift in range(bits - _BITS, -1, -_BITS):
        counts: dict[Any, tuple[Tensor, Tensor]] = {}
        for found, like in keys():
            if shift == bits - _BITS:
                digits = (found >> shift) + _BINS // 2  # signed: the first digit is from -128 on
            else:
                digits = (found[found >> (shift + _BITS) == prefix] >> shift) & (_BINS - 1)
            one = torch.bincount(digits, minlength=_BINS)
            before = counts.get(sharing(like))
            counts[sharing(like)] = (one if before is None else before[0] + one), like
        whole = torch.stack([total_of(mine, like).cpu() for mine, like in counts.values()]).sum(0)
        bucket, k = bucket_of_rank(whole, k)
        prefix = bucket - _BINS // 2 if shift == bits - _BITS else (prefix << _BITS) + bucket
    return prefix, k


def _pieces(tensor: Tensor) -> tuple[Tensor, ...]:
    pieces: tuple[Tensor, ...] = local(tensor.detach()).reshape(-1).split(_CHUNK)
    return pieces
