"""Exact selection: keep exactly as many weights as asked, the highest scores first.

The threshold is the k-th largest score, found by a radix select on the bits of the floats: a
histogram of their upper 16 bits, then a histogram of the lower 16 bits of those in the one bucket
that matters. Memory is bounded by a chunk and a histogram, however many weights there are, and
histograms of several tensors, shards or ranks simply add up.

Ties go to the earlier position in C order, in the order of the names; so the result is stable and
the count exact, where a comparison with the threshold alone would keep too many.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from boxwood._internal.core.granularity import Elements, Granularity, pool_within
from boxwood._internal.core.masks import Masks, apply, bits_of
from boxwood.errors import InvalidInput

Scores = Mapping[str, Tensor]
"""Dotted parameter name to a float tensor; higher is kept."""

Chunks = Callable[[], Iterable[Tensor]]
"""Scores piece by piece, again at every call; a piece may be overwritten once the next is asked for."""

_CHUNK = 1 << 20  # weights handled at a time: 4 MB of floats, which stay in the cache
_DIGIT = 16  # bits per histogram: 65,536 bins
_HALF = 1 << (_DIGIT - 1)  # digits of signed keys start below zero
_FEW = 1 << 15  # scores that are partitioned sooner than a histogram is made


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


def select(
    scores: Scores,
    keep: Mapping[str, int],
    granularity: Granularity | None = None,
    masks: Masks | None = None,
) -> dict[str, Tensor]:
    """Make masks that keep exactly ``keep[name]`` groups of each tensor.

    Args:
        scores: float tensors of any shape.
        keep: how many groups to keep, per name of ``scores``.
        granularity: what a group is; single weights (`Elements`) by default.
        masks: masks outside which nothing is kept, for pruning further.

    Returns:
        Masks of the shapes of ``scores``.

    Raises:
        InvalidInput: a score is NaN or infinite, or more groups are asked for than there are.

    Example:
        >>> select({"w": torch.tensor([3.0, 1.0, 1.0, 2.0])}, {"w": 3})  # ties: the first
        {'w': tensor([ True,  True, False,  True])}
    """
    granularity = granularity or Elements()
    masks = {n: mask.to(scores[n].device) for n, mask in (masks or {}).items() if n in scores}
    chosen, limit = {}, Threshold(None)
    for name, score in scores.items():
        whole = masks.get(name)
        if not isinstance(granularity, Elements):  # a rank would hide a NaN
            check_finite({name: score if whole is None else score.masked_fill(~whole, 0)})
        inside = None if whole is None else granularity.alive(whole)
        pooled = granularity.rank(pool_within(granularity, score, whole), inside)
        groups = candidates({name: pooled}, None if inside is None else {name: inside})
        if not 0 <= keep[name] <= groups[name]:
            raise InvalidInput(
                f"Expected to keep between 0 and {groups[name]} of {name!r}, got {keep[name]}; "
                f"what is already pruned cannot come back: ask for a higher sparsity."
            )
        # Counts that one ranking of all tensors gave share its threshold, so the last one is tried
        # first: two passes of comparing cost a quarter of finding it again.
        limit = _confirmed(pooled, keep[name], limit.value, inside) or kth_largest(
            {name: pooled}, keep[name], masks=None if inside is None else {name: inside}
        )
        chosen[name] = granularity.spread(_above(pooled, limit, inside), tuple(score.shape))
        if whole is not None:
            chosen[name] &= whole
    return chosen


def candidates(scores: Scores, masks: Masks | None = None) -> dict[str, int]:
    """Count, per tensor, what may be kept: everything, or what ``masks`` keeps.

    Example:
        >>> candidates({"w": torch.zeros(3)}, {"w": torch.tensor([True, False, True])})
        {'w': 2}
    """
    masks = masks or {}
    return {
        n: int(masks[n].count_nonzero()) if n in masks else s.numel() for n, s in scores.items()
    }


def kth_largest(scores: Scores, k: int, *, masks: Masks | None = None) -> Threshold:
    """Find the k-th largest score over all tensors together.

    Args:
        scores: float tensors, ranked together.
        k: from 0 (nothing is kept) to the number of candidates.
        masks: masks outside which scores do not count.

    Raises:
        InvalidInput: a score is NaN or infinite.

    Example:
        >>> kth_largest({"a": torch.tensor([3.0, 1.0]), "b": torch.tensor([2.0, 2.0])}, 2)
        Threshold(value=2.0, ties=1)
    """
    _check_dtypes(scores)
    masks = {n: mask.to(scores[n].device) for n, mask in (masks or {}).items() if n in scores}

    def check() -> None:
        check_finite(apply(scores, masks))

    if sum(score.numel() for score in scores.values()) <= _FEW:
        check()
        return _kth_of_few(scores, k, masks)
    # Zeros rank below all candidates where nothing is negative, as magnitudes are not. Where
    # something is, or NaN, the least number of the widest type does.
    unsigned = bool(masks) and all(
        float(score.amin()) >= 0 for score in scores.values() if score.numel()
    )
    return kth_of_chunks(
        lambda: _chunks(scores, masks, unsigned=unsigned),
        k,
        dtypes={score.dtype for score in scores.values()},
        not_finite=check,
    )


def _kth_of_few(scores: Scores, k: int, masks: Masks) -> Threshold:
    """Find the same threshold by a partition of the keys."""
    if k == 0:
        return Threshold(None)
    wide = torch.float64 in {score.dtype for score in scores.values()}
    alive = [_flat(s)[_flat(masks[n])] if n in masks else _flat(s) for n, s in scores.items()]
    keys = torch.cat([_keys(score, wide=wide).cpu() for score in alive])
    key = int(keys.kthvalue(len(keys) - k + 1).values)
    return Threshold(_float_of(key, wide=wide), k - int((keys > key).count_nonzero()))


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
    counts = torch.zeros(1 << _DIGIT, dtype=torch.int64)
    for chunk in chunks():
        counts += _histogram((_keys(chunk, wide=wide) >> top.shift) + _HALF)
    if top.count_not_finite(counts):
        not_finite()
    if k == 0:
        return Threshold(None)
    bucket, rank = _bucket_of_rank(counts, k)
    prefix = bucket - _HALF
    # Each further pass looks at the keys that begin with the digits found so far. They are never
    # kept: where many scores are equal, they would be as many as the weights.
    for shift in range(top.shift - _DIGIT, -1, -_DIGIT):
        if not wide and dtypes <= _SHORT:
            # The rest of a key is zeros, or ones where a negative float was flipped.
            prefix = (prefix << _DIGIT) + (0xFFFF if prefix < 0 else 0)
            break
        counts.zero_()
        for chunk in chunks():
            same = _beginning_with(_keys(chunk, wide=wide), prefix, shift + _DIGIT)
            counts += _histogram((same >> shift) & 0xFFFF)
        bucket, rank = _bucket_of_rank(counts, rank)
        prefix = (prefix << _DIGIT) + bucket
    return Threshold(_float_of(prefix, wide=wide), rank)


def count_above(
    score: Tensor, value: float, within: Tensor | None = None, *, or_equal: bool = False
) -> int:
    """Count the scores above a value, exactly in any float type.

    Args:
        score: float tensor of any shape.
        value: what they are compared with.
        within: mask outside which scores do not count.
        or_equal: count those equal to the value as well.

    Example:
        >>> scores = torch.tensor([3.0, 2.0, 2.0, 1.0])
        >>> count_above(scores, 2.0), count_above(scores, 2.0, or_equal=True)
        (1, 3)
    """
    inside = None if within is None else _flat(within).split(_CHUNK)
    # A comparison rounds the value to the type of the scores, which may be the coarser one.
    coarse = float(torch.tensor(value, dtype=score.dtype)) != value
    compare = torch.ge if or_equal else torch.gt
    count = 0
    for index, chunk in enumerate(_flat(score).split(_CHUNK)):
        found = compare(chunk.double() if coarse else chunk, value)
        count += int((found if inside is None else found & inside[index]).count_nonzero())
    return count


def check_finite(tensors: Mapping[str, Tensor], what: str = "scores") -> None:
    """Refuse NaN and infinite values, naming the tensor and how many.

    Example:
        >>> check_finite({"fc1.weight": torch.tensor([1.0, float("nan")])}, "weights")
        Traceback (most recent call last):
        ...
        boxwood.errors.InvalidInput: Expected finite weights, got 1 NaN or infinite value in 'fc1.weight' of shape (2,); the network has probably diverged: train it with a lower learning rate, or repair the checkpoint.
    """
    for name, tensor in tensors.items():
        if _is_finite(tensor):
            continue
        bad: int = sum(int((~torch.isfinite(chunk)).sum()) for chunk in _flat(tensor).split(_CHUNK))
        raise InvalidInput(
            f"Expected finite {what}, got {bad} NaN or infinite value{'s' * (bad > 1)} in "
            f"{name!r} of shape {tuple(tensor.shape)}; the network has probably diverged: "
            f"train it with a lower learning rate, or repair the checkpoint."
        )


def _flat(tensor: Tensor) -> Tensor:
    return tensor.detach().reshape(-1)


def _check_dtypes(scores: Scores) -> None:
    for name, score in scores.items():
        if not score.is_floating_point() or score.element_size() == 1:
            raise InvalidInput(
                f"Expected float scores for {name!r}, of 16 bits or more, got {score.dtype}; "
                f"convert them."
            )


def _chunks(scores: Scores, masks: Masks, *, unsigned: bool) -> Iterator[Tensor]:
    """Flat pieces of all tensors in turn; what is no candidate ranks below all that are.

    To gather the candidates would cost four times as much.
    """
    wide = torch.float64 if torch.float64 in {s.dtype for s in scores.values()} else torch.float32
    for name, score in scores.items():
        chunks = _flat(score).split(_CHUNK)
        if name not in masks:
            yield from chunks
            continue
        for chunk, inside in zip(chunks, _flat(masks[name]).split(_CHUNK), strict=True):
            if unsigned:
                bits = bits_of(inside, chunk)
                yield (chunk.view(bits.dtype) & bits).view(chunk.dtype)
            else:
                yield torch.where(inside, chunk.to(wide), torch.finfo(wide).min)


def _keys(chunk: Tensor, *, wide: bool) -> Tensor:
    """Integers in the order of the scores."""
    dtype, integers, sign = (
        (torch.float64, torch.int64, 63) if wide else (torch.float32, torch.int32, 31)
    )
    bits = chunk.to(dtype).view(integers)
    if bits.numel() and int(bits.amin()) < 0:
        # Negative floats order backwards as integers: flip all but their sign. Adding 0 first
        # makes -0.0 equal to 0.0. Magnitudes never come here.
        bits = (chunk.to(dtype) + 0.0).view(integers)
        bits = bits ^ ((bits >> sign) & torch.iinfo(integers).max)
    return bits


def _beginning_with(keys: Tensor, prefix: int, shift: int) -> Tensor:
    """Take the keys whose bits from ``shift`` on are ``prefix``."""
    matches = (keys >> shift) == prefix
    whole = len(keys) // 8 * 8
    rows = matches[:whole].view(torch.int64).nonzero().view(-1)
    if 32 * len(rows) > whole:
        return keys[matches]
    # Where there are few, to look at eight flags as one integer halves the time.
    near, flags = (each[:whole].view(-1, 8).index_select(0, rows) for each in (keys, matches))
    return torch.cat((near[flags], keys[whole:][matches[whole:]]))


def _histogram(digits: Tensor) -> Tensor:
    """Count digits from 0 to 65,535."""
    return torch.bincount(digits, minlength=1 << _DIGIT).cpu()


def _bucket_of_rank(counts: Tensor, rank: int) -> tuple[int, int]:
    """Find the bin of the rank-th largest, and its rank within that bin."""
    from_top = counts.flip(0).cumsum(0)
    place = int(torch.searchsorted(from_top, rank))
    bucket = counts.numel() - 1 - place
    return bucket, rank - (int(from_top[place]) - int(counts[bucket]))


def _float_of(key: int, *, wide: bool) -> float:
    """Undo the order-preserving map of `_keys`."""
    integer = torch.tensor(key, dtype=torch.int64 if wide else torch.int32)
    bits = integer ^ ((integer >> (63 if wide else 31)) & torch.iinfo(integer.dtype).max)
    return float(bits.view(torch.float64 if wide else torch.float32))


def _confirmed(
    score: Tensor, keep: int, value: float | None, within: Tensor | None
) -> Threshold | None:
    """Make a threshold of ``value`` if it is the one that keeps ``keep`` scores."""
    if value is None or not score.numel() or float(torch.tensor(value, dtype=score.dtype)) != value:
        return None
    above = count_above(score, value, within)
    found = above == keep or above < keep <= count_above(score, value, within, or_equal=True)
    if not found or not _is_finite(score):
        return None  # whether an infinite score matters is for the thorough way to say
    return Threshold(value, keep - above)


def _is_finite(score: Tensor) -> bool:
    flat = _flat(torch.view_as_real(score.detach().resolve_conj()) if score.is_complex() else score)
    extremes = [torch.stack(chunk.aminmax()) for chunk in flat.split(_CHUNK) if len(chunk)]
    return all(bool(each.isfinite().all()) for each in extremes)  # they show NaN as well


def keep_above_(
    mask: Tensor, scores: Tensor, limit: Threshold, within: Tensor | None = None
) -> Threshold:
    """Write the mask of one chunk of scores; return what the limit is for the chunk after it.

    Example:
        >>> mask = torch.zeros(3, dtype=torch.bool)
        >>> keep_above_(mask, torch.tensor([2.0, 3.0, 2.0]), Threshold(2.0, ties=1)), mask
        (Threshold(value=2.0, ties=0), tensor([ True,  True, False]))
    """
    if limit.value is None:
        mask.fill_(False)
        return limit
    torch.gt(scores, limit.value, out=mask)
    if within is not None:
        mask &= within
    if not limit.ties:
        return limit
    equal = scores == limit.value
    first = (equal if within is None else equal & within).nonzero().view(-1)[: limit.ties]
    mask[first] = True
    return Threshold(limit.value, limit.ties - first.numel())


def _above(score: Tensor, limit: Threshold, within: Tensor | None) -> Tensor:
    """Keep what is above the threshold, and the first ties."""
    mask = torch.empty(score.shape, dtype=torch.bool, device=score.device)
    inside = None if within is None else _flat(within).split(_CHUNK)
    for index, (chunk, out) in enumerate(
        zip(_flat(score).split(_CHUNK), mask.view(-1).split(_CHUNK), strict=True)
    ):
        limit = keep_above_(out, chunk, limit, None if inside is None else inside[index])
    return mask
