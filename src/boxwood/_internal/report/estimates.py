"""Estimates over seeds and examples together: pure functions.

Seeds and examples are both samples. Networks of several seeds share one test set, so an interval
over seeds alone leaves the error of that set out. With ``x[s, e]`` what seed s does on example e
(the difference of two networks, or one network by itself), the model is
``x[s, e] = μ + a[s] + b[e] + c[s, e]``, and ``x̄`` varies by ``σa²/n + σb²/m + σc²/(n·m)``.

scipy is imported where it is used, because it takes longer to load than the command line may.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from boxwood._internal.report.statistics import Interval
from boxwood.errors import InvalidInput

_AT_ONCE = 64
"""Resamples at a time: 5 MB for 10,000 examples."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean and its uncertainty over seeds and examples.

    Args:
        value: the mean.
        seeds: number of seeds.
        examples: number of examples that the error covers; 0 if only one number for each seed is
            known, so that the error of the test set is not included.
        by_seed: the value of each seed, in the order given.
        example_error: standard error from the examples, which more seeds do not reduce.
    """

    value: float
    seeds: int
    examples: int
    by_seed: tuple[float, ...]
    example_error: float = 0.0

    @property
    def spread(self) -> float:
        """Standard deviation over seeds; 0 for a single one."""
        return float(np.std(self.by_seed, ddof=1)) if self.seeds > 1 else 0.0

    @property
    def error(self) -> float:
        """Standard error: ``sqrt(spread²/n + example_error²)``."""
        return math.hypot(self.spread / math.sqrt(self.seeds), self.example_error)

    @property
    def freedom(self) -> float:
        """Degrees of freedom of the error, after Satterthwaite (1946); n - 1 over seeds alone."""
        return freedom(self.spread, self.seeds, self.example_error, self.examples)


def over_seeds(values: Sequence[float]) -> Estimate:
    """Take the mean of one number for each seed, without the error of the test set.

    Args:
        values: one finite number for each seed, at least one.

    Raises:
        InvalidInput: there is none, or one that is not finite.

    Example:
        >>> found = over_seeds([1.0, 2.0, 3.0, 4.0, 5.0])
        >>> f"{interval(found):.3f}"
        '3.000 [1.037, 4.963]'

    Source: Student (1908), "The probable error of a mean".
    """
    rows = _checked(np.asarray(values, np.float64)[:, None] if len(values) else np.empty((0, 0)))
    numbers = tuple(map(float, rows[:, 0]))
    return Estimate(
        value=float(np.mean(numbers)), seeds=len(numbers), examples=0, by_seed=numbers
    )  # fmt: skip


def over_seeds_and_examples(
    values: np.ndarray, weights: Sequence[float] | np.ndarray | None = None
) -> Estimate:
    """Take the mean over seeds and examples, with the error of both.

    With ``r`` the means of seeds, ``k`` those of examples and ``e`` what remains of x after both
    are taken away, the variance of the mean is estimated by
    ``var(r)/n + max(0, var(k)/m - var(e)/(n·m))``. Joint resampling of seeds and examples estimates
    the same (`two_way_bootstrap`), except that it counts ``2·var(e)/(n·m)`` too much; this formula
    needs no random numbers. It is never less than the error over seeds alone.

    Args:
        values: [seeds, examples]: right or wrong, a loss, or for a comparison the difference of two
            networks of one seed.
        weights: [examples], at least one above zero: number of targets of each example, if examples
            have several; values are then sums over targets, and the mean is over targets.

    Raises:
        InvalidInput: there are no values, fewer than two examples, or some are not finite.

    Example:
        >>> right = np.array([[1, 1, 0, 1], [1, 0, 0, 1], [1, 1, 0, 1]])
        >>> found = over_seeds_and_examples(right)
        >>> round(found.value, 4), round(over_seeds(found.by_seed).error, 4), round(found.error, 4)
        (0.6667, 0.0833, 0.2357)

    Source: Cornfield and Tukey (1956), "Average values of mean squares in factorials"; what resampling
    estimates is Owen's (2007), "The pigeonhole bootstrap", theorem 3.
    """
    rows = _checked(np.asarray(values, np.float64))
    n, m = rows.shape
    if m < 2:
        raise InvalidInput(
            f"Expected at least two examples, got {m}; give one number for each seed to over_seeds."
        )
    if weights is not None:
        rows = _of_targets(rows, np.asarray(weights, np.float64))
    by_seed, by_example, mean = rows.mean(1), rows.mean(0), rows.mean()
    of_examples = by_example.var(ddof=1) / m
    if n > 1:
        rest = rows - by_seed[:, None] - by_example[None] + mean
        of_examples -= float((rest**2).sum()) / ((n - 1) * (m - 1)) / (n * m)
    return Estimate(
        value=float(mean),
        seeds=n,
        examples=m,
        by_seed=tuple(map(float, by_seed)),
        example_error=math.sqrt(max(0.0, float(of_examples))),
    )


def interval(estimate: Estimate, level: float = 0.95) -> Interval:
    """Find the range that holds the true mean with the given confidence.

    ``value ± t·error``, with t the quantile of Student's distribution at the degrees of freedom of
    the estimate. Percentiles of resampled seeds are not used: of five seeds they are far too narrow.

    Args:
        estimate: from `over_seeds` or `over_seeds_and_examples`; a single seed without examples has
            no interval.
        level: confidence in (0, 1).

    Raises:
        InvalidInput: the level is out of range.

    Example:
        >>> f"{interval(over_seeds([0.2, 0.3, 0.4]), level=0.9):.2f}"
        '0.30 [0.13, 0.47]'
    """
    from scipy.stats import t

    if not 0 < level < 1:
        raise InvalidInput(
            f"Expected a confidence level in (0, 1), got {level}; give a fraction such as 0.95."
        )
    low = high = None
    if estimate.seeds > 1 or estimate.examples:
        reach = float(t.ppf((1 + level) / 2, estimate.freedom)) * estimate.error
        low, high = estimate.value - reach, estimate.value + reach
    over = "seeds and examples" if estimate.examples else "seeds"
    return Interval(
        estimate=estimate.value, low=low, high=high, n=estimate.seeds,
        method=f"Student t over {over}", level=level,
    )  # fmt: skip


def two_way_bootstrap(values: np.ndarray, *, seed: int = 0, resamples: int = 2_000) -> np.ndarray:
    """Draw seeds and examples with replacement, independently of each other, and take means.

    Resample r counts seed s ``v[r, s]`` times and example e ``w[r, e]`` times; its mean is
    ``Σ v[r, s]·w[r, e]·x[s, e] / (n·m)``. Use it for statistics other than means, such as a ratio
    of two. Its spread counts the interaction of seeds and examples three times, so it is somewhat
    too wide. Its percentiles over few seeds are too narrow.

    Args:
        values: [..., seeds, examples]; leading dimensions are resampled in the same way.
        seed: of the random numbers; the same seed gives the same draws.
        resamples: how many.

    Returns:
        Means, [..., resamples].

    Raises:
        InvalidInput: there are no values or no resamples.

    Example:
        >>> gains = np.array([[[1.0, 0.0, 1.0]] * 2, [[2.0, 1.0, 1.0]] * 2])
        >>> mine, whole = two_way_bootstrap(gains, resamples=4)
        >>> (mine <= whole).all()
        np.True_

    Source: Owen (2007), "The pigeonhole bootstrap"; Efron (1979), "Bootstrap methods: another look at
    the jackknife".
    """
    x = np.asarray(values, np.float64)
    if x.ndim < 2 or not x.size or resamples < 1:
        raise InvalidInput(
            f"Expected values [..., seeds, examples] and at least one resample, got {x.shape} and "
            f"{resamples}; give at least one of each."
        )
    n, m = x.shape[-2:]
    random = np.random.default_rng(seed)
    of_seeds = _drawn(random, n, resamples) @ x
    found = np.empty((*x.shape[:-2], resamples))
    for start in range(0, resamples, _AT_ONCE):
        part = slice(start, min(start + _AT_ONCE, resamples))
        of_examples = _drawn(random, m, part.stop - part.start)
        found[..., part] = (of_seeds[..., part, :] * of_examples).sum(-1) / (n * m)
    return found


def _drawn(random: np.random.Generator, size: int, times: int) -> np.ndarray:
    """How often each of ``size`` things is drawn in as many draws, [times, size]."""
    drawn = random.integers(size, size=(times, size)) + size * np.arange(times)[:, None]
    counts: np.ndarray = np.bincount(drawn.ravel(), minlength=times * size).reshape(times, size)
    return counts


def freedom(spread: float, seeds: int, of_examples: float, examples: int) -> float:
    """Degrees of freedom of a variance of two parts: ``(A + B)² / (A²/(n - 1) + B²/(m - 1))``.

    Args:
        spread: standard deviation over seeds; A is its square over their number.
        seeds: n.
        of_examples: standard error that the examples add; B is its square.
        examples: m.

    Example:
        >>> freedom(1.0, 5, 0.0, 10_000)
        4.0

    Source: Satterthwaite (1946), "An approximate distribution of estimates of variance components".
    """
    a, b = spread**2 / seeds, of_examples**2
    if not b or examples < 2:
        return float(max(1, seeds - 1))
    below = (a**2 / (seeds - 1) if seeds > 1 else 0.0) + b**2 / (examples - 1)
    return (a + b) ** 2 / below


def _of_targets(sums: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Linearise a mean over targets: a value for each example, whose mean is that over targets."""
    if weights.shape != sums.shape[1:] or not weights.sum() > 0:
        raise InvalidInput(
            f"Expected a number of targets for each of {sums.shape[1]} examples, got "
            f"{weights.shape}; measure both networks on one part."
        )
    share = weights / weights.mean()
    means = sums.sum(1, keepdims=True) / weights.sum()
    linear: np.ndarray = means + sums / weights.mean() - means * share
    return linear


def _checked(rows: np.ndarray) -> np.ndarray:
    if rows.ndim != 2 or not rows.size or not np.isfinite(rows).all():
        raise InvalidInput(
            f"Expected finite values of at least one seed, got {rows.tolist() if rows.size < 20 else rows.shape}; "
            f"leave out the seeds that failed, and report that you did."
        )
    return rows
