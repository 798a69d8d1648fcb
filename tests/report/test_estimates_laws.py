"""Estimates over seeds and examples against slow versions of themselves, hand arithmetic and simulation."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import t, ttest_1samp

from boxwood import BoxwoodError
from boxwood._internal.report.estimates import (
    interval,
    over_seeds,
    over_seeds_and_examples,
    two_way_bootstrap,
)
from boxwood._internal.report.significance import above, holm, mcnemar, seeds_needed, signs, within
from boxwood._internal.report.statistics import mean, paired_difference

SHAPES = st.tuples(st.integers(2, 6), st.integers(2, 8))
DIFFERENCES = SHAPES.flatmap(lambda shape: arrays(np.int64, shape, elements=st.integers(-1, 1)))
VALUES = st.lists(st.integers(-50, 50).map(lambda i: i / 8), min_size=2, max_size=9)


@settings(deadline=None)  # the first call loads scipy
@given(VALUES, st.floats(0.5, 0.99))
def test_over_seeds_alone_it_is_students_interval(values: list[float], level: float) -> None:
    """Without examples, mean, ends and p-value are those of the t-test."""
    ours, theirs = interval(over_seeds(values), level), mean(values, level)
    assert (ours.low, ours.estimate, ours.high) == pytest.approx(
        (theirs.low, theirs.estimate, theirs.high), abs=1e-12
    )
    if len(set(values)) > 1:
        p = ttest_1samp(values, 0.25, alternative="greater").pvalue
        assert above(over_seeds(values), 0.25) == pytest.approx(float(p), abs=1e-12)


@given(DIFFERENCES)
def test_the_variance_is_that_of_the_analysis_of_variance(x: np.ndarray) -> None:
    """``(MSA + max(0, MSB - MSE))/(n·m)``, mean squares by loops over every cell."""
    n, m = x.shape
    found = over_seeds_and_examples(x)
    rows = [sum(x[s, e] for e in range(m)) / m for s in range(n)]
    columns = [sum(x[s, e] for s in range(n)) / n for e in range(m)]
    whole = sum(rows) / n
    msa = m * sum((r - whole) ** 2 for r in rows) / (n - 1)
    msb = n * sum((c - whole) ** 2 for c in columns) / (m - 1)
    rest = sum(
        (x[s, e] - rows[s] - columns[e] + whole) ** 2 for s in range(n) for e in range(m)
    ) / ((n - 1) * (m - 1))
    assert found.value == pytest.approx(whole, abs=1e-12)
    assert found.error**2 == pytest.approx((msa + max(0.0, msb - rest)) / (n * m), abs=1e-12)
    assert found.error >= over_seeds(found.by_seed).error - 1e-12


@given(DIFFERENCES, st.integers(1, 3))
def test_equal_weights_change_nothing(x: np.ndarray, weight: int) -> None:
    """Examples with the same number of targets count alike; sums over targets are means times it."""
    plain = over_seeds_and_examples(x)
    weighted = over_seeds_and_examples(x * weight, np.full(x.shape[1], weight))
    assert weighted.value == pytest.approx(plain.value, abs=1e-12)
    assert weighted.error == pytest.approx(plain.error, abs=1e-12)


def test_the_mean_is_over_targets() -> None:
    """Sequences of 1 and 3 words with losses 2 and 3 have a mean of 5/4 a word."""
    found = over_seeds_and_examples(np.array([[2.0, 3.0], [2.0, 3.0]]), [1, 3])
    assert found.value == pytest.approx(1.25)
    assert found.by_seed == pytest.approx((1.25, 1.25))


@settings(deadline=None)  # scipy
@given(DIFFERENCES, st.permutations(range(6)))
def test_order_and_sign_do_not_matter(x: np.ndarray, order: list[int]) -> None:
    """Seeds in another order give the same error, and the other side's difference is the mirror."""
    found = over_seeds_and_examples(x)
    turned = over_seeds_and_examples(-x[[i for i in order if i < len(x)]])
    assert (turned.value, turned.error) == pytest.approx((-found.value, found.error), abs=1e-12)
    assert above(found) + above(turned) == pytest.approx(1.0, abs=1e-12)


@settings(max_examples=25)
@given(DIFFERENCES, st.integers(0, 5))
def test_the_bootstrap_is_the_naive_one(x: np.ndarray, seed: int) -> None:
    """Each resample is the mean of the cells of drawn seeds and drawn examples, bit for bit alike."""
    n, m = x.shape
    found = two_way_bootstrap(x, seed=seed, resamples=130)
    random = np.random.default_rng(seed)
    rows, columns = random.integers(n, size=(130, n)), random.integers(m, size=(130, m))
    naive = [
        sum(x[s, e] for s, e in itertools.product(row, column)) / (n * m)
        for row, column in zip(rows, columns, strict=True)
    ]
    assert found.tolist() == naive


def test_resampling_estimates_what_the_formula_says() -> None:
    """The bootstrap's variance is the formula's plus twice the interaction's, but for (n-1)/n."""
    random = np.random.default_rng(0)
    n, m = 40, 60
    x = random.normal(size=(n, m)) + random.normal(size=(n, 1)) + random.normal(size=(1, m))
    found = over_seeds_and_examples(x)
    rest = x - x.mean(1, keepdims=True) - x.mean(0) + x.mean()
    twice = 2 * (rest**2).sum() / ((n - 1) * (m - 1)) / (n * m)
    drawn = two_way_bootstrap(x, resamples=20_000).var()
    assert drawn == pytest.approx(found.error**2 + twice, rel=0.06)


def test_resamples_of_two_networks_are_the_same_ones() -> None:
    """Leading dimensions share the draws, so that ratios of two means are paired."""
    x = np.arange(12.0).reshape(3, 4)
    one, double = two_way_bootstrap(np.stack([x, 2 * x]), resamples=50)
    assert double.tolist() == (2 * one).tolist()
    assert two_way_bootstrap(x, resamples=50).tolist() == one.tolist()


@settings(deadline=None)  # scipy
@given(VALUES, st.sampled_from([0.3, 1.0, 4.0]))
def test_equivalence_is_inclusion_of_the_interval(values: list[float], margin: float) -> None:
    """Both one-sided tests succeed at 5 % where the 90 % interval lies within the margin."""
    found = over_seeds(values)
    ends = interval(found, 0.9)
    inside = -margin < ends.low and ends.high < margin
    p = within(found, margin)
    assert (p < 0.05) == inside or p == pytest.approx(0.05, abs=1e-9)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_keeps_the_order_and_never_lowers(p_values: list[float]) -> None:
    """Corrected values are at least as large, in the same order, and at most k times as large."""
    found = holm(p_values)
    for p, q in zip(p_values, found, strict=True):
        assert p <= q <= min(1.0, len(p_values) * p)
    for i, j in itertools.permutations(range(len(p_values)), 2):
        assert p_values[i] > p_values[j] or found[i] <= found[j]


def test_holms_own_order() -> None:
    """The smallest is multiplied by k, the next by k - 1; one that passes lifts those after it."""
    assert holm([0.02, 0.01, 0.015]) == (0.03, 0.03, 0.03)
    assert holm([0.5]) == (0.5,)
    assert holm([]) == ()


def test_mcnemar_counts_coins() -> None:
    """8 against 1 discordant examples are p = 2·(1 + 9)/2⁹; equal networks are p = 1."""
    a, b = np.zeros(50, bool), np.zeros(50, bool)
    a[:8], b[8] = True, True
    assert mcnemar(a, b) == pytest.approx(2 * 10 / 512)
    assert mcnemar(a, a) == 1.0
    with pytest.raises(BoxwoodError, match="on the same examples"):
        mcnemar(a, b[:9])


@settings(deadline=None)  # scipy
@given(VALUES)
def test_signs_are_those_of_the_paired_comparison(values: list[float]) -> None:
    """One sign test, wherever it is used."""
    assert signs(values) == paired_difference(values, [0] * len(values)).sign_p


@settings(max_examples=30, deadline=None)
@given(VALUES)
def test_the_seeds_needed_decide_and_one_fewer_does_not(values: list[float]) -> None:
    """At the number that is named the interval leaves zero out if mean and spread stay."""
    found = over_seeds(values)
    n = seeds_needed(found)
    if n is None or found.spread == 0:
        return

    def decides(seeds: int) -> bool:
        reach = t.ppf(0.975, seeds - 1) * found.spread / seeds**0.5
        return bool(reach < abs(found.value))

    assert decides(n)
    assert n == 2 or not decides(n - 1)


def test_examples_that_are_too_few_are_not_helped_by_seeds() -> None:
    """The error of 20 examples stays however many seeds there are."""
    x = np.tile(np.array([1, 0, 0, -1, 1, 0, 0, 0, 0, 0] * 2), (5, 1))
    assert seeds_needed(over_seeds_and_examples(x)) is None


def test_nothing_and_what_is_no_number_is_refused() -> None:
    """A mean over nothing, over one example or over a seed that diverged is no number."""
    for values in ([], [1.0, float("nan")]):
        with pytest.raises(BoxwoodError, match="Expected finite values"):
            over_seeds(values)
    with pytest.raises(BoxwoodError, match="at least two examples"):
        over_seeds_and_examples(np.ones((5, 1)))
    with pytest.raises(BoxwoodError, match="a number of targets for each"):
        over_seeds_and_examples(np.ones((5, 3)), [1, 1])
    with pytest.raises(BoxwoodError, match="at least one resample"):
        two_way_bootstrap(np.ones((5, 3)), resamples=0)
    with pytest.raises(BoxwoodError, match="a margin above zero"):
        within(over_seeds([1, 2]), 0)


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [5, 10])
@pytest.mark.parametrize(("shared", "own"), [(0.0, 0.05), (0.02, 0.03), (0.05, 0.0)])
@pytest.mark.parametrize("spread", [0.0, 0.003, 0.01])
def test_intervals_cover_the_truth(seeds: int, shared: float, own: float, spread: float) -> None:
    """95 ± 2 % of intervals hold the truth, whether networks differ in the same examples or not.

    Over seeds alone it is down to 6 % where the same examples make the difference in all seeds.
    """
    random = np.random.default_rng(1)
    covered = alone = 0
    for _ in range(2000):
        same = random.choice([-1, 0, 1], p=[shared / 2, 1 - shared, shared / 2], size=1000)
        each = random.choice([-1, 0, 1], p=[own / 2, 1 - own, own / 2], size=(seeds, 1000))
        x = np.where(same != 0, same, each) + random.normal(0, spread, size=(seeds, 1))
        found = over_seeds_and_examples(x)
        for counted, estimate in ((True, found), (False, over_seeds(found.by_seed))):
            ends = interval(estimate)
            inside = ends.low <= 0 <= ends.high
            covered, alone = covered + (counted and inside), alone + (not counted and inside)
    assert 0.93 < covered / 2000 < 0.97
    assert alone <= covered + 40
