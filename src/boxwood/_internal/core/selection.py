"""Exact selection: keep exactly as many weights as asked, the highest scores first.

The threshold is the k-th largest score, which `radix_select` finds where the scores are.

Ties go to the earlier position in C order, in the order of the names; so the result is stable and
the count exact, where a comparison with the threshold alone would keep too many.
"""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from boxwood._internal.core.granularity import Elements, Granularity, pool_within
from boxwood._internal.core.masks import Masks, apply, bits_of
from boxwood._internal.core.radix_select import Threshold, float_of, keys_of, kth_of_chunks
from boxwood._internal.core.shard_groups import over_shards
from boxwood._internal.core.shard_selection import kth_over_shards, ties_held
from boxwood._internal.core.shards import (
    any_distributed,
    check_agreed,
    is_distributed,
    local,
    total,
    wrapped,
)
from boxwood.errors import InvalidInput

Scores = Mapping[str, Tensor]
"""Dotted parameter name to a float tensor; higher is kept."""

_CHUNK = 1 << 20  # weights handled at a time: 4 MB of floats, which stay in the cache
_DEVICE_CHUNK = 1 << 23  # on a device, where each piece costs several launches
_FEW = 1 << 15  # scores that are partitioned sooner than a histogram is made


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
    granularity = over_shards(granularity or Elements())
    masks = {n: mask.to(scores[n].device) for n, mask in (masks or {}).items() if n in scores}
    if any_distributed(scores.values()):
        check_agreed(
            {name: keep[name] for name in scores}, next(filter(is_distributed, scores.values()))
        )
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
        n: total(int(local(masks[n]).count_nonzero()), masks[n]) if n in masks else s.numel()
        for n, s in scores.items()
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

    if any_distributed(scores.values()):
        check()
        return kth_over_shards(scores, k, masks)
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
    device = alive[0].device  # whose waiting costs more than the few that are elsewhere
    keys = torch.cat([keys_of(score, wide=wide).to(device) for score in alive])
    # On CUDA torch refuses kthvalue where deterministic algorithms are asked for.
    place = len(keys) - k
    key = int(keys.kthvalue(place + 1).values if keys.is_cpu else keys.sort().values[place])
    return Threshold(float_of(key, wide=wide), k - int((keys > key).count_nonzero()))


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
    inside = None if within is None else _pieces(within)
    # A comparison rounds the value to the type of the scores, which may be the coarser one.
    coarse = float(torch.tensor(value, dtype=score.dtype)) != value
    compare = torch.ge if or_equal else torch.gt
    count = 0
    for index, chunk in enumerate(_pieces(score)):
        found = compare(chunk.double() if coarse else chunk, value)
        count += int((found if inside is None else found & inside[index]).count_nonzero())
    return total(count, score)


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
        bad = total(sum(int((~torch.isfinite(each)).sum()) for each in _pieces(tensor)), tensor)
        raise InvalidInput(
            f"Expected finite {what}, got {bad} NaN or infinite value{'s' * (bad > 1)} in "
            f"{name!r} of shape {tuple(tensor.shape)}; the network has probably diverged: "
            f"train it with a lower learning rate, or repair the checkpoint."
        )


def _flat(tensor: Tensor) -> Tensor:
    """What this process holds."""
    return local(tensor.detach()).reshape(-1)


def _pieces(tensor: Tensor) -> Sequence[Tensor]:
    pieces: Sequence[Tensor] = _flat(tensor).split(_CHUNK if tensor.is_cpu else _DEVICE_CHUNK)
    return pieces


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
        chunks = _pieces(score)
        if name not in masks:
            yield from chunks
            continue
        for chunk, inside in zip(chunks, _pieces(masks[name]), strict=True):
            if unsigned:
                bits = bits_of(inside, chunk)
                yield (chunk.view(bits.dtype) & bits).view(chunk.dtype)
            else:
                yield torch.where(inside, chunk.to(wide), torch.finfo(wide).min)


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
    real = local(score.detach())
    real = torch.view_as_real(real.resolve_conj()) if real.is_complex() else real
    extremes = [torch.stack(chunk.aminmax()) for chunk in _pieces(real) if len(chunk)]
    good = not extremes or bool(torch.stack(extremes).isfinite().all())  # they show NaN as well
    return not total(int(not good), score)


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
    limit = ties_held(score, limit, within)
    mask = torch.empty(local(score).shape, dtype=torch.bool, device=score.device)
    inside = None if within is None else _pieces(within)
    for index, (chunk, out) in enumerate(zip(_pieces(score), _pieces(mask), strict=True)):
        limit = keep_above_(out, chunk, limit, None if inside is None else inside[index])
    return wrapped(mask, score, score.shape)
