"""Comparisons: equal budgets, rates chosen on validation, controls, and what users add."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from boxwood._internal.cli.main import app
from boxwood._internal.core.seeds import generator_for
from boxwood._internal.core.spec import encode
from boxwood._internal.data.splits import InMemory, Splits
from boxwood._internal.recipes.compared_methods import CONTROLS, METHODS
from boxwood._internal.recipes.comparison import Comparison
from boxwood._internal.recipes.gradual import Size
from boxwood._internal.recipes.phases.train import Train
from boxwood._internal.recipes.task import ComparisonTask
from boxwood._internal.recipes.training_budget import planned
from boxwood._internal.report.league import compare
from boxwood._internal.runs.chain import keys
from boxwood._internal.runs.store import Store
from boxwood._internal.train.losses import cross_entropy
from boxwood._internal.train.optimizers import SGD
from boxwood._internal.train.settings import Training
from boxwood.errors import BoxwoodError, InvalidInput
from boxwood.phases import Measure

ROOT = Path(__file__).parents[2]


def data() -> Splits:
    """Points of four corners, with noise."""
    chance = generator_for(0, "points")
    labels = torch.arange(240) % 4
    centres = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    points = centres[labels] + 0.7 * torch.randn(240, 2, generator=chance)
    parts = [InMemory(points[i::3], labels[i::3]) for i in range(3)]
    return Splits("corners", *parts, classes=4, identity="corners")


def net(*, width: float = 1.0) -> nn.Module:
    """A small network, whose width can be scaled."""
    hidden = max(1, round(24 * width))
    return nn.Sequential(nn.Linear(2, hidden), nn.ReLU(), nn.Linear(hidden, 4))


TASK = ComparisonTask(
    name="corners",
    model=net,
    data=data,
    train=Training(steps=40, batch=20, optimizer=SGD(lr=0.1, momentum=0.9)),
    rates=(0.001, 0.1),
    small=net,
)
FEW = {name: METHODS[name] for name in ("RigL", "SNIP")}
SMALL = Comparison(
    tasks=(TASK,), methods=FEW, sparsities=(0.5, 0.75),
    controls={"random places": CONTROLS["random places"][:2]},
)  # fmt: skip


@pytest.mark.parametrize("name", [*METHODS, *CONTROLS])
def test_every_method_spends_the_budget_and_reaches_the_sparsity(name: str, tmp_path) -> None:
    """All steps of all trainings of its recipe together are the task's; masks are as sparse as asked."""
    given = METHODS.get(name) or CONTROLS[name]
    methods = {name: given}
    task = replace(TASK, rates=(), small=None)
    study = Comparison(tasks=(task,), methods=methods, sparsities=(0.75,), controls={})
    league = compare(study, store=tmp_path, seeds=1)
    assert len(league.standings) == 3
    (row,) = (each for each in league.standings if each.place.method == name)
    for entry in study.entries():
        assert sum(planned(encode(entry.recipe)), start=Counter()) == {"steps": 40}
    assert row.sparsity == pytest.approx(0.75, abs=0.011)
    assert row.steps == 40
    dense = next(each for each in league.standings if each.place.method == "dense")
    assert dense.training_multiply_adds == 3 * 20 * 40 * (2 * 24 + 24 * 4)
    assert row.training_multiply_adds <= dense.training_multiply_adds


def test_rates_may_be_chosen_at_one_sparsity_for_all(tmp_path) -> None:
    """Of the other sparsities, only runs at the rate that was chosen are in the store."""
    study = replace(SMALL, controls={}, tuned_at=0.75)
    league = compare(study, store=tmp_path, seeds=1)
    chosen = {e.place.method: e.rate for e in league.standings if e.place.sparsity == 0.75}
    assert set(chosen) == {"RigL", "SNIP", "dense small"}
    for row in league.standings:
        assert row.rate == chosen.get(row.place.method, 0.1)
    store = Store(tmp_path)
    ran = {
        (entry.place.method, entry.task.rate)
        for entry in study.entries()
        if entry.place.sparsity == 0.5 and store.has(keys(entry.task.genesis(0), entry.recipe)[-1])
    }
    assert ran == set(chosen.items())
    with pytest.raises(InvalidInput, match="tuned_at to be one of the sparsities"):
        replace(SMALL, tuned_at=0.9)


def test_rates_are_chosen_on_validation_for_each_row_by_itself(tmp_path) -> None:
    """Run whole: the best of the grid, controls as rows, and draws that are averaged."""
    league = compare(SMALL, store=tmp_path, seeds=2)
    names = Counter(each.place.method for each in league.standings)
    assert names == {
        "dense": 1, "dense trained on": 1, "dense small": 2, "random places": 2, "RigL": 2, "SNIP": 2,
    }  # fmt: skip
    assert {each.rate for each in league.standings} == {
        0.1
    }  # at 0.001 nothing is learnt in 40 steps
    assert {each.edge for each in league.standings} == {"high"}
    assert all(each.score.seeds == 2 and each.score.examples for each in league.standings)
    random = next(each for each in league.standings if each.place.method == "random places")
    assert len(random.keys) == 2 * 2
    store = Store(tmp_path)
    facts = [store.record(key)["facts"] for key in random.keys]
    mean = sum(each["test"]["correct"] / each["test"]["total"] for each in facts) / 4
    assert random.score.value == pytest.approx(mean)
    counts = [tuple(layer["kept"] for layer in each["layers"]) for each in facts]
    assert counts[0] == counts[2]  # the same seed: as many in each layer
    ranking = league.ranking()
    assert ranking is not None
    assert set(ranking.names) == {"random places", "RigL", "SNIP", "dense small"}
    again = compare(SMALL, store=tmp_path, seeds=2)  # from the store
    assert again == league


def test_a_small_dense_network_has_as_many_parameters_as_are_left() -> None:
    """The largest width that fits, trained for as long, at the same rates."""
    small = [each for each in SMALL.entries() if each.place.method == "dense small"]
    assert len(small) == 4
    size = Size.of(net)
    for entry in small:
        left = size.total - round(size.prunable * entry.place.sparsity)
        parameters = Size.of(entry.task.model).total
        assert left - 7 < parameters <= left  # a unit has seven
    with pytest.raises(BoxwoodError, match=r"a small network of corners with at most"):
        replace(SMALL, tasks=(replace(TASK, small=_never_small),)).entries()


def _never_small(*, width: float) -> nn.Module:
    return net()


def test_beginnings_are_shared() -> None:
    """Three-step methods of all sparsities train one dense half for each seed and rate."""
    entries = replace(SMALL, controls=CONTROLS).entries()
    halves = {
        str(encode(entry.recipe[0]))
        for entry in entries
        if isinstance(entry.recipe[0], Train) and entry.recipe[0].training.steps == 20
    }
    assert len(halves) == 2  # one for each rate


def test_a_method_that_trains_longer_is_refused() -> None:
    """So is one that does not end with the task's measurement."""

    def longer(task: ComparisonTask, sparsity: float):
        return (Train(training=task.part(task.steps + 1)), task.measure)

    def unmeasured(task: ComparisonTask, sparsity: float):
        return (Train(training=task.train),)

    def larger_batches(task: ComparisonTask, sparsity: float):
        return (Train(training=replace(task.train, batch=40)), task.measure)

    for method, said in (
        (larger_batches, "batches of 20, .* got 40 steps of batches of 40"),
        (longer, r"a recipe of 40 steps in all, .*, got 41 steps"),
        (unmeasured, "Train at the end"),
    ):
        with pytest.raises(BoxwoodError, match=said):
            replace(SMALL, methods={"own": method}).entries()


def test_a_rate_that_diverges_loses_and_ends_nothing(tmp_path) -> None:
    """The other one is chosen; where there is no other, the row says how many runs diverged."""
    none = replace(SMALL, methods={"SNIP": METHODS["SNIP"]}, sparsities=(0.5,), controls={})
    task = replace(TASK, small=None, rates=(0.1, 1e30))
    league = compare(replace(none, tasks=(task,)), store=tmp_path, seeds=1)
    assert {(each.rate, each.diverged) for each in league.standings} == {(0.1, 0)}
    league = compare(replace(none, tasks=(replace(task, rates=(1e30,)),)), store=tmp_path, seeds=1)
    assert {each.diverged for each in league.standings} == {1}


def test_a_task_may_be_judged_by_its_loss(tmp_path) -> None:
    """Less is better: the first row of a sparsity has the lowest loss."""
    task = replace(TASK, measure=Measure(loss=cross_entropy), small=None, rates=(0.1,))
    study = replace(SMALL, tasks=(task,), controls={})
    league = compare(study, store=tmp_path, seeds=1)
    rows = [each for each in league.standings if each.place.sparsity == 0.5]
    assert [each.score.value for each in rows] == sorted(each.score.value for each in rows)
    assert rows[0].score.value > 0


def test_what_a_comparison_refuses() -> None:
    """Each message says what is wrong and what to do."""
    with pytest.raises(
        BoxwoodError, match=r"counted in steps, 2 at least, and is whole, got 3 epochs"
    ):
        replace(TASK, train=Training(epochs=3, batch=20, optimizer=SGD(lr=0.1)))
    with pytest.raises(BoxwoodError, match=r"learning rates above 0 for corners, got \(0.0,\)"):
        replace(TASK, rates=(0.0,))
    with pytest.raises(BoxwoodError, match=r"tasks, methods and sparsities to compare, got 0"):
        replace(SMALL, tasks=())
    with pytest.raises(BoxwoodError, match=r"distinct names .* \['dense'\] as methods and"):
        replace(SMALL, methods={"dense": METHODS["RigL"]})
    with pytest.raises(BoxwoodError, match=r"corners to do without some of RigL, .*, got 'OBD'"):
        replace(SMALL, tasks=(replace(TASK, without=("OBD",)),))
    left_out = replace(SMALL, tasks=(replace(TASK, without=("RigL",)),)).entries()
    assert "RigL" not in {each.place.method for each in left_out}
    with pytest.raises(BoxwoodError, match=r"at least 1 seeds, of which rates are chosen"):
        compare(SMALL, seeds=0)
    with pytest.raises(BoxwoodError, match=r"to return a Comparison, got Experiment"):
        CliRunner().invoke(
            app, ["compare", f"{ROOT}/examples/mymodel.py:recipe"], catch_exceptions=False
        )


def test_the_example_of_ones_own_method_runs(tmp_path, monkeypatch) -> None:
    """As the README has it, with a page; run again, it says the same from the store."""
    words = ["compare", f"{ROOT}/examples/own_method.py:comparison", "--seeds", "1", "--json"]
    words += ["--store", str(tmp_path / "store")]
    page = tmp_path / "league.html"
    first = CliRunner().invoke(app, [*words, "--out", str(page)])
    assert first.exit_code == 0, first.output
    found = json.loads(first.stdout)
    methods = {row["method"] for row in found["rows"]}
    assert {"early", "RigL", "SNIP", "dense small", *CONTROLS} <= methods
    assert found["ranking"]["tasks"] == 2
    text = page.read_text()
    assert "Average ranks" in text
    assert "early" in text
    again = CliRunner().invoke(app, words)
    assert json.loads(again.stdout)["rows"] == found["rows"]
    table = CliRunner().invoke(app, [each for each in words if each != "--json"])
    assert "average rank" in table.output
