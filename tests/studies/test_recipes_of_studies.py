"""Every recipe of the studies can be planned, and is found again by what a recipe file says of it."""

import ast
import inspect
from pathlib import Path

import pytest

from boxwood._internal.core.spec import decode, encode, load
from boxwood._internal.core.trust import EVERYTHING
from boxwood._internal.data.digits import digits
from boxwood._internal.recipes.phase import Experiment
from boxwood._internal.runs.runner import jobs_of

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


def recipes() -> list[str]:
    """List the public functions of `experiments/` that are declared to return an experiment."""
    return [
        f"{path.name}:{node.name}"
        for path in sorted(EXPERIMENTS.glob("*.py"))
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef)
        and not node.name.startswith("_")
        and isinstance(node.returns, ast.Name)
        and node.returns.id == "Experiment"
    ]


@pytest.mark.parametrize("path", sorted(EXPERIMENTS.glob("*.py")), ids=lambda path: path.stem)
def test_a_file_can_be_imported(path: Path) -> None:
    """Its own names and those of Boxwood are there; what else it needs, it imports when it runs."""
    assert load(f"{path}:__doc__", EVERYTHING)


def test_there_are_recipes() -> None:
    assert len(recipes()) > 15


@pytest.mark.parametrize("name", recipes())
def test_a_recipe_is_planned(name: str) -> None:
    """Its names are those of code that there is, wherever they are looked up; no data are read."""
    function = load(f"{EXPERIMENTS / name}")
    takes_data = "data" in inspect.signature(function).parameters
    experiment = function(**{"data": digits} if takes_data else {})
    assert isinstance(experiment, Experiment)
    for job in jobs_of(experiment, (0,)):
        assert decode(encode((job.genesis, job.recipe)), EVERYTHING) == (job.genesis, job.recipe)
