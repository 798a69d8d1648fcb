"""Layer-adaptive magnitude pruning: how many scores of each tensor stay.

With the scores of a tensor in order, ``L(u) = u² / Σ_{v ≥ u} v²`` rises with u. So the weights whose
L is at least λ are those at least x(λ). Where tensors are cut into shards, the λ that keeps a given
number is found by bisection, for which nothing but sums and counts is exchanged. Sums are of whole
numbers, so that they do not depend on the order of addition, and are the same bits in one process.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from boxwood._internal.core.masks import Masks
from boxwood._internal.core.radix_select import float_of, keys_of
from boxwood._internal.core.selection import Scores, kth_largest
from boxwood._internal.core.shards import local, sharing, total, total_of
from boxwood.errors import InvalidInput

_BLOCK = 512  # sorted scores between two sums that are kept
_WAYS = 15  # places that are asked about at once
_HIGH, _LOW = 30, 31  # bits of the two halves of a square
_REST = (1 << _LOW) - 1
_ONE = 0x3FF0000000000000  # the bits of 1.0, the largest L there is
_DOUBLE = torch.float64


def layer_adaptive_scores(scores: Scores) -> dict[str, Tensor]:
    """Score every weight by L, where tensors are whole.

    Args:
        scores: not negative.

    Example:
        >>> layer_adaptive_scores({"a": torch.tensor([2.0, 1.0])})
        {'a': tensor([1.0000, 0.2000], dtype=torch.float64)}
    """
    return {name: _adapted(name, score) for name, score in scores.items()}


def _adapted(name: str, score: Tensor) -> Tensor:
    values, place, times = torch.unique(score.detach(), return_inverse=True, return_counts=True)
    squares = (values.double() * _scale(name, score)[1]).square()
    high, low = (each * times for each in _halves(squares))
    high, low = (each.flip(0).cumsum(0).flip(0) for each in (high, low))
    high, low = (high + (low >> _LOW)).double(), (low & _REST).double()
    whole = (high + low / (1 << _LOW)) / (1 << _HIGH)
    found: Tensor = (squares / whole.where(whole > 0, torch.ones_like(whole)))[place]
    return found


def layer_adaptive_counts(scores: Scores, keep: int, masks: Masks | None) -> dict[str, int]:
    """Share out a global count by L, ties in order of the names, where tensors may be shards.

    Args:
        scores: not negative.
        keep: how many stay in all, at most as many as the masks leave.
        masks: outside them scores are in the sums, and are not kept.

    Example:
        >>> scores = {"a": torch.tensor([9.0, 8.0, 1.0]), "b": torch.tensor([0.2, 0.1, 0.1])}
        >>> layer_adaptive_counts(scores, 3, None)
        {'a': 2, 'b': 1}
    """
    if keep == 0:
        return dict.fromkeys(scores, 0)
    search = _Search([_Sorted(n, each, (masks or {}).get(n)) for n, each in scores.items()])
    low, high = 0, _ONE  # bits of the largest λ that keeps enough
    while low < high:
        middle = (low + high + 1) // 2
        if sum(search.counts(middle)) >= keep:
            low = middle
        else:
            high = middle - 1
    above, reached = search.counts(low + 1), search.counts(low)
    counts, ties = dict(zip(scores, above, strict=True)), keep - sum(above)
    for name, at_least in zip(scores, reached, strict=True):
        mine = min(ties, at_least - counts[name])
        counts[name] += mine
        ties -= mine
    return counts


class _Sorted:
    """The scores of one tensor that this process holds, in order, and sums from the top."""

    def __init__(self, name: str, score: Tensor, mask: Tensor | None) -> None:
        part = local(score.detach()).reshape(-1)
        self.like, self.wide = score, score.dtype == _DOUBLE
        largest, self._times = _scale(name, score)
        self.end = int(keys_of(torch.tensor([largest], dtype=score.dtype), wide=self.wide)) + 1
        self._keys, order = keys_of(part, wide=self.wide).sort()
        self._counted = None if mask is None else local(mask).reshape(-1)[order]
        starts = torch.arange(0, len(part), _BLOCK, device=part.device)
        sums = [self._sums(each, each + _BLOCK) for each in starts.split(1 << 10)]
        sums.append(torch.zeros(1, 3, dtype=torch.int64, device=part.device))
        self._from_block = torch.cat(sums).flip(0).cumsum(0).flip(0)

    def at_least(self, keys: Sequence[int]) -> Tensor:
        """For each key: sums of the squares from it on, in two halves; and count the candidates."""
        wanted = torch.tensor(keys, dtype=self._keys.dtype, device=self._keys.device)
        first = torch.searchsorted(self._keys, wanted)
        block = (first + _BLOCK - 1) // _BLOCK
        return self._sums(first, block * _BLOCK) + self._from_block[block]

    def share(self, key: int, sums: Sequence[int]) -> float:
        """L of a score; beyond the largest one, infinite."""
        high, low = sums[0] + (sums[1] >> _LOW), sums[1] & _REST
        whole = (high + low / (1 << _LOW)) / (1 << _HIGH)
        size = float_of(key, wide=self.wide) * self._times
        return size * size / whole if whole else (math.inf if key else 0.0)

    def _sums(self, begin: Tensor, end: Tensor) -> Tensor:
        """Sum over ranges of at most a block."""
        places = begin.unsqueeze(1) + torch.arange(_BLOCK, device=begin.device)
        inside = places < end.clamp(max=len(self._keys)).unsqueeze(1)
        if not len(self._keys):
            return torch.zeros(len(begin), 3, dtype=torch.int64, device=begin.device)
        places = places.clamp(max=len(self._keys) - 1)
        scores = self._keys[places].view(_DOUBLE if self.wide else torch.float32).double()
        counted = inside if self._counted is None else inside & self._counted[places]
        halves = [each * inside for each in _halves((scores * self._times).square())]
        return torch.stack([each.sum(1) for each in (*halves, counted)], 1)


class _Search:
    """From which score on L is at least λ, in every tensor."""

    def __init__(self, tensors: list[_Sorted]) -> None:
        self._tensors = tensors
        ends = [each.end for each in tensors]
        self._found: dict[int, list[int]] = {-1: [0] * len(ends), _ONE + 2: ends}
        self._counts: list[dict[int, int]] = [{} for _ in tensors]

    def counts(self, bits: int) -> list[int]:
        """Count the candidates of each tensor whose L is at least the float of these bits."""
        value = float_of(bits, wide=True)
        low = list(self._found[max(each for each in self._found if each <= bits)])
        high = list(self._found[min(each for each in self._found if each >= bits)])
        while open_ := [place for place, end in enumerate(high) if low[place] < end]:
            asked = {p: sorted({*_between(low[p], high[p])}) for p in open_}
            for place, sums in self._sums(asked).items():
                tensor = self._tensors[place]
                for key, each in zip(asked[place], sums, strict=True):
                    if tensor.share(key, each) >= value:
                        high[place] = key
                        break
                    low[place] = key + 1
        self._found[bits] = low
        new = {p: [key] for p, key in enumerate(low) if key not in self._counts[p]}
        for place, sums in self._sums(new).items():
            self._counts[place][low[place]] = sums[0][2]
        return [known[key] for known, key in zip(self._counts, low, strict=True)]

    def _sums(self, asked: Mapping[int, list[int]]) -> dict[int, list[list[int]]]:
        """Sums of tensors over their parts: one message for those that share their ranks."""
        groups: dict[Any, list[int]] = {}
        for place in asked:
            groups.setdefault(sharing(self._tensors[place].like), []).append(place)
        found: dict[int, list[list[int]]] = {}
        for places in groups.values():
            mine = [self._tensors[place].at_least(asked[place]) for place in places]
            whole = total_of(torch.cat(mine), self._tensors[places[0]].like)
            parts = whole.split([len(each) for each in mine])
            found |= {p: part.tolist() for p, part in zip(places, parts, strict=True)}
        return found


def _between(low: int, high: int) -> Iterable[int]:
    """Cut a range at equal distances; the last place before its end is in the middle of two."""
    return (low + (high - low) * way // (_WAYS + 1) for way in range(1, _WAYS + 1))


def _halves(squares: Tensor) -> tuple[Tensor, Tensor]:
    """Whole numbers for squares in [0, 1): the first bits, and those after them."""
    wide = squares * (1 << _HIGH)
    high = wide.floor()
    return high.long(), ((wide - high) * (1 << _LOW)).long()


def _scale(name: str, score: Tensor) -> tuple[float, float]:
    """The largest score, and the power of two that brings it below 1."""
    if total(int((local(score.detach()) < 0).any()), score):
        raise InvalidInput(
            f"Expected scores that are not negative for lamp, got some below zero in {name!r}; "
            f"use the criterion magnitude, or another allocation."
        )
    largest = kth_largest({name: score}, min(1, score.numel())).value or 0.0
    return largest, 2.0 ** -math.frexp(largest)[1]
