"""Ranks of methods over tasks, and which methods differ if many are compared on many tasks.

scipy is imported where it is used, because it takes longer to load than the command line may.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from boxwood.errors import InvalidInput


@dataclass(frozen=True)
class Ranking:
    """Average ranks of k methods over N tasks, and how far apart two must be to differ.

    Args:
        names: of the methods, best first.
        ranks: average rank of each, 1 is best.
        tasks: N.
        p: of the hypothesis that all methods are alike (Friedman, in the form of Iman and Davenport).
        critical_difference: of average ranks, at 5 %.
        alike: groups of names, each a run of ``names``, in which no two differ.
    """

    names: tuple[str, ...]
    ranks: tuple[float, ...]
    tasks: int
    p: float
    critical_difference: float
    alike: tuple[tuple[str, ...], ...]


def ranked_over_tasks(
    scores: Sequence[Sequence[float]], names: Sequence[str], level: float = 0.95
) -> Ranking:
    """Rank methods on each task, average, and test: Friedman's test and Nemenyi's critical difference.

    With ``R_j`` the average rank of method j, ``χ² = 12 N / (k (k + 1)) · (Σ R_j² - k (k + 1)² / 4)``
    without ties, ``F = (N - 1) χ² / (N (k - 1) - χ²)`` with k - 1 and (k - 1)(N - 1) degrees of
    freedom, and ``CD = q · sqrt(k (k + 1) / (6 N))`` with q the quantile of the studentised range over
    √2. Ties share their average rank, and χ² is corrected for them.

    Args:
        scores: [tasks, methods], more is better; N >= 2 and k >= 2.
        names: of the methods.
        level: confidence of the critical difference, in (0, 1).

    Raises:
        InvalidInput: there are too few tasks or methods, or scores are not finite.

    Example:
        >>> found = ranked_over_tasks([[0.9, 0.8, 0.7], [0.8, 0.7, 0.6], [0.9, 0.6, 0.5]], ["a", "b", "c"])
        >>> found.names, found.ranks, round(found.critical_difference, 3)
        (('a', 'b', 'c'), (1.0, 2.0, 3.0), 1.914)

    Source: Demšar (2006), "Statistical comparisons of classifiers over multiple data sets", section
    3.2; Iman and Davenport (1980).
    """
    from scipy.stats import f, rankdata, studentized_range

    table = np.asarray(scores, np.float64)
    if table.ndim != 2 or min(table.shape) < 2 or not np.isfinite(table).all():
        raise InvalidInput(
            f"Expected finite scores of at least two methods on at least two tasks, got "
            f"{table.shape}; compare more, or leave out what did not finish."
        )
    if not 0 < level < 1:
        raise InvalidInput(f"Expected a confidence level in (0, 1), got {level}; give 0.95.")
    n, k = table.shape
    by_task = rankdata(-table, axis=1)
    ranks = by_task.mean(0)
    # The variance of the ranks within tasks is that without ties where there are none.
    within = ((by_task - (k + 1) / 2) ** 2).sum() / (n * (k - 1))
    chi = n * ((ranks - (k + 1) / 2) ** 2).sum() / within if within else 0.0
    below = n * (k - 1) - chi
    p = 0.0 if below <= 0 else float(f.sf((n - 1) * chi / below, k - 1, (k - 1) * (n - 1)))
    q = float(studentized_range.ppf(level, k, np.inf)) / math.sqrt(2)
    difference = q * math.sqrt(k * (k + 1) / (6 * n))
    order = sorted(range(k), key=lambda j: (ranks[j], names[j]))
    best_first = tuple(float(ranks[j]) for j in order)
    return Ranking(
        names=tuple(names[j] for j in order),
        ranks=best_first,
        tasks=n,
        p=p,
        critical_difference=difference,
        alike=tuple(
            tuple(names[j] for j in order[start:stop])
            for start, stop in _groups(best_first, difference)
        ),
    )


def _groups(ranks: Sequence[float], difference: float) -> list[tuple[int, int]]:
    """Find the longest runs of ranks in which the ends differ by at most so much, two at least."""
    found: list[tuple[int, int]] = []
    for start in range(len(ranks)):
        stop = start + sum(rank - ranks[start] <= difference for rank in ranks[start:])
        if stop - start > 1 and (not found or stop > found[-1][1]):
            found.append((start, stop))
    return found
