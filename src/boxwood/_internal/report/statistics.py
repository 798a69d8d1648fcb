"""Estimates with their uncertainty: over test examples, and over seeds.

scipy is imported where it is used, because it takes longer to load than the command line may.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from boxwood.errors import InvalidInput


@dataclass(frozen=True, kw_only=True)
class Interval:
    """An estimate and the range that holds the true value at the given confidence.

    It prints with any number format; a format that ends in ``%`` shows fractions as percent.
    With too few observations it says so, because such an interval suggests too much precision.

    Args:
        estimate: The single best value.
        low: Lower end, or None where one observation gives no interval.
        high: Upper end, or None likewise.
        n: Number of observations: examples for a proportion, seeds for the others.
        method: How the interval was computed, for display only.
        level: Confidence in (0, 1).

    Example:
        >>> f"{Interval(estimate=0.973, low=0.969, high=0.977, n=5, method='Student t'):.1%}"
        '97.3 % [96.9, 97.7]'
        >>> f"{Interval(estimate=2.51, low=2.1, high=3, n=2, method='Student t'):.2f}"
        '2.51 [2.10, 3.00] (only n = 2)'
    """

    estimate: float
    low: float | None
    high: float | None
    n: int
    method: str
    level: float = 0.95

    def __str__(self) -> str:
        return format(self, "")

    def __format__(self, spec: str) -> str:
        scale, unit, spec = (100, " %", spec[:-1] + "f") if spec.endswith("%") else (1, "", spec)
        spec = spec or ".4g"
        text = f"{self.estimate * scale:{spec}}{unit}"
        if self.low is None or self.high is None:
            return f"{text} (1 seed, no interval)"
        text += f" [{self.low * scale:{spec}}, {self.high * scale:{spec}}]"
        if self.n < 3:
            text += f" (only n = {self.n})"
        return text


@dataclass(frozen=True, kw_only=True)
class PairedComparison:
    """How ``a`` differs from ``b`` when both ran on the same seeds.

    Args:
        difference: The mean of ``a - b``, with its t interval.
        differences: ``a - b`` of each seed, in the order given.
        wins: Seeds with ``a > b``.
        losses: Seeds with ``a < b``.
        ties: Seeds with ``a == b``.
        sign_p: One-sided exact p-value of the sign test against "``a`` is not larger".
        t_p: Two-sided p-value of the paired t-test; None for a single seed.
    """

    difference: Interval
    differences: tuple[float, ...]
    wins: int
    losses: int
    ties: int
    sign_p: float
    t_p: float | None


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise InvalidInput(
            f"Expected a confidence level in (0, 1), got {level}; give a fraction such as 0.95."
        )


def _finite(values: Sequence[float], name: str) -> tuple[float, ...]:
    numbers = tuple(float(value) for value in values)
    if not numbers or not all(math.isfinite(number) for number in numbers):
        raise InvalidInput(
            f"Expected {name} to hold at least one finite number, got {list(numbers)}; leave "
            f"out the seeds that failed, and report that you did."
        )
    return numbers


def _pairs(a: Sequence[float], b: Sequence[float]) -> list[tuple[float, float]]:
    if len(a) != len(b):
        raise InvalidInput(
            f"Expected one value of a and one of b for each seed, got {len(a)} and {len(b)}; "
            f"pair them by seed and leave out seeds that only one side has."
        )
    return list(zip(_finite(a, "a"), _finite(b, "b"), strict=True))


def proportion(correct: int, total: int, level: float = 0.95) -> Interval:
    """The fraction ``correct / total``, with the Wilson score interval over examples.

    With z the two-sided normal quantile and p the fraction, the ends are
    ``(p + z²/2n ± z·sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n)``: never outside [0, 1], and of
    positive width when nothing or everything is right.

    Args:
        correct: Number of successes, in [0, total].
        total: Number of examples, at least 1.
        level: Confidence in (0, 1).

    Raises:
        InvalidInput: If the counts or the level are out of range.

    Example:
        >>> f"{proportion(9_730, 10_000):.2%}"
        '97.30 % [96.96, 97.60]'

    Source: Wilson (1927), "Probable inference, the law of succession, and statistical inference".
    """
    from scipy.stats import binomtest

    _check_level(level)
    if not 0 <= correct <= total or total < 1:
        raise InvalidInput(
            f"Expected 0 <= correct <= total with total at least 1, got correct={correct}, "
            f"total={total}; give counts of examples."
        )
    ends = binomtest(correct, total).proportion_ci(level, method="wilson")
    return Interval(
        estimate=correct / total,
        low=float(ends.low),
        high=float(ends.high),
        n=total,
        method="Wilson score",
        level=level,
    )


def mean(values: Sequence[float], level: float = 0.95) -> Interval:
    """The mean over seeds, with Student's t interval: ``m ± t·s/sqrt(n)``, n-1 degrees of freedom.

    Args:
        values: One finite number for each seed; a single one gives no interval.
        level: Confidence in (0, 1).

    Raises:
        InvalidInput: If there is no value, or one that is not finite, or the level is not in (0, 1).

    Example:
        >>> f"{mean([0.971, 0.974, 0.975]):.1%}"
        '97.3 % [96.8, 97.9]'
        >>> f"{mean([0.971]):.1%}"
        '97.1 % (1 seed, no interval)'

    Source: Student (1908), "The probable error of a mean".
    """
    from scipy.stats import t

    _check_level(level)
    numbers = _finite(values, "values")
    n, centre = len(numbers), fmean(numbers)
    low = high = None
    if n > 1:
        reach = float(t.ppf((1 + level) / 2, n - 1)) * stdev(numbers) / math.sqrt(n)
        low, high = centre - reach, centre + reach
    return Interval(estimate=centre, low=low, high=high, n=n, method="Student t", level=level)


def paired_difference(
    a: Sequence[float], b: Sequence[float], level: float = 0.95
) -> PairedComparison:
    """Compare two methods seed by seed: the mean of ``a - b``, and how often ``a`` wins.

    With w wins and l losses, the sign test's p-value is ``P(X >= w)`` for X ~ Binomial(w + l, 1/2);
    ties are left out. The paired t-test takes ``t = mean / (s / sqrt(n))`` with n-1
    degrees of freedom; if all differences are the same number, p is 0, or 1 if that number is zero.

    Args:
        a: One finite number for each seed.
        b: The same seeds, in the same order.
        level: Confidence of the t interval, in (0, 1).

    Raises:
        InvalidInput: If the lengths differ, a value is not finite, or the level is not in (0, 1).

    Example:
        >>> result = paired_difference([3, 4, 5, 6, 7], [2, 2, 2, 2, 2])
        >>> print(result.difference, result.wins, result.sign_p)
        3 [1.037, 4.963] 5 0.03125
        >>> round(result.t_p, 4)
        0.0132

    Source: Student (1908), "The probable error of a mean"; Dixon and Mood (1946), "The statistical sign test".
    """
    from scipy.stats import binom

    differences = tuple(x - y for x, y in _pairs(a, b))
    wins = sum(d > 0 for d in differences)
    losses = sum(d < 0 for d in differences)
    return PairedComparison(
        difference=mean(differences, level),
        differences=differences,
        wins=wins,
        losses=losses,
        ties=len(differences) - wins - losses,
        sign_p=float(binom.sf(wins - 1, wins + losses, 0.5)),
        t_p=_paired_t(differences),
    )


def _paired_t(differences: Sequence[float]) -> float | None:
    from scipy.stats import t

    n = len(differences)
    if n < 2:
        return None
    centre, spread = fmean(differences), stdev(differences)
    if spread == 0:
        return 1.0 if centre == 0 else 0.0
    return float(2 * t.sf(abs(centre) / (spread / math.sqrt(n)), n - 1))


def ratio(a: Sequence[float], b: Sequence[float], level: float = 0.95) -> Interval:
    """The geometric mean of ``a / b`` over seeds, with Student's t interval of its logarithm.

    ``exp(mean of log(a/b) ± t·s/sqrt(n))``: the pairs share a seed, so its effect on both cancels.

    Args:
        a: One positive number for each seed, such as an iteration or a time.
        b: The same seeds, in the same order.
        level: Confidence in (0, 1).

    Raises:
        InvalidInput: If the lengths differ, a value is not positive and finite, or the level is not
            in (0, 1).

    Example:
        >>> f"{ratio([4600, 4900, 5300], [2100, 2400, 2200]):.2f}"
        '2.21 [1.80, 2.71]'

    Source: Student (1908), "The probable error of a mean".
    """
    pairs = _pairs(a, b)
    if min(min(pair) for pair in pairs) <= 0:
        raise InvalidInput(
            f"Expected positive numbers to take ratios of, got a={list(a)}, b={list(b)}; compare "
            f"values that can be zero or negative with paired_difference."
        )
    found = mean([math.log(x) - math.log(y) for x, y in pairs], level)
    low, high = (None if end is None else math.exp(end) for end in (found.low, found.high))
    return Interval(
        estimate=math.exp(found.estimate),
        low=low,
        high=high,
        n=found.n,
        method="Student t of the logarithm",
        level=level,
    )
