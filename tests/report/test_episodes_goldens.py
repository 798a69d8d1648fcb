"""What an agent tried, drawn by layer."""

from types import SimpleNamespace
from typing import Any

import pytest

from boxwood._internal.report.page.build import Report, articles
from boxwood._internal.report.page.document import Figure, tables_of
from boxwood._internal.report.page.episodes import searched
from boxwood._internal.runs.store import Store


def search(layer: str, updates: int, first: int) -> dict[str, Any]:
    """Facts of a search that keeps one unit less each update, in two tries that are two apart."""
    return {
        "episodes": [
            {
                "layer": layer, "update": i, "kept": [first - i, first - i - 2],
                "drop": [0.5, 1.5], "reward": [1.0 * i, 2.0 * i],
                "tried": ["1" * (first - i), "1" * (first - i - 2)], "now": "1",
            }
            for i in range(updates)
        ],
        "kept": {layer: first - updates}, "sparsity": 0.1, "drop": 1.0, "reference": 0.98,
    }  # fmt: skip


def fill(store: Store, hand: SimpleNamespace) -> None:
    for seed in (0, 1):
        phases = [(hand.train(), hand.trained(), None)]
        for layer, first in (("conv1", 20), ("conv2", 50)):
            spec = {
                "is": "boxwood.phases:SearchFilters",
                "layer": layer,
            }
            phases.append((spec, search(layer, 4, first), (9, 2)))
        phases.append((hand.measure(""), hand.measured(950, (9, 2)), (9, 2)))
        hand.note(store, "agent", seed, phases)


def test_rewards_and_kept_units_stand_by_layer_and_update(
    empty: Store, hand: SimpleNamespace
) -> None:
    """Of two tries the mean, the lowest and the highest, for each seed, layer and update."""
    fill(empty, hand)
    (made,) = articles(Report(stores=(empty.root,)))
    (table,) = [each for each in tables_of(made) if each.name == "episodes"]
    assert len(table.rows) == 2 * 2 * 4 * 3
    row = next(
        r
        for r in table.rows
        if (r["seed"], r["layer"], r["update"], r["what"]) == (1, "conv2", 3, "kept")
    )
    assert (row["mean"], row["low"], row["high"], row["tries"]) == (46, 45, 47, 2)
    figures = [part for s in made.sections for part in s.parts if isinstance(part, Figure)]
    (figure,) = [each for each in figures if each.name == "episodes"]
    assert [option.label for option in figure.controls[0].options] == ["conv1", "conv2"]
    assert "conv1: 19 units kept at first, 16 last" in figure.alternative
    assert not [each.name for each in figures if each.name.startswith("facts-")]


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [{"layer": "a", "update": 0, "kept": [], "drop": [], "reward": []}],
        [{"layer": "a", "update": 0, "kept": [1], "drop": [None], "reward": [1.0]}],
        [{"layer": 3, "update": 0, "kept": [1], "drop": [0.1], "reward": [1.0]}],
        {"layer": "a"},
    ],
)
def test_what_is_no_search_is_not_drawn_as_one(
    rows: object, empty: Store, hand: SimpleNamespace
) -> None:
    """Episodes of another shape are shown as other facts are, or left out; the page stands."""
    assert not searched({"episodes": rows})
    hand.note(empty, "a", 0, [({"is": "m:Mine"}, {"episodes": rows}, None), (hand.measure(""), hand.measured(9), None)])  # fmt: skip
    (made,) = articles(Report(stores=(empty.root,)))
    assert "episodes" not in {table.name for table in tables_of(made)}


def test_long_searches_are_thinned(empty: Store, hand: SimpleNamespace) -> None:
    """Of a thousand updates at most 300 are drawn, the last among them."""
    hand.note(empty, "a", 0, [({"is": "m:Mine"}, search("conv1", 1000, 2000), None)])
    (made,) = articles(Report(stores=(empty.root,)))
    (table,) = [each for each in tables_of(made) if each.name == "episodes"]
    updates = [r["update"] for r in table.rows if r["what"] == "kept"]
    assert len(updates) <= 300
    assert updates[-1] == 999


def test_many_searches_share_the_page(empty: Store, hand: SimpleNamespace) -> None:
    """However many searches there are, their rows stay few; each keeps ten updates and its last."""
    for seed in range(30):
        phases = [({"is": "m:Mine", "layer": i}, search(f"conv{i}", 200, 900), None) for i in range(8)]  # fmt: skip
        hand.note(empty, "a", seed, phases)
    (made,) = articles(Report(stores=(empty.root,)))
    (table,) = [each for each in tables_of(made) if each.name == "episodes"]
    assert len(table.rows) <= 10 * 3 * 30 * 8
    last = [r for r in table.rows if (r["update"], r["what"]) == (199, "reward")]
    assert len(last) == 30 * 8
