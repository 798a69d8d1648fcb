"""The paired t-test is scipy's."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ttest_rel

from boxwood._internal.report.statistics import paired_difference

pairs = st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 1000)), min_size=3, max_size=9)


@given(pairs.filter(lambda p: len({a - b for a, b in p}) > 1))
@settings(deadline=None)
def test_paired_p_values_are_scipys(found: list[tuple[int, int]]) -> None:
    """The two-sided p-value over seeds is that of scipy.stats.ttest_rel."""
    a, b = zip(*found, strict=True)
    assert paired_difference(a, b).t_p == pytest.approx(float(ttest_rel(a, b).pvalue), rel=1e-9)
