"""The judges of the studies: none decides by fewer than five seeds, all decide something by five."""

import ast
import importlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from boxwood._internal.report.study import Finding, Measurement
from boxwood._internal.report.verdicts import SEEDS

FOLDER = Path(__file__).parents[2] / "experiments"
LABELS = ("round-", "before", "after", "together", "generalist")
JUDGES = {
    "han2015_lenet_300_100_mnist": ("han2015", "judge"),
    "filter_agent_conv_net_fashion_mnist": ("filter_agent", "judge"),
    "distillation_ensemble_mnist": ("distillation", "judge_ensemble"),
    "distillation_missing_class_mnist": ("distillation", "judge_missing"),
    "distillation_pruned_fashion_mnist": ("distillation", "judge_pruned"),
    "distillation_specialists_fashion_mnist": ("distillation", "judge_specialists"),
}
WITHOUT_CHANCE = {"run_optimal_brain_damage.py", "run_surgery.py"}
"""Formulas that are exact, networks that are equal bit for bit: not a matter of seeds."""


@pytest.fixture(scope="module")
def judge() -> Iterator[Callable[[str, Sequence[Measurement]], Sequence[Finding]]]:
    def run(name: str, measured: Sequence[Measurement]) -> Sequence[Finding]:
        module, function = JUDGES[name]
        return list(getattr(importlib.import_module(module), function)(tuple(measured)))

    sys.path.insert(0, str(FOLDER))
    yield run
    sys.path.remove(str(FOLDER))


def measurements(name: str) -> list[Measurement]:
    """What was measured, from a results file."""
    report = json.loads((FOLDER / "results" / f"{name}.json").read_text())
    return [_measurement(row) for row in report["runs"]]


def _measurement(row: Mapping[str, Any]) -> Measurement:
    branch, _, label = row["name"].rpartition(" ")
    if not label.startswith(LABELS):
        branch, label = row["name"], ""
    facts = {
        **row,
        **{part: {"correct": round(row[part] * 10**6), "total": 10**6} for part in ("test", "validation")},
        "kept": round(row.get("kept", 1) * 10**6),
        "weights": 10**6,
    }  # fmt: skip
    return Measurement(branch, label, row["seed"], row["key"], facts, 0, 0)


@pytest.mark.parametrize("name", JUDGES)
def test_four_seeds_decide_nothing_and_five_do(name: str, judge) -> None:
    """The same results: with one seed fewer than five every claim is undecided, and says of how many."""
    measured = measurements(name)
    assert any(each.held is not None for each in judge(name, measured))
    first = sorted({each.seed for each in measured})[: SEEDS - 1]
    few = judge(name, [each for each in measured if each.seed in first])
    assert few
    assert {each.held for each in few} == {None}
    assert all(each.seeds == SEEDS - 1 for each in few)


def test_no_study_decides_by_itself() -> None:
    """Outside the one place, a finding is made only where chance plays no part, or of a ticket's verdict."""
    by_itself = {
        path.name
        for path in FOLDER.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "Finding"
        and not (isinstance(node.args[1], ast.Constant) and node.args[1].value is None)
    }
    of_tickets = {"lottery_ticket.py"}
    of_files = {path.name for path in FOLDER.glob("claims_*.py")}  # of what the files say
    assert by_itself - of_files <= WITHOUT_CHANCE | of_tickets
