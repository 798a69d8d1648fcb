"""Allocations that give every tensor its own sparsity, from its shape or from its scores.

Each keeps ``round((1 - s) · Σ n_l)`` in all, exactly.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from boxwood._internal.core.allocation import keep_of, required, split
from boxwood._internal.core.layer_adaptive import layer_adaptive_counts, layer_adaptive_scores
from boxwood._internal.core.masks import Masks
from boxwood._internal.core.selection import Scores, candidates
from boxwood._internal.core.shards import any_distributed, local, total, total_of
from boxwood.errors import InvalidInput


def erdos_renyi_kernel(
    scores: Scores, sparsity: float | None, masks: Masks | None = None
) -> dict[str, int]:
    """Give each tensor a density in proportion to the sum of its sides over their product (ERK).

    ``density_l ∝ (n_out + n_in + k_h + k_w) / (n_out · n_in · k_h · k_w)``; a tensor whose density
    would exceed 1 stays dense, and the rest is distributed among the others again. It uses only
    shapes, and is meant for single weights.

    Raises:
        InvalidInput: a tensor has fewer than two dimensions.

    Example:
        >>> import torch
        >>> scores = {"a": torch.ones(10, 10), "b": torch.ones(40, 10)}
        >>> erdos_renyi_kernel(scores, 0.9)
        {'a': 14, 'b': 36}

    Source: Evci, Gale, Menick, Castro and Elsen (2020), section 3, part 1; without kernels Mocanu
    et al. (2018), equation 1.
    """
    total = _total(scores, required(sparsity, "erdos_renyi_kernel"))
    for name, score in scores.items():
        if score.dim() < 2:
            raise InvalidInput(
                f"Expected tensors with an input and an output dimension for erdos_renyi_kernel, "
                f"got {name!r} of shape {tuple(score.shape)}; leave it out with layers=."
            )
    wanted = {name: float(sum(score.shape)) for name, score in scores.items()}
    return exactly(wanted, total, candidates(scores, masks))


def lamp(scores: Scores, sparsity: float | None, masks: Masks | None = None) -> dict[str, int]:
    """Rank ``s_u² / Σ_{v: s_v ≥ s_u} s_v²`` over all tensors: layer-adaptive magnitude pruning.

    The largest score of every tensor becomes 1, so no tensor is emptied before all have only one
    weight left. The order within a tensor does not change.

    Args:
        scores: not negative, such as those of `magnitude` with p = 1.
        sparsity: total fraction of zeros.
        masks: the masks so far.

    Raises:
        InvalidInput: a score is negative.

    Example:
        >>> import torch
        >>> scores = {"a": torch.tensor([9.0, 8.0, 1.0]), "b": torch.tensor([0.2, 0.1, 0.1])}
        >>> lamp(scores, 0.5)
        {'a': 2, 'b': 1}

    Source: Lee, Park, Mo, Ahn and Shin (2021), equation 1.
    Differs from the authors' code only among equal weights, which it puts in some order.
    """
    keep = _total(scores, required(sparsity, "lamp"))
    _check_left(keep, candidates(scores, masks))
    if any_distributed(scores.values()):
        return layer_adaptive_counts(scores, keep, masks)
    return split(layer_adaptive_scores(scores), keep, masks)


@dataclass(frozen=True)
class OutlierWeighed:
    """Keep more where more scores are outliers (OWL).

    With ``D_l`` the fraction of a tensor's scores above ``outlier`` times their mean, scaled to
    [0, 1] over the tensors, ``density_l = 1 - s + 2 · spread · (D_l - mean D)``, the mean weighted
    by the tensors' sizes so that the total is exact. Where a tensor would keep less than a quarter of the
    mean density, or more than all, the spread is as small as it takes to avoid that.

    Args:
        outlier: M, how many times the mean an outlier exceeds; above 1. The paper takes 5 or 7.
        spread: λ, the most that sparsities differ from s by, about; in [0, 0.5]. The paper takes
            0.08.

    Example:
        >>> import torch
        >>> scores = {"a": torch.tensor([0.0] * 9 + [1.0]), "b": torch.ones(10)}
        >>> OutlierWeighed(spread=0.1)(scores, 0.5)
        {'a': 6, 'b': 4}

    Source: Yin et al. (2024), section 4, with the scores of `wanda`.
    Differs from the paper: there all tensors of one transformer block count as one layer; here each
    tensor is one. The least density is ours: at 95 % the formula empties layers.
    """

    outlier: float = 5.0
    spread: float = 0.08

    def __post_init__(self) -> None:
        if not self.outlier > 1 or not 0 <= self.spread <= 0.5:
            raise InvalidInput(
                f"Expected outlier > 1 and spread in [0, 0.5], got outlier={self.outlier}, "
                f"spread={self.spread}; the paper takes 5 and 0.08."
            )

    def __call__(
        self, scores: Scores, sparsity: float | None, masks: Masks | None = None
    ) -> dict[str, int]:
        """Count per tensor."""
        wanted_sparsity = required(sparsity, "OutlierWeighed")
        sizes = {name: score.numel() for name, score in scores.items()}
        total = _total(scores, wanted_sparsity)
        shares = {name: self._outliers(score) for name, score in scores.items()}
        density = self.densities(shares, sizes, wanted_sparsity)
        wanted = {name: density[name] * size for name, size in sizes.items()}
        return exactly(wanted, total, candidates(scores, masks))

    def densities(
        self, shares: Mapping[str, float], sizes: Mapping[str, int], sparsity: float
    ) -> dict[str, float]:
        """Fraction that each layer keeps, from the fraction of its scores that are outliers.

        Example:
            >>> OutlierWeighed(spread=0.1).densities({"a": 0.1, "b": 0.0}, {"a": 10, "b": 10}, 0.5)
            {'a': 0.6, 'b': 0.4}
        """
        low, high = min(shares.values()), max(shares.values())
        scaled = {name: (d - low) / ((high - low) or 1.0) for name, d in shares.items()}
        mean = sum(scaled[name] * size for name, size in sizes.items()) / sum(sizes.values())
        apart = {name: 2 * self.spread * (d - mean) for name, d in scaled.items()}
        most, least = max(apart.values()), -min(apart.values())
        factor = min(1.0, sparsity / (most or 1.0), 0.75 * (1 - sparsity) / (least or 1.0))
        return {name: 1 - sparsity + factor * each for name, each in apart.items()}

    def _outliers(self, score: Tensor) -> float:
        values = local(score.detach()).double()
        mean = float(total_of(values.sum(), score)) / score.numel()
        return total(int((values > self.outlier * mean).count_nonzero()), score) / score.numel()


def _total(scores: Scores, sparsity: float) -> int:
    return keep_of(sum(score.numel() for score in scores.values()), sparsity)


def _check_left(keep: int, most: Mapping[str, int]) -> None:
    if keep > sum(most.values()):
        raise InvalidInput(
            f"Expected a sparsity that keeps at most the {sum(most.values())} weights left, got "
            f"one that keeps {keep}; what is pruned stays pruned: ask for a higher sparsity."
        )


def exactly(wanted: Mapping[str, float], total: int, most: Mapping[str, int]) -> dict[str, int]:
    """Share out ``total`` in proportion to ``wanted``, no tensor above its most.

    What a full tensor cannot take, the others share in the same proportion. Fractions are rounded
    down, and the largest of them up until the sum is right.
    """
    _check_left(total, most)
    full: dict[str, int] = {}
    while True:
        free = {name: share for name, share in wanted.items() if name not in full}
        rest = total - sum(full.values())
        factor = rest / (math.fsum(free.values()) or 1.0)
        over = [name for name, share in free.items() if factor * share > most[name]]
        if not over:
            break
        full |= {name: most[name] for name in over}
    exact = {name: factor * share for name, share in free.items()}
    keep = {name: math.floor(share) for name, share in exact.items()}
    by_fraction = sorted(exact, key=lambda name: keep[name] - exact[name])
    while (left := rest - sum(keep.values())) > 0:
        # More than one turn only where the shares are all zero, or the free ones fill up.
        for name in [each for each in by_fraction if keep[each] < most[each]][:left]:
            keep[name] += 1
    return {name: {**keep, **full}[name] for name in wanted}
