"""Intervals and tests against published tables and hand arithmetic."""

import math

import pytest

from boxwood._internal.report.statistics import (
    Interval,
    mean,
    paired_difference,
    proportion,
    ratio,
)
from boxwood.errors import BoxwoodError


@pytest.mark.parametrize(
    ("correct", "total", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_intervals_are_newcombes(correct: int, total: int, low: float, high: float) -> None:
    """The Wilson interval has the ends that Newcombe (1998), table I, method 3, prints."""
    interval = proportion(correct, total)
    assert (round(interval.low, 4), round(interval.high, 4)) == (low, high)
    assert (interval.estimate, interval.n, interval.level) == (correct / total, total, 0.95)


def test_wilson_interval_of_8_in_10() -> None:
    """With z = 1.959964 the ends for 8 of 10 are (0.8 + z²/20 ± z·sqrt(0.016 + z²/400))/(1 + z²/10)."""
    z = 1.959963984540054
    centre, reach = 0.8 + z**2 / 20, z * math.sqrt(0.016 + z**2 / 400)
    interval = proportion(8, 10)
    assert interval.low == pytest.approx((centre - reach) / (1 + z**2 / 10), rel=1e-12)
    assert interval.high == pytest.approx((centre + reach) / (1 + z**2 / 10), rel=1e-12)
    assert f"{interval:.2%}" == "80.00 % [49.02, 94.33]"


def test_t_interval_of_1_to_5() -> None:
    """The mean of 1..5 is 3 ± 2.776445 · sqrt(2.5 / 5)."""
    interval = mean([1, 2, 3, 4, 5])
    assert interval.estimate == 3
    assert interval.low == pytest.approx(3 - 2.7764451051977987 * math.sqrt(0.5), rel=1e-12)
    assert interval.high == pytest.approx(3 + 2.7764451051977987 * math.sqrt(0.5), rel=1e-12)


def test_equal_values_have_an_interval_of_no_width() -> None:
    """Seeds that agree exactly give an interval of that one value, not an undefined one."""
    interval = mean([0.5, 0.5, 0.5])
    assert (interval.low, interval.estimate, interval.high) == (0.5, 0.5, 0.5)


def test_students_sleep_data() -> None:
    """Student's own example: 1.58 more hours of sleep, 95 % in [0.70, 2.46], 9 of 9 in favour."""
    first = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
    second = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
    result = paired_difference(second, first)
    assert result.difference.estimate == pytest.approx(1.58, rel=1e-12)
    assert result.difference.low == pytest.approx(0.7001142, abs=5e-8)
    assert result.difference.high == pytest.approx(2.4598858, abs=5e-8)
    assert (result.wins, result.losses, result.ties) == (9, 0, 1)
    assert result.sign_p == pytest.approx(2**-9, rel=1e-12)


@pytest.mark.parametrize(
    ("differences", "p"),
    [
        ([1, 1, 1, 1, 1], 1 / 32),
        ([1, 1, 1, 1, -1], 6 / 32),
        ([-1, -1, -1], 1.0),
        ([1, 1, 0], 1 / 4),
        ([0, 0], 1.0),
    ],
)
def test_sign_test_counts_coins(differences: list[float], p: float) -> None:
    """The p-value is the chance of at least as many heads, ties left out."""
    result = paired_difference(differences, [0] * len(differences))
    assert result.sign_p == pytest.approx(p, rel=1e-12)
    assert result.differences == tuple(differences)


def test_ratio_of_two_seeds_by_hand() -> None:
    """Ratios 1 and 4 give 2, and logarithms 0 and ln 4 ± 12.7062·ln(2)."""
    interval = ratio([3, 8], [3, 2])
    reach = 12.706204736174698 * math.log(2)
    assert interval.estimate == pytest.approx(2, rel=1e-12)
    assert math.log(interval.low) == pytest.approx(math.log(2) - reach, rel=1e-12)
    assert math.log(interval.high) == pytest.approx(math.log(2) + reach, rel=1e-12)


def test_intervals_say_how_little_they_rest_on() -> None:
    """One seed has no interval, two are called few, and three are printed plainly."""
    assert f"{mean([0.971]):.1%}" == "97.1 % (1 seed, no interval)"
    assert f"{ratio([2], [1]):.1f}" == "2.0 (1 seed, no interval)"
    assert f"{mean([0.5, 0.5]):.1%}" == "50.0 % [50.0, 50.0] (only n = 2)"
    assert f"{mean([0.5, 0.5, 0.5]):.1%}" == "50.0 % [50.0, 50.0]"
    assert str(mean([1, 2, 3, 4, 5])) == "3 [1.037, 4.963]"
    plus = Interval(estimate=0.004, low=-0.001, high=0.009, n=5, method="")
    assert f"{plus:+.1%}" == "+0.4 % [-0.1, +0.9]"


def test_a_single_seed_has_no_ends() -> None:
    """With one seed both ends are None, so that nothing compares with them by mistake."""
    assert (mean([3]).low, mean([3]).high, mean([3]).n) == (None, None, 1)


@pytest.mark.parametrize(("correct", "total"), [(-1, 5), (6, 5), (0, 0)])
def test_impossible_counts_are_refused(correct: int, total: int) -> None:
    """A proportion has between none and all of at least one example."""
    with pytest.raises(BoxwoodError, match=r"Expected 0 <= correct <= total .* give counts"):
        proportion(correct, total)


@pytest.mark.parametrize("level", [0, 1, 95, math.nan])
def test_impossible_levels_are_refused(level: float) -> None:
    """Every interval refuses a confidence outside (0, 1)."""
    for make in (
        lambda: proportion(1, 2, level),
        lambda: mean([1, 2], level),
        lambda: paired_difference([1, 2], [2, 1], level),
        lambda: ratio([1, 2], [2, 1], level=level),
    ):
        with pytest.raises(BoxwoodError, match=r"Expected a confidence level in \(0, 1\), got"):
            make()


@pytest.mark.parametrize("values", [[], [1, math.nan], [math.inf]])
def test_missing_and_failed_seeds_are_refused(values: list[float]) -> None:
    """A mean over nothing, or over a seed that diverged, is no number."""
    with pytest.raises(BoxwoodError, match=r"Expected values to hold .* leave out the seeds"):
        mean(values)


def test_unpaired_seeds_are_refused() -> None:
    """Two methods are compared on the same seeds only."""
    with pytest.raises(BoxwoodError, match=r"got 2 and 1; pair them by seed"):
        paired_difference([1, 2], [1])
    with pytest.raises(BoxwoodError, match=r"got 1 and 2; pair them by seed"):
        ratio([1], [1, 2])


def test_ratios_of_nothing_are_refused() -> None:
    """A ratio needs positive numbers on both sides."""
    with pytest.raises(BoxwoodError, match=r"Expected positive numbers .* paired_difference"):
        ratio([1, 2], [1, 0])
