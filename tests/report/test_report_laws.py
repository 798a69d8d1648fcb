"""Laws of what a report writes and computes."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boxwood._internal.report.page.provenance import phase_words
from boxwood._internal.report.page.render import _packed, script_json
from boxwood._internal.report.page.store_reader import short
from boxwood._internal.report.page.training_history import steps_of, thinned
from boxwood._internal.report.statistics import mean, paired_difference
from boxwood._internal.report.study import Step

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
numbers = st.lists(st.floats(-100, 100), min_size=2, max_size=8)


@given(values)
def test_json_in_scripts_reads_back_and_holds_no_markup(value: object) -> None:
    """Whatever text is in a value, its JSON has no <, > or & and reads back as the value."""
    written = str(script_json(value))
    assert not set("<>&") & set(written)
    assert json.loads(written) == value


@given(st.lists(st.sampled_from(["a", "b", "c"]) | st.text(max_size=3), min_size=1))
def test_packed_columns_unpack_to_themselves(texts: list[str]) -> None:
    """A column by its different values and their places is the column."""
    packed = _packed(texts)
    unpacked = packed if isinstance(packed, list) else [packed["of"][i] for i in packed["at"]]
    assert unpacked == texts


@given(values)
def test_any_spec_can_be_written_in_short(value: object) -> None:
    """A store may hold specs of phases that nobody here knows; each has a line of text."""
    assert isinstance(short(value), str)
    if isinstance(value, dict):
        assert isinstance(phase_words(Step("k", value, None)), str)


@given(st.integers(1, 3000))
def test_thinned_histories_keep_their_last_row(length: int) -> None:
    """However long a history is, few rows are drawn, in order, the last among them."""
    rows = [{"epoch": i} for i in range(length)]
    kept = thinned(rows, 240)
    assert len(kept) <= 240
    assert kept[-1] == rows[-1]
    assert [r["epoch"] for r in kept] == sorted({r["epoch"] for r in kept})


@given(st.integers(0, 500), st.integers(1, 50), st.integers(2, 40), st.floats(0.5, 20))
def test_steps_cover_the_epochs_of_their_training(
    first: int, gap: int, count: int, epochs: float
) -> None:
    """Whatever step a training starts at, its last row is at its last epoch."""
    history = [{"step": first + gap * (i + 1)} for i in range(count)]
    start, per_epoch = steps_of(history, epochs)
    assert start == first
    assert (history[-1]["step"] - start) / per_epoch == pytest.approx(epochs)


@given(numbers)
@settings(deadline=None)  # the first call loads scipy
def test_the_paired_t_test_agrees_with_its_interval(values: list[float]) -> None:
    """The p-value is below 5 % exactly where the 95 % interval of the difference leaves out zero."""
    found = paired_difference(values, [0.0] * len(values))
    low, high = found.difference.low, found.difference.high
    assert low is not None
    assert high is not None
    assert found.t_p is not None
    if abs(found.t_p - 0.05) > 1e-9 and min(abs(low), abs(high)) > 1e-9:
        assert (found.t_p < 0.05) == (low > 0 or high < 0)


def test_one_seed_has_no_test_and_no_interval() -> None:
    """A single difference has neither p-value nor interval."""
    assert paired_difference([1.0], [0.5]).t_p is None
    assert mean([1.0]).low is None
