"""A setting that lies on the edge of its grid is said to."""

import warnings
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boxwood._internal.report.grids import choose, edge
from boxwood._internal.report.page.networks import baseline, networks
from boxwood._internal.report.page.store_reader import read
from boxwood._internal.report.page.warnings import warnings_of
from boxwood._internal.runs.store import Store
from boxwood.errors import EdgeOfGrid

SCORES = st.dictionaries(st.floats(1e-6, 1e3), st.floats(0, 1), min_size=1)


@given(SCORES)
def test_a_choice_is_the_best_and_is_warned_of_at_an_edge_only(scores: dict[float, float]) -> None:
    """Nothing scores higher; a warning comes exactly where a bound of the grid was chosen."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        best = choose("rate", scores)
    assert scores[best] == max(scores.values())
    at_end = best in (min(scores), max(scores))
    assert [each.category for each in caught] == [EdgeOfGrid] * at_end
    assert bool(edge(scores)) == at_end


def test_zero_is_no_edge() -> None:
    """Less than no penalty is nothing to try."""
    assert edge({0.0: 0.9, 1e-4: 0.8}) == ""
    with pytest.warns(EdgeOfGrid, match=r"best L2 inside of its grid, got the highest, 0.001 of"):
        choose("L2", {0.0: 0.7, 1e-4: 0.8, 1e-3: 0.9})


@pytest.mark.parametrize(("right", "warned"), [((80, 90, 85), False), ((80, 85, 90), True)])
def test_the_page_says_so(
    empty: Store, hand: SimpleNamespace, right: tuple[int, ...], warned: bool
) -> None:
    """Of three strengths that differ in nothing else; five seeds each."""
    for strength, correct in zip((1e-5, 1e-4, 1e-3), right, strict=True):
        for seed in range(5):
            train = hand.train()
            train["training"] = {**train["training"], "regularisation": {"l1": strength}}
            facts = hand.measured(900, validation=10 * correct)
            phases = [(train, hand.trained(), None), (hand.measure("x"), facts, (9, 2))]
            hand.note(empty, f"L1 {strength:g}", seed, phases)
    (study,) = read([empty])
    found = networks(study)
    notes = [
        n for n in warnings_of(study, found, baseline(found)) if n.text.startswith("Best at the")
    ]
    said = [list(note.details) for note in notes]
    assert said == ([["l1: the highest of 1e-05, 0.0001, 0.001 (L1 0.001 x)"]] if warned else [])
