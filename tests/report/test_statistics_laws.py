"""What holds of every interval, whatever the numbers."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from boxwood._internal.report.statistics import (
    Interval,
    mean,
    paired_difference,
    proportion,
    ratio,
)

NUMBERS = st.lists(st.integers(-1000, 1000).map(lambda i: i / 8), min_size=2, max_size=12)
POSITIVE = st.floats(0.01, 100)
PAIRS = st.lists(st.tuples(POSITIVE, POSITIVE), min_size=2, max_size=8)
LEVELS = st.floats(0.5, 0.999)
COUNTS = st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


def assert_contains(outer: Interval, inner: Interval) -> None:
    slack = 1e-9 * (1 + abs(outer.estimate))
    assert outer.low <= inner.low + slack
    assert inner.low <= inner.estimate + slack
    assert inner.estimate <= inner.high + slack
    assert inner.high <= outer.high + slack


@given(COUNTS, LEVELS, LEVELS)
def test_proportions_widen_with_the_level(counts: tuple[int, int], a: float, b: float) -> None:
    """A proportion lies in its interval, which lies in every wider one and in [0, 1]."""
    outer = proportion(*counts, max(a, b))
    assert_contains(outer, proportion(*counts, min(a, b)))
    assert 0 <= outer.low < outer.high <= 1


@given(COUNTS)
def test_errors_mirror_accuracy(counts: tuple[int, int]) -> None:
    """The interval of what is wrong is one minus the interval of what is right."""
    correct, total = counts
    right, wrong = proportion(correct, total), proportion(total - correct, total)
    assert (wrong.low, wrong.high) == pytest.approx((1 - right.high, 1 - right.low), abs=1e-12)


def test_proportions_cover_the_truth() -> None:
    """Averaged over the truths 1 % … 99 %, the interval of 50 examples holds the truth 95 ± 0.2 % of the time.

    At a single truth the coverage of any such interval swings, here from 91 to 98 %, because
    counts are whole numbers; only the average is held to the level.
    """
    intervals = [proportion(k, 50) for k in range(51)]
    truths = [percent / 100 for percent in range(1, 100)]
    coverages = [
        sum(binom.pmf(k, 50, p) for k, i in enumerate(intervals) if i.low <= p <= i.high)
        for p in truths
    ]
    assert abs(sum(coverages) / len(truths) - 0.95) < 0.002


@given(NUMBERS, LEVELS, LEVELS)
def test_means_widen_with_the_level(values: list[float], a: float, b: float) -> None:
    """A mean lies in its interval, which lies in every wider one."""
    assert_contains(mean(values, max(a, b)), mean(values, min(a, b)))


@given(NUMBERS, st.integers(-100, 100), st.sampled_from([-4, 0.5, 3]))
def test_means_follow_the_unit(values: list[float], shift: float, scale: float) -> None:
    """Measuring in another unit moves the interval along, and changes nothing else."""
    before, after = mean(values), mean([scale * value + shift for value in values])
    ends = sorted(scale * end + shift for end in (before.low, before.high))
    assert [after.low, after.high] == pytest.approx(ends, rel=1e-9, abs=1e-9)


@given(st.lists(st.tuples(st.integers(-9, 9), st.integers(-9, 9)), min_size=2, max_size=12))
def test_swapping_the_sides_mirrors_the_comparison(pairs: list[tuple[int, int]]) -> None:
    """``b`` against ``a`` is the negative of ``a`` against ``b``, wins and losses exchanged."""
    a, b = zip(*pairs, strict=True)
    forth, back = paired_difference(a, b), paired_difference(b, a)
    assert back.differences == tuple(-d for d in forth.differences)
    assert (back.wins, back.losses, back.ties) == (forth.losses, forth.wins, forth.ties)
    assert (back.difference.low, back.difference.high) == pytest.approx(
        (-forth.difference.high, -forth.difference.low), rel=1e-12, abs=1e-12
    )
    decided = forth.wins + forth.losses
    both = 1 + float(binom.pmf(forth.wins, decided, 0.5))
    assert forth.sign_p + back.sign_p == pytest.approx(both, rel=1e-12)


@settings(max_examples=50)
@given(PAIRS, st.floats(0.5, 0.99), st.floats(0.5, 0.99))
def test_ratios_widen_with_the_level(pairs: list[tuple[float, float]], a: float, b: float) -> None:
    """A ratio's interval at one level lies in that of every higher level."""
    x, y = zip(*pairs, strict=True)
    outer, inner = (ratio(x, y, f(a, b)) for f in (max, min))
    assert_contains(outer, inner)


@settings(max_examples=50)
@given(PAIRS)
def test_swapping_the_sides_inverts_the_ratio(pairs: list[tuple[float, float]]) -> None:
    """``b / a`` has the reciprocal estimate and ends, and its 95 % interval holds the estimate."""
    a, b = zip(*pairs, strict=True)
    forth, back = ratio(a, b), ratio(b, a)
    assert (back.low, back.estimate, back.high) == pytest.approx(
        (1 / forth.high, 1 / forth.estimate, 1 / forth.low), rel=1e-9
    )
    assert_contains(forth, forth)
