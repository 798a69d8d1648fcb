"""Where two phases part."""

from types import SimpleNamespace

from boxwood._internal.runs.difference import difference, history
from boxwood._internal.runs.store import Store


def test_two_recipes_differ_from_where_they_part(empty: Store, hand: SimpleNamespace) -> None:
    """The shared beginning is counted, then every setting and fact that differs, and no other."""
    a = hand.note(empty, "a", 0, [(hand.train(), hand.trained(), None), (hand.prune(0.5), {"sparsity": 0.5}, (9, 2)), (hand.measure(""), hand.measured(90, (9, 2)), (9, 2))])  # fmt: skip
    b = hand.note(empty, "b", 0, [(hand.train(), hand.trained(), None), (hand.prune(0.7), {"sparsity": 0.7}, (9, 2)), (hand.measure(""), hand.measured(80, (9, 2)), (9, 2))])  # fmt: skip
    found = difference(empty, a[-1], b[-1])
    assert found.shared == tuple(a[:2])
    assert [(c.where, c.what, c.a, c.b) for c in found.settings] == [("2 Prune", "sparsity", 0.5, 0.7)]  # fmt: skip
    assert [(c.what, c.a, c.b) for c in found.facts] == [("test.correct", 90, 80)]


def test_a_longer_recipe_has_whole_phases_more(empty: Store, hand: SimpleNamespace) -> None:
    """A phase that only one of the two has is one change."""
    phases = [(hand.train(), hand.trained(), None), (hand.measure(""), hand.measured(90), None)]
    chain = hand.note(empty, "a", 0, phases)
    found = difference(empty, chain[1], chain[2])
    assert [(c.where, c.what, c.a, c.b) for c in found.settings] == [
        ("2 Measure", "the whole phase", None, "Measure")
    ]
    assert history(empty, chain[2]) == chain
