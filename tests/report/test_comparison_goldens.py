"""Two recipes side by side."""

from types import SimpleNamespace

import pytest

from boxwood._internal.report.page.comparison import compare, comparison_table
from boxwood._internal.report.page.store_reader import read
from boxwood._internal.runs.store import Store
from boxwood.errors import BoxwoodError


def test_recipes_are_paired_by_seed_and_sparsity(store: Store) -> None:
    """What chance pruned is 4 points worse on every seed at every sparsity, exactly."""
    found = compare(read([store]), "pruned", "by chance")
    assert [(p.a, p.b) for p in found.pairs] == [
        (f"pruned round-{i}", f"by chance round-{i}") for i in (1, 2, 3)
    ]
    for pair in found.pairs:
        assert pair.paired.differences == pytest.approx([0.04] * 5)
        assert (pair.paired.wins, pair.same_budget) == (5, True)
    assert "better at 3, worse at 0 and undecided at 0 of the 3" in found.summary


def test_single_networks_can_be_compared(store: Store) -> None:
    """Dense is 0.2 points above the first round for seed 0, and as much for every other."""
    found = compare(read([store]), "dense", "pruned round-1")
    (row,) = comparison_table(found).rows
    assert row["difference"] == pytest.approx(0.002)
    assert (row["epochs_a"], row["epochs_b"]) == (2.0, 4.0)
    assert "The budgets differ at 1: 2 and 4 epochs" in found.summary


def test_what_cannot_be_compared_says_why(
    store: Store, empty: Store, hand: SimpleNamespace
) -> None:
    """An unknown name, two studies, and nothing at one sparsity are different errors."""
    studies = read([store])
    with pytest.raises(BoxwoodError, match="got 'prune'; correct the name"):
        compare(studies, "prune", "by chance")
    hand.note(empty, "other", 0, [(hand.measure(""), hand.measured(9), None)], model={"function": "a:b"})  # fmt: skip
    with pytest.raises(BoxwoodError, match="Expected two recipes of one study"):
        compare(read([store, empty]), "pruned", "other")
    with pytest.raises(BoxwoodError, match="that kept the same number of weights"):
        compare(read([_two_levels(empty, hand)], only=["x*", "y*"]), "x", "y")


def _two_levels(store: Store, hand: SimpleNamespace) -> Store:
    for name, levels in (("x", ((48, 9), (24, 4))), ("y", ((9, 2), (12, 3)))):
        phases = []
        for kept in levels:
            phases += [(hand.prune(0.5), {"sparsity": 1 - sum(kept) / 114}, kept), (hand.measure(str(kept)), hand.measured(9, kept), kept)]  # fmt: skip
        hand.note(store, name, 0, phases)
    return store
