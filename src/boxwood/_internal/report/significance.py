"""Significance tests: pure functions of an estimate, of signs, of right answers, of p-values.

scipy is imported where it is used, because it takes longer to load than the command line may.
"""

from collections.abc import Sequence

import numpy as np

from boxwood._internal.report.estimates import Estimate, freedom
from boxwood.errors import InvalidInput

_MOST_SEEDS = 1000
"""If not even that number of seeds decides, more seeds are not what is missing."""


def above(estimate: Estimate, limit: float = 0.0) -> float:
    """Test one-sided whether the true mean is above a limit: ``P(T >= (value - limit)/error)``.

    Args:
        estimate: its error is taken with its degrees of freedom.
        limit: in the unit of the estimate.

    Returns:
        The p-value against "it is not above"; that of "it is not below" is one minus it. A single
        seed says nothing: 0.5.

    Example:
        >>> from boxwood.statistics import over_seeds
        >>> round(above(over_seeds([3.0, 4.0, 5.0, 6.0, 7.0]), limit=3.0), 4)
        0.0237
        >>> above(over_seeds([1.0]))
        0.5

    Source: Student (1908).
    """
    from scipy.stats import t

    if estimate.seeds < 2 and not estimate.examples:
        return 0.5
    distance = estimate.value - limit
    if estimate.error == 0:
        return 0.5 if distance == 0 else float(distance < 0)
    return float(t.sf(distance / estimate.error, estimate.freedom))


def within(estimate: Estimate, margin: float) -> float:
    """Test whether the true mean is within a margin of zero, on both sides: equivalence.

    Two one-sided tests: ``max(p of mean > -margin, p of mean < margin)``. It is at most α exactly
    if the interval of level ``1 - 2α`` lies inside ``(-margin, margin)``. That no difference was
    found is no proof that there is none; this is.

    Args:
        estimate: of a difference.
        margin: above zero, in its unit.

    Raises:
        InvalidInput: the margin is not above zero.

    Example:
        >>> from boxwood.statistics import over_seeds
        >>> round(within(over_seeds([0.1, 0.0, -0.1, 0.05, -0.05]), margin=0.3), 4)
        0.0005

    Source: Schuirmann (1987), "A comparison of the two one-sided tests procedure and the power approach".
    """
    if not margin > 0:
        raise InvalidInput(f"Expected a margin above zero, got {margin}; give one such as 0.3.")
    return max(above(estimate, -margin), 1 - above(estimate, margin))


def signs(values: Sequence[float], limit: float = 0.0) -> float:
    """Test one-sided by signs whether values lie above a limit, whatever their distribution.

    With w of k values above and ties left out, ``P(X >= w)`` for X ~ Binomial(k, 1/2). Five of five
    give 1/32.

    Args:
        values: one for each seed.
        limit: in their unit.

    Example:
        >>> signs([0.1, 0.4, 0.2, 0.3, 0.1])
        0.03125

    Source: Dixon and Mood (1946), "The statistical sign test".
    """
    from scipy.stats import binom

    wins = sum(each > limit for each in values)
    decided = sum(each != limit for each in values)
    return float(binom.sf(wins - 1, decided, 0.5))


def mcnemar(a: np.ndarray, b: np.ndarray) -> float:
    """Test whether two single networks differ on the same examples: exact and two-sided.

    Only examples that one answers correctly and the other incorrectly count: with i and j of them,
    ``p = min(1, 2·P(X <= min(i, j)))`` for X ~ Binomial(i + j, 1/2). The result is about these two
    networks, not about two methods, which also vary over seeds.

    Args:
        a: right (true) or wrong, bool [examples].
        b: the same examples.

    Raises:
        InvalidInput: the shapes differ.

    Example:
        >>> a, b = np.ones(100, bool), np.ones(100, bool)
        >>> b[:8], a[8:9] = False, False
        >>> round(mcnemar(a, b), 5)
        0.03906

    Source: McNemar (1947), "Note on the sampling error of the difference between correlated proportions".
    """
    from scipy.stats import binom

    if a.shape != b.shape:
        raise InvalidInput(
            f"Expected two networks on the same examples, got {a.shape} and {b.shape}; measure both "
            f"on one part."
        )
    i, j = int((a & ~b).sum()), int((~a & b).sum())
    return min(1.0, 2 * float(binom.cdf(min(i, j), i + j, 0.5)))


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Correct the p-values of all claims of one study for their number.

    In order of size, ``p̃₍ᵢ₎ = max over j <= i of min(1, (k - j + 1)·p₍ⱼ₎)``. If you accept claims
    with a corrected value of at most α, the chance of any error among the k claims is at most α,
    whatever their dependence.

    Args:
        p_values: in any order.

    Returns:
        The corrected ones in the same order.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        (0.03, 0.06, 0.06)

    Source: Holm (1979), "A simple sequentially rejective multiple test procedure".
    """
    corrected, largest = [0.0] * len(p_values), 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[index]))
        corrected[index] = largest
    return tuple(corrected)


def seeds_needed(
    estimate: Estimate, limit: float = 0.0, *, level: float = 0.95, least: int = 2
) -> int | None:
    """Estimate the number of seeds at which the interval would exclude a limit, if mean and spread
    do not change.

    Args:
        estimate: the estimate so far; with a single seed the spread is unknown, and the result is
            ``least``.
        limit: in its unit.
        level: confidence of the interval, in (0, 1).
        least: the least number of seeds that may decide.

    Returns:
        The number, or None if a thousand would not be enough: mean and limit are too close, or
        there are too few examples.

    Example:
        >>> from boxwood.statistics import over_seeds
        >>> seeds_needed(over_seeds([0.5, -0.1, 0.3, 0.2]))
        8
    """
    from scipy.stats import t

    if estimate.seeds < 2:
        return least
    n = np.arange(max(2, least), _MOST_SEEDS + 1)
    spread, of_examples = estimate.spread, estimate.example_error
    errors = np.hypot(spread / np.sqrt(n), of_examples)
    degrees = np.array([freedom(spread, int(k), of_examples, estimate.examples) for k in n])
    enough = t.ppf((1 + level) / 2, degrees) * errors < abs(estimate.value - limit)
    return int(n[enough.argmax()]) if enough.any() else None
