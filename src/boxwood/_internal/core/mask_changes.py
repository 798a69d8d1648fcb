"""How policies change masks: prune further, replace weights, draw masks at random."""

from collections.abc import Mapping

import torch
from torch import Tensor

from boxwood._internal.core.allocation import Allocation, allocate
from boxwood._internal.core.criteria.weights import random
from boxwood._internal.core.granularity import Granularity, pool_within
from boxwood._internal.core.masks import Masks
from boxwood._internal.core.selection import Scores, candidates, select
from boxwood._internal.core.shard_groups import over_shards


def all_kept(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Make masks that keep everything."""
    return {n: torch.ones_like(weight, dtype=torch.bool) for n, weight in weights.items()}


def pruned(
    scores: Scores,
    sparsity: float | None,
    allocation: Allocation,
    granularity: Granularity,
    masks: Masks,
) -> dict[str, Tensor]:
    """Prune to a sparsity, or to an allocation's own numbers; what is pruned stays pruned."""
    granularity = over_shards(granularity)
    pooled = {n: pool_within(granularity, score, masks[n]) for n, score in scores.items()}
    alive = {name: granularity.alive(mask) for name, mask in masks.items()}
    keep = allocate(pooled, sparsity, allocation=allocation, masks=alive)
    return select(scores, keep, granularity, masks=masks)


def replaced(
    masks: Masks, scores: Scores, growth: Scores, fraction: float, granularity: Granularity
) -> dict[str, Tensor]:
    """Let the lowest of the kept go, and the highest growth of all others come; counts stay.

    What goes may come again at once, as in the code of Evci et al., so that a tensor with hardly a
    free place replaces the same fraction as any other.
    """
    kept = groups_kept(masks, granularity)
    moved = {name: int(fraction * count) for name, count in kept.items()}
    stay = {name: kept[name] - moved[name] for name in masks}
    return grown(select(scores, stay, granularity, masks=masks), growth, moved, granularity)


def groups_kept(masks: Masks, granularity: Granularity) -> dict[str, int]:
    """Count the groups of which the masks keep anything."""
    granularity = over_shards(granularity)
    alive = {name: granularity.alive(mask) for name, mask in masks.items()}
    return candidates(alive, alive)


def grown(
    masks: Masks, growth: Scores, counts: Mapping[str, int], granularity: Granularity
) -> dict[str, Tensor]:
    """Add the groups of highest growth to what masks keep."""
    outside = {name: ~mask for name, mask in masks.items()}
    ordered = {name: growth[name] for name in masks}
    more = select(ordered, counts, granularity, masks=outside)
    return {name: mask | more[name] for name, mask in masks.items()}


def random_masks(
    weights: Mapping[str, Tensor],
    sparsity: float,
    allocation: Allocation,
    seed: int,
    granularity: Granularity,
) -> dict[str, Tensor]:
    """Draw masks of a total sparsity."""
    scores = _random_scores(weights, seed)
    return select(scores, _random_counts(scores, sparsity, allocation, granularity), granularity)


def random_counts(
    weights: Mapping[str, Tensor],
    sparsity: float,
    allocation: Allocation,
    seed: int,
    granularity: Granularity,
) -> dict[str, int]:
    """Count the groups that `random_masks` keeps of each tensor."""
    return _random_counts(_random_scores(weights, seed), sparsity, allocation, granularity)


def _random_scores(weights: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    return {name: random(weight, name, seed=seed) for name, weight in weights.items()}


def _random_counts(
    scores: Scores, sparsity: float, allocation: Allocation, granularity: Granularity
) -> dict[str, int]:
    granularity = over_shards(granularity)
    pooled = {name: granularity.pool(score) for name, score in scores.items()}
    return allocate(pooled, sparsity, allocation=allocation)
