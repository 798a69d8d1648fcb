"""The examples of the README run and do what they say."""

import json
import runpy
from pathlib import Path

import pytest
from typer.testing import CliRunner

from boxwood._internal.cli.main import app

ROOT = Path(__file__).parents[1]


def test_the_plain_loop_reaches_what_it_says(capsys):
    """A tenth of the weights, trained in a plain loop, still reads digits."""
    assert runpy.run_path(str(ROOT / "examples/plain_loop.py"))["main"]() > 0.93


def test_a_users_own_file_runs_and_resumes(tmp_path):
    """The command runs a user's file; run again, it reads the store and says the same."""
    command = ["run", f"{ROOT}/examples/mymodel.py:recipe", "--store", str(tmp_path), "--json"]
    first, again = (CliRunner().invoke(app, command) for _ in range(2))
    assert first.exit_code == 0
    assert json.loads(first.stdout)["summary"] == json.loads(again.stdout)["summary"]
    assert [row["name"] for row in json.loads(first.stdout)["summary"]][:2] == [
        "dense",
        "pruned round-1",
    ]


def test_a_training_script_is_compressed(tmp_path):
    """An ordinary script with a function of three lines becomes a folder; the plan prints first."""
    target = f"{ROOT}/examples/compress.py:task"
    asked = ["compress", target, "--for", "macs", "--max-drop", "3", "--steps", "60"]
    planned = CliRunner().invoke(app, [*asked, "--dry-run", "--json"])
    assert planned.exit_code == 0, planned.stderr
    names = [each["name"] for each in json.loads(planned.stdout)["candidates"]]
    assert "units 60%" in names
    ran = CliRunner().invoke(app, [*asked, "--out", str(tmp_path / "small"), "--json"])
    assert ran.exit_code == 0, ran.stderr
    record = json.loads(ran.stdout)
    assert record["held"]
    assert record["cost"] < 0.5 * record["dense_cost"]
    assert {each.name for each in (tmp_path / "small").iterdir()} >= {
        "compress.json", "load.py", "model.bxw", "model.safetensors", "report.html",
    }  # fmt: skip


@pytest.mark.parametrize("command", ["compress", "demo", "plan", "run", "runs"])
def test_every_command_has_help(command):
    """Each command explains itself."""
    assert CliRunner().invoke(app, [command, "--help"]).exit_code == 0


def test_a_recipe_file_round_trips_and_refuses_unknown_fields(tmp_path):
    """What plan --json writes, run takes; a misspelt field is named with the way out."""
    planned = CliRunner().invoke(app, ["plan", f"{ROOT}/examples/mymodel.py:recipe", "--json"])
    recipe = tmp_path / "recipe.json"
    recipe.write_text(planned.stdout)
    named = ["plan", str(recipe), "--store", str(tmp_path), "--code", "examples/mymodel.py"]
    untrusted = CliRunner().invoke(app, named[:4])
    assert "got the name 'examples/mymodel.py:" in str(untrusted.exception)
    shown = CliRunner().invoke(app, named)
    assert shown.exit_code == 0, shown.exception
    recipe.write_text(planned.stdout.replace('"epochs"', '"epoch"'))
    refused = CliRunner().invoke(app, named)
    assert "Expected a field of Training" in str(refused.exception)
    assert "did you mean 'epochs'" in str(refused.exception)
