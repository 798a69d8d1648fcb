"""Allocation: how many weights each tensor keeps, before a criterion chooses which.

An allocation turns scores and a target sparsity into exact counts. The target is always the *total*
sparsity of the given tensors, never a fraction of what is left: asking twice for 0.5 gives 0.5.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import Tensor

from boxwood._internal.core.arguments import check_function
from boxwood._internal.core.criteria.weights import magnitude_over_std
from boxwood._internal.core.masks import Masks
from boxwood._internal.core.schedules import check_sparsity
from boxwood._internal.core.selection import Scores, candidates, count_above, kth_largest, select
from boxwood.errors import InvalidInput

Allocation = Callable[[Scores, float | None, Masks | None], dict[str, int]]
"""Scores, target sparsity and the masks so far, to the number of groups that each tensor keeps."""


def allocate(
    scores: Scores,
    sparsity: float | None,
    *,
    allocation: Allocation | None = None,
    floor: int = 0,
    masks: Masks | None = None,
) -> dict[str, int]:
    """Decide how many weights each tensor keeps, ``sum(keep) = round((1 - sparsity) · all)``.

    Args:
        scores: float tensors; higher is kept.
        sparsity: total fraction of zeros in [0, 1); None for an allocation that carries its own.
        allocation: `global_` (default), `uniform`, `ByName`, `AtLeast`, or one of
            `boxwood._internal.core.allocation_by_layer`.
        floor: keep at least this many of every tensor, and so fewer of the others.
        masks: the masks so far; what they dropped does not come back.

    Returns:
        Keep counts by name.

    Raises:
        InvalidInput: the sparsity is out of range, lower than what is already pruned, or cannot be
            reached with the floor.

    Example:
        >>> import torch
        >>> scores = {"a": torch.tensor([4.0, 3.0]), "b": torch.tensor([2.0, 1.0])}
        >>> allocate(scores, 0.5), allocate(scores, 0.5, allocation=uniform)
        ({'a': 2, 'b': 0}, {'a': 1, 'b': 1})
        >>> allocate(scores, 0.5, floor=1)
        {'a': 1, 'b': 1}
    """
    if sparsity is not None:
        check_sparsity(sparsity)
    allocation = allocation or global_
    check_function(allocation, "an allocation", "boxwood.allocation")
    keep = allocation(scores, sparsity, masks)
    available = candidates(scores, masks)
    for name, count in keep.items():
        if count > available[name]:
            raise InvalidInput(
                f"Expected a sparsity that keeps at most the {available[name]} weights left in "
                f"{name!r}, got one that keeps {count}; what is pruned stays pruned: ask for a "
                f"higher sparsity, or start from masks of ones."
            )
    return _raise_to_floor(scores, keep, floor, masks) if floor else keep


def uniform(
    scores: Scores,
    sparsity: float | None,
    masks: Masks | None = None,  # noqa: ARG001 - every allocation has the same signature
) -> dict[str, int]:
    """Give every tensor the same sparsity: ``keep_l = round((1 - s) · n_l)``.

    Example:
        >>> import torch
        >>> uniform({"a": torch.ones(10), "b": torch.ones(4)}, 0.5)
        {'a': 5, 'b': 2}
    """
    wanted = required(sparsity, "uniform")
    return {name: keep_of(score.numel(), wanted) for name, score in scores.items()}


def global_(scores: Scores, sparsity: float | None, masks: Masks | None = None) -> dict[str, int]:
    """Rank all tensors together: the highest ``round((1 - s) · Σ n_l)`` scores stay.

    Example:
        >>> import torch
        >>> global_({"a": torch.tensor([9.0, 8.0]), "b": torch.tensor([1.0, 2.0])}, 0.25)
        {'a': 2, 'b': 1}
    """
    total = sum(score.numel() for score in scores.values())
    keep = keep_of(total, required(sparsity, "global_"))
    available = sum(candidates(scores, masks).values())
    if keep > available:
        raise InvalidInput(
            f"Expected a sparsity of at least {1 - available / max(total, 1):.4g}, which is pruned "
            f"already, got {sparsity}; what is pruned stays pruned: ask for a higher sparsity, or "
            f"start from masks of ones."
        )
    return split(scores, keep, masks)


@dataclass(frozen=True)
class ByName:
    """Give each tensor the sparsity of the first pattern that matches its name.

    Tensors that no pattern matches keep their current masks. Pass no sparsity to the call.

    Args:
        sparsities: (pattern, sparsity) pairs; patterns as in a shell: ``"fc1.*"``.

    Example:
        >>> import torch
        >>> allocation = ByName((("conv*", 0.25), ("fc*", 0.75)))
        >>> allocation({"conv1.weight": torch.ones(8), "fc1.weight": torch.ones(8)}, None)
        {'conv1.weight': 6, 'fc1.weight': 2}
    """

    sparsities: tuple[tuple[str, float], ...]

    def __post_init__(self) -> None:
        for pattern, sparsity in self.sparsities:
            check_sparsity(sparsity, f"sparsity of {pattern!r}")

    def __call__(
        self, scores: Scores, sparsity: float | None, masks: Masks | None = None
    ) -> dict[str, int]:
        """Count per tensor."""
        _refused(sparsity, "ByName")
        _check_patterns([pattern for pattern, _ in self.sparsities], scores)
        keep = candidates(scores, masks)
        for name, score in scores.items():
            found = _first_match(self.sparsities, name)
            if found is not None:
                keep[name] = keep_of(score.numel(), found)
        return keep


@dataclass(frozen=True)
class AtLeast:
    """Keep every score that reaches a threshold, which determines the sparsity.

    With the criterion `magnitude_over_std` this is Han's rule, "quality × std", one quality per
    layer.

    Args:
        thresholds: (pattern, threshold) pairs; the first match counts, no match keeps all.

    Example:
        >>> import torch
        >>> AtLeast((("*", 2.0),))({"a": torch.tensor([1.0, 2.0, 3.0])}, None)
        {'a': 2}

    Source: Han, Pool, Tran and Dally (2015), section 4.
    """

    thresholds: tuple[tuple[str, float], ...]

    def __call__(
        self, scores: Scores, sparsity: float | None, masks: Masks | None = None
    ) -> dict[str, int]:
        """Count per tensor."""
        _refused(sparsity, "AtLeast")
        _check_patterns([pattern for pattern, _ in self.thresholds], scores)
        keep = candidates(scores, masks)
        for name, score in scores.items():
            limit = _first_match(self.thresholds, name)
            if limit is not None:
                inside = masks.get(name) if masks is not None else None
                keep[name] = count_above(score, limit, inside, or_equal=True)
        return keep


def std_quality(
    weights: Mapping[str, Tensor], quality: tuple[tuple[str, float], ...]
) -> dict[str, int]:
    """Count the weights of each tensor with ``|w| >= quality · std(w)``.

    Example:
        >>> import torch
        >>> std_quality({"fc1": torch.tensor([-2.0, 2.0, 4.0, -4.0])}, (("fc*", 1.0),))
        {'fc1': 2}

    Source: Han, Pool, Tran and Dally (2015), section 4.
    """
    scores = {name: magnitude_over_std(weight) for name, weight in weights.items()}
    return AtLeast(quality)(scores, None)


def keep_of(count: int, sparsity: float) -> int:
    """Count the weights to keep; halves go to the even neighbour, as Python's round does.

    Example:
        >>> keep_of(10, 0.75), keep_of(10, 0.85)
        (2, 2)
    """
    return round((1 - sparsity) * count)


def split(scores: Scores, keep: int, masks: Masks | None) -> dict[str, int]:
    """Share out a global count: what is above the threshold, then ties in order of the names.

    Example:
        >>> import torch
        >>> split({"a": torch.tensor([2.0, 1.0]), "b": torch.tensor([1.0])}, 2, None)
        {'a': 2, 'b': 0}
    """
    limit = kth_largest(scores, keep, masks=masks)
    if limit.value is None:
        return dict.fromkeys(scores, 0)
    counts, ties = {}, limit.ties
    for name, score in scores.items():
        inside = masks.get(name) if masks is not None else None
        counts[name] = count_above(score, limit.value, inside)
        if ties:
            at_least = count_above(score, limit.value, inside, or_equal=True)
            mine = min(ties, at_least - counts[name])
            counts[name] += mine
            ties -= mine
    return counts


def _raise_to_floor(
    scores: Scores, keep: dict[str, int], floor: int, masks: Masks | None
) -> dict[str, int]:
    """Lift the small ones to the floor; the others give up their lowest scores, ranked together."""
    available = candidates(scores, masks)
    budget = sum(keep.values())
    fixed: dict[str, int] = {}
    while True:
        low = {n: min(floor, available[n]) for n, count in keep.items() if count < floor}
        low = {n: count for n, count in low.items() if keep[n] < count}
        if not low:
            return {name: {**keep, **fixed}[name] for name in scores}
        fixed |= low
        rest = {name: score for name, score in scores.items() if name not in fixed}
        left = budget - sum(fixed.values())
        if left < 0 or not rest:
            raise InvalidInput(
                f"Expected a floor that leaves room for {budget} weights in all, got floor={floor} "
                f"for {len(scores)} tensors; lower the floor or the sparsity."
            )
        # Only what the allocation gave: a ranking of everything would make every allocation a global one.
        given = select(rest, keep, masks=masks)
        keep = split(rest, left, given)


def required(sparsity: float | None, allocation: str) -> float:
    """Return the sparsity, or say that the allocation needs one.

    Example:
        >>> required(0.5, "uniform")
        0.5
    """
    if sparsity is None:
        raise InvalidInput(
            f"Expected a sparsity for the allocation {allocation}, got None; give one."
        )
    return sparsity


def _refused(sparsity: float | None, allocation: str) -> None:
    if sparsity is not None:
        raise InvalidInput(
            f"Expected sparsity=None with the allocation {allocation}, which carries its own numbers, "
            f"got {sparsity}; leave one of the two out."
        )


def _first_match(table: tuple[tuple[str, float], ...], name: str) -> float | None:
    return next((value for pattern, value in table if fnmatchcase(name, pattern)), None)


def _check_patterns(patterns: list[str], scores: Scores) -> None:
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in scores):
            raise InvalidInput(
                f"Expected patterns that match a tensor, got {pattern!r}, which matches none of "
                f"{', '.join(list(scores)[:8])}; correct the pattern."
            )
