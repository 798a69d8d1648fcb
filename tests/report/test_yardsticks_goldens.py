"""Networks that are judged by something else than accuracy: what the page says of them."""

import math
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from boxwood._internal.report.page.build import Report, articles, page
from boxwood._internal.report.page.comparison import compare
from boxwood._internal.report.page.document import Table, tables_of
from boxwood._internal.report.page.metrics import KEPT, judged_by
from boxwood._internal.report.page.networks import (
    against,
    baseline,
    chosen,
    front,
    networks,
    yardstick,
)
from boxwood._internal.report.page.store_reader import read
from boxwood._internal.report.page.warnings import warnings_of
from boxwood._internal.report.paper_figures import write_figures
from boxwood._internal.runs.store import Store

SEEDS = range(3)
PERPLEXITIES = {"dense": 100.0, "round-1": 101.0, "round-2": 104.0, "round-3": 130.0}
"""Of seed 0 on test and validation; each further seed has 1 more."""


def words(hand: SimpleNamespace, perplexity: float, kept: tuple[int, int]) -> dict[str, Any]:
    facts = hand.measured(300, kept)
    loss = math.log(perplexity)
    # A row is looked up, which is no multiply-add.
    facts["layers"][0] |= {"kind": "Embedding", "multiply_adds": 0, "effective_multiply_adds": 0}
    return facts | {part: {"correct": 300, "total": 1000, "loss": loss} for part in ("test", "validation")}  # fmt: skip


def language_models(store: Store, hand: SimpleNamespace) -> None:
    levels = {"round-1": (48, 9), "round-2": (24, 4), "round-3": (9, 2)}
    for seed in SEEDS:
        dense = [(hand.train("dense"), hand.trained(), None)]
        measured = words(hand, PERPLEXITIES["dense"] + seed, (96, 18))
        hand.note(store, "dense", seed, [*dense, (hand.measure(""), measured, None)])
        for name, worse in (("pruned", 0), ("by chance", 50)):
            phases = list(dense)
            for label, kept in levels.items():
                phases += [
                    (hand.prune(1 - sum(kept) / 114, name), {"sparsity": 1 - sum(kept) / 114}, kept),
                    (hand.measure(label), words(hand, PERPLEXITIES[label] + worse + seed, kept), kept),
                ]  # fmt: skip
            hand.note(store, name, seed, phases)


def table(store: Store, name: str) -> Table:
    (made,) = articles(Report(stores=(store.root,)))
    (found,) = [each for each in tables_of(made) if each.name == name]
    return found


def test_language_models_are_judged_by_perplexity(empty: Store, hand: SimpleNamespace) -> None:
    """Lower is better: the best is dense, within 2 % is round 1 (101 to 100), chance is on no front."""
    language_models(empty, hand)
    (study,) = read([empty])
    found = networks(study)
    by, dense = yardstick(found), baseline(found)
    assert (by.name, by.test.title) == ("perplexity", "test perplexity")
    assert dense is not None
    assert dense.name == "dense"
    assert dense.values(by.test) == pytest.approx([100, 101, 102])
    best = chosen(found, dense)
    assert best is not None
    assert best.name == "pruned round-1"
    assert front(found, KEPT) == {"dense", "pruned round-1", "pruned round-2", "pruned round-3"}


def test_differences_keep_their_sign_and_wins_their_sense(
    empty: Store, hand: SimpleNamespace
) -> None:
    """50 more on every seed is a difference of +50, three seeds lost and none won."""
    language_models(empty, hand)
    (study,) = read([empty])
    found = {each.name: each for each in networks(study)}
    test = yardstick(list(found.values())).test
    paired = against(found["by chance round-1"], found["pruned round-1"], test)
    assert paired is not None
    assert paired.difference.estimate == pytest.approx(50)
    assert paired.differences == pytest.approx([50] * 3)
    assert (paired.wins, paired.losses, paired.sign_p) == (0, 3, 1.0)
    low, high = paired.difference.low, paired.difference.high
    assert low is not None
    assert high is not None
    assert low <= 50 <= high
    assert "better at 3, worse at 0" in compare([study], "pruned", "by chance").summary
    assert "better at 0, worse at 3" in compare([study], "by chance", "pruned").summary
    assert warnings_of(study, list(found.values()), found["dense"]) == []


def test_the_page_of_language_models(empty: Store, hand: SimpleNamespace) -> None:
    """Numbers are perplexities wherever accuracies were, and accuracy stays a column."""
    language_models(empty, hand)
    (made,) = articles(Report(stores=(empty.root,), compare=("pruned", "by chance")))
    said = made.sections[0].text
    assert (
        "pruned round-1 is the smallest network within 2 % of the dense one on validation" in said
    )
    assert "its test perplexity differs from the dense network's by +1.00 (95 %" in said
    found = table(empty, "perplexity")
    row = next(r for r in found.rows if r["network"] == "pruned round-2")
    shown = {c.name: found.text(c, row) for c in found.columns}
    assert (shown["test"], shown["test_sd"], shown["difference"]) == ("105.00", "1.00", "+4.00")
    assert (shown["wins"], shown["losses"]) == ("0", "3")
    assert found.title.startswith("Perplexity of every network")
    (cost,) = [r for r in table(empty, "cost").rows if r["network"] == "pruned round-2"]
    assert (cost["test"], cost["test_loss"]) == (0.3, pytest.approx(math.log(105), abs=1e-4))
    embedding = next(r for r in table(empty, "layers").rows if r["layer"] == "fc1")
    assert (embedding["multiply_adds_fraction"], embedding["kept_fraction"]) == (None, 1.0)
    rules = {r["rule"]: r for r in table(empty, "rules").rows}
    assert (
        "judged by perplexity" in rules["Top-1, and top-5 where the classes allow it"]["evidence"]
    )
    assert any("test perplexity 101.00" in r["evidence"] for r in rules.values())
    pytest.importorskip("vl_convert")
    assert "Perplexity against cost" in page(Report(stores=(empty.root,)))


def test_papers_get_perplexities_too(empty: Store, hand: SimpleNamespace, tmp_path: Path) -> None:
    """The trade-off is drawn as it is on the page, not in percent."""
    pytest.importorskip("vl_convert")
    language_models(empty, hand)
    written = write_figures(read([empty], only=["dense*"])[0], tmp_path / "study")
    (drawing,) = [p.read_text() for p in written if p.name == "study-trade-off.svg"]
    assert "test perplexity" in drawing
    ticks = re.findall(r">([^<>]+)</text>", drawing)
    assert "100%" in ticks  # of the weights that remain
    assert any(re.fullmatch(r"\d+", tick) for tick in ticks)  # of perplexities


@pytest.mark.parametrize(
    ("facts", "name", "shown"),
    [
        ({"test": {"loss": 0.25}, "validation": {"loss": 0.5}}, "loss", "0.2500"),
        ({"test_loss": 0.25, "validation_loss": 0.5}, "loss", "0.2500"),
        ({"test_perplexity": 80.0, "validation_perplexity": 90.0}, "perplexity", "80.00"),
        ({"mean_iou": 0.6, "mean_iou_validation": 0.7}, "mean-iou", "60.00 %"),
        ({"test": {"correct": 9, "total": 10, "loss": 0.3}}, "accuracy", "90.00 %"),
    ],
)
def test_one_number_is_enough(
    facts: dict[str, Any], name: str, shown: str, empty: Store, hand: SimpleNamespace
) -> None:
    """Whatever a measurement holds is shown under its own name, alone or beside counts."""
    for whole in ({}, {"parameters": 9, "weights": 114, "kept": 114}):
        label = f"a{len(whole)}"
        hand.note(empty, label, 0, [(hand.measure(label), {**facts, **whole}, None)])
    found = table(empty, name)
    test = next(column for column in found.columns if column.name == "test")
    assert [found.text(test, row) for row in found.rows] == [shown, shown]


def test_accuracy_beside_a_loss_stays_the_measure(empty: Store, hand: SimpleNamespace) -> None:
    """A classifier whose loss was written down too is judged by accuracy; pixels by mean IoU."""
    both = hand.measured(900) | {"test": {"correct": 900, "total": 1000, "loss": 0.3}}
    hand.note(empty, "a", 0, [(hand.measure(""), both, None)])
    assert judged_by(read([empty])[0].measurements).name == "accuracy"
    pixels = [(hand.measure(""), both | {"mean_iou": 0.5, "mean_iou_validation": 0.5}, None)]
    hand.note(empty, "b", 0, pixels, model={"function": "m:segnet"})
    studies = {each.model: each for each in read([empty])}
    assert judged_by(studies["segnet"].measurements).name == "mean IoU"


def test_top5_stands_beside_top1(empty: Store, hand: SimpleNamespace) -> None:
    """The table has both, and the rule is met where every network has them."""
    top5 = {f"{part}_top5": {"correct": 990, "total": 1000} for part in ("test", "validation")}
    hand.note(empty, "a", 0, [(hand.measure(""), hand.measured(900) | top5, None)], data={"function": "m:many"})  # fmt: skip
    (row,) = table(empty, "accuracy").rows
    assert (row["test"], row["test_top5"], row["validation_top5"]) == (0.9, 0.99, 0.99)
    (rule,) = [r for r in table(empty, "rules").rows if r["rule"].startswith("Top-1")]
    assert (rule["status"], rule["evidence"]) == ("met", "both are there")
