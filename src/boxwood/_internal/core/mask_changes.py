"""How policies change masks: prune further, replace weights, draw masks at random."""

from collections.abc import Mapping

import torch
from torch import Tensor

from boxwood._internal.core.allocation import Allocation, allocate
from boxwood._internal.core.criteria.weights import random
from boxwood._internal.core.granularity import Granularity, pool_within
from boxwood._internal.core.masks import Masks
from boxwood._internal.core.selection import Scores, select


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
    new = {}
    for name, mask in masks.items():
        kept = int(granularity.alive(mask).count_nonzero())
        moved = int(fraction * kept)
        stayed = select(
            {name: scores[name]}, {name: kept - moved}, granularity, masks={name: mask}
        )[name]
        grown = select({name: growth[name]}, {name: moved}, granularity, masks={name: ~stayed})
        new[name] = stayed | grown[name]
    return new


def random_masks(
    weights: Mapping[str, Tensor],
    sparsity: float,
    allocation: Allocation,
    seed: int,
    granularity: Granularity,
) -> dict[str, Tensor]:
    """Draw masks of a total sparsity."""
    scores = {name: random(weight, name, seed=seed) for name, weight in weights.items()}
    pooled = {name: granularity.pool(score) for name, score in scores.items()}
    return select(scores, allocate(pooled, sparsity, allocation=allocation), granularity)
