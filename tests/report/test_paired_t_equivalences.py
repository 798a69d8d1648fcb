"""The paired t-test is scipy's."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import bootstrap, ttest_rel

from boxwood._internal.report.statistics import bootstrap_mean, paired_difference

pairs = st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 1000)), min_size=3, max_size=9)


@given(pairs.filter(lambda p: len({a - b for a, b in p}) > 1))
@settings(deadline=None)
def test_paired_p_values_are_scipys(found: list[tuple[int, int]]) -> None:
    """The two-sided p-value over seeds is that of scipy.stats.ttest_rel."""
    a, b = zip(*found, strict=True)
    assert paired_difference(a, b).t_p == pytest.approx(float(ttest_rel(a, b).pvalue), rel=1e-9)


def test_bootstrap_is_scipys_percentile_method() -> None:
    """With many resamples both percentile intervals of a mean agree to a hundredth of its width."""
    values = [0.2, 0.5, 0.1, 0.9, 0.4, 0.7, 0.3]
    ours = bootstrap_mean(values, resamples=100_000)
    peer = bootstrap((values,), lambda x, axis: x.mean(axis=axis), n_resamples=100_000, method="percentile", rng=1).confidence_interval  # fmt: skip
    width = peer.high - peer.low
    assert ours.low == pytest.approx(peer.low, abs=0.01 * width)
    assert ours.high == pytest.approx(peer.high, abs=0.01 * width)
