"""Ranks over tasks: scipy's Friedman test, a worked example, and laws of groups."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import f, friedmanchisquare

from boxwood._internal.report.ranks import ranked_over_tasks
from boxwood.errors import BoxwoodError

DEMSAR = [  # Demšar (2006), table 6: AUC of C4.5, and with m, with cf, and with both tuned
    [0.763, 0.768, 0.771, 0.798], [0.599, 0.591, 0.590, 0.569], [0.954, 0.971, 0.968, 0.967],
    [0.628, 0.661, 0.654, 0.657], [0.882, 0.888, 0.886, 0.898], [0.936, 0.931, 0.916, 0.931],
    [0.661, 0.668, 0.609, 0.685], [0.583, 0.583, 0.563, 0.625], [0.775, 0.838, 0.866, 0.875],
    [1.000, 1.000, 1.000, 1.000], [0.940, 0.962, 0.965, 0.962], [0.619, 0.666, 0.614, 0.669],
    [0.972, 0.981, 0.9751, 0.975], [0.957, 0.978, 0.946, 0.970],
]  # fmt: skip
NAMES = ["C4.5", "C4.5+m", "C4.5+cf", "C4.5+m+cf"]


def test_the_worked_example_of_the_source() -> None:
    """Ranks 3.143, 2.000, 2.893, 1.964; χ² = 9.28 without a correction for ties; CD 1.25 at 5 %."""
    found = ranked_over_tasks(DEMSAR, NAMES)
    assert found.names == ("C4.5+m+cf", "C4.5+m", "C4.5+cf", "C4.5")
    assert found.ranks == pytest.approx((1.964, 2.000, 2.893, 3.143), abs=0.001)
    assert found.critical_difference == pytest.approx(1.25, abs=0.005)
    chi = 12 * 14 / 20 * (sum(rank**2 for rank in found.ranks) - 4 * 25 / 4)
    assert chi == pytest.approx(9.28, abs=0.01)
    assert 0.01 < found.p < float(f.sf(3.69, 3, 39))  # ties make χ² larger
    assert found.alike == (("C4.5+m+cf", "C4.5+m", "C4.5+cf", "C4.5"),)


@given(st.integers(2, 8), st.integers(3, 6), st.integers(0, 99), st.booleans())
def test_the_statistic_is_that_of_scipy(tasks: int, methods: int, seed: int, ties: bool) -> None:
    """F and p follow from scipy's χ², with its correction for ties."""
    table = np.random.default_rng(seed).normal(size=(tasks, methods))
    table = np.round(table) if ties else table
    names = [str(k) for k in range(methods)]
    found = ranked_over_tasks(table.tolist(), names)
    chi = friedmanchisquare(*table.T).statistic
    below = tasks * (methods - 1) - chi
    if not np.isfinite(chi):
        assert found.p == 1
    elif below > 1e-9:
        expected = f.sf((tasks - 1) * chi / below, methods - 1, (methods - 1) * (tasks - 1))
        assert found.p == pytest.approx(float(expected), rel=1e-6)
    assert sum(found.ranks) == pytest.approx(methods * (methods + 1) / 2)
    assert list(found.ranks) == sorted(found.ranks)
    at = dict(zip(found.names, found.ranks, strict=True))
    for group in found.alike:
        assert len(group) > 1
        assert at[group[-1]] - at[group[0]] <= found.critical_difference
    for a in names:
        for b in names:
            together = any(a in group and b in group for group in found.alike)
            assert a == b or together == (abs(at[a] - at[b]) <= found.critical_difference)


def test_what_it_refuses() -> None:
    """One task ranks nothing, and what did not finish has no rank."""
    for scores in ([[0.1, 0.2]], [[0.1], [0.2]], [[0.1, float("nan")], [0.2, 0.3]]):
        with pytest.raises(
            BoxwoodError, match=r"scores of at least two methods on at least two tasks"
        ):
            ranked_over_tasks(scores, ["a", "b"])
    with pytest.raises(BoxwoodError, match=r"a confidence level in \(0, 1\), got 1"):
        ranked_over_tasks([[0.1, 0.2], [0.2, 0.3]], ["a", "b"], level=1.0)
