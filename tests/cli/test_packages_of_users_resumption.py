"""A recipe file may use a package beside it, and what a file says of that needs the user's word."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from boxwood._internal.cli.main import app

STUDY = """
from boxwood._internal.core.call import Call
from boxwood._internal.recipes.phase import Experiment
from boxwood._internal.recipes.phases.measure import Measure
from package_beside.networks.small import net
from package_beside.sets import some_digits

def study():
    recipe = (Measure(),)
    return Experiment(
        model=Call.of(net, classes=10), data=some_digits, branches=(("untrained", recipe),)
    )
"""
PACKAGE = {
    "__init__.py": "",
    "networks/__init__.py": "",
    "networks/small.py": """
from torch import nn

def net(classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))
""",
    "sets.py": """
from boxwood._internal.data.digits import digits
from boxwood._internal.data.subsets import first_examples

def some_digits():
    return first_examples(digits, 120)
""",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "study.py").write_text(STUDY)
    for name, text in PACKAGE.items():
        path = tmp_path / "package_beside" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "elsewhere").mkdir()
    return tmp_path


@pytest.fixture
def boxwood(forks, folder: Path) -> Callable[..., str]:
    """Return what runs a command from another folder, so that nothing is found because it is here."""

    def run(*call: str) -> str:
        done = forks.run(*call, cwd=folder / "elsewhere")
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_a_package_beside_the_recipe_needs_no_further_word(
    folder: Path, boxwood: Callable[..., str]
) -> None:
    """Workers find it, and an edit of it is a new run."""
    study = (str(folder / "study.py:study"), "--store", "runs")
    boxwood("run", *study, "--workers", "2")
    assert "0 phases to run" in boxwood("plan", *study)
    (folder / "package_beside" / "sets.py").write_text(PACKAGE["sets.py"].replace("120", "180"))
    assert "0 phases to run" not in boxwood("plan", *study)


def test_a_recipe_file_that_names_a_package_needs_the_users_word(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One word trusts the whole package, and without it nothing of it is imported."""
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    planned = CliRunner().invoke(app, ["plan", "study.py:study", "--json"])
    Path("recipe.json").write_text(planned.stdout)
    for name in [name for name in sys.modules if name.startswith("package_beside")]:
        monkeypatch.delitem(sys.modules, name)
    refused = CliRunner().invoke(app, ["plan", "recipe.json"])
    assert "give --code package_beside." in str(refused.exception)
    assert "package_beside" not in sys.modules
    done = CliRunner().invoke(app, ["plan", "recipe.json", "--code", "package_beside"])
    assert done.exit_code == 0, done.exception
