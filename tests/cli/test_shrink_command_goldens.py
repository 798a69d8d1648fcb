"""The command ``boxwood shrink``: tables, files, refusals."""

import json
import re

import pytest
from typer.testing import CliRunner

from boxwood._internal.cli.main import app
from boxwood._internal.graph.record import load_shrunken
from boxwood._internal.zoo.lenet import lenet_5
from boxwood.errors import BoxwoodError

LENET = "boxwood.networks:lenet_5"
EXAMPLE = ("--input", "1x1x28x28")


def run(*arguments):
    return CliRunner().invoke(app, ["shrink", LENET, *map(str, arguments)])


def test_a_dry_run_shows_units_and_writes_nothing(tmp_path):
    """The table names every group and the forecast."""
    done = run(*EXAMPLE, "--keep", 0.5, "--dry-run", "--json")
    assert done.exit_code == 0
    report = json.loads(done.stdout)
    assert [(g["name"], g["units"], g["kept"]) for g in report["groups"]] == [
        ("conv1.weight", 20, 10), ("conv2.weight", 50, 25), ("fc1.weight", 500, 250),
    ]  # fmt: skip
    assert report["parameters"] == [431080, 109295]
    assert not list(tmp_path.iterdir())
    assert "conv1.weight" in run(*EXAMPLE, "--keep", 0.5, "--dry-run").stdout


@pytest.mark.parametrize("budget", ["--macs", "--size"])
def test_a_budget_is_met_and_the_file_loads(tmp_path, budget):
    """What was asked for is what the file holds."""
    out = tmp_path / "small.safetensors"
    done = run(out, *EXAMPLE, budget, 0.4, "--json")
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["equivalence"]["equivalent"]
    before, after = report["multiply_adds" if budget == "--macs" else "parameters"]
    assert 0.3 < after / before <= 0.4
    small = load_shrunken(out, build=lenet_5)
    assert sum(p.numel() for p in small.parameters()) == report["parameters"][1]


def test_latency_is_a_budget(tmp_path):
    """A generous limit on time keeps something and writes it."""
    done = run(tmp_path / "small.safetensors", *EXAMPLE, "--latency", 0.95)
    assert done.exit_code == 0 or isinstance(done.exception, BoxwoodError)


def test_the_times_before_and_after_are_said():
    """Measured, in milliseconds, beside the share that was asked for."""
    asked = (*EXAMPLE, "--latency", 0.99, "--dry-run")
    report = json.loads(run(*asked, "--json").stdout)
    before, after = report["milliseconds"]
    assert before > 0
    assert after > 0
    said = re.search(
        r"Time on the example, .*: (\S+) ms before, (\S+) ms after \((\S+) times\)",
        " ".join(run(*asked).stdout.split()),
    )
    assert abs(float(said[2]) / float(said[1]) - float(said[3])) < 0.02
    assert "milliseconds" not in json.loads(
        run(*EXAMPLE, "--keep", 0.5, "--dry-run", "--json").stdout
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("x.safetensors", *EXAMPLE), "got none; give one"),
        (("x.safetensors", *EXAMPLE, "--keep", 0.5, "--macs", 0.5), "got --macs and --keep"),
        ((*EXAMPLE, "--keep", 0.5), "a file to write, got none"),
        (("x.safetensors", "--keep", 0.5), "the shape of at least one input, got none"),
        (("x.safetensors", "--input", "1,2", "--keep", 0.5), "got '1,2'"),
        (
            ("x.safetensors", *EXAMPLE, "--keep", 0.5, "--weights", "gone.safetensors"),
            "the model's weights in gone",
        ),
    ],
)
def test_bad_input_is_refused(arguments, said):
    """Each mistake has its sentence."""
    done = run(*arguments)
    assert isinstance(done.exception, BoxwoodError)
    assert said in str(done.exception)


OWN = """
import torch
from torch import nn

@torch.library.custom_op("boxwood_cli_tests::halved", mutates_args=())
def halved(x: torch.Tensor) -> torch.Tensor:
    return x / 2

halved.register_fake(lambda x: torch.empty_like(x))
RULES = {halved: [{"x": -1, "output": -1}]}

class Halved(nn.Module):
    def forward(self, x):
        return halved(x)

def net():
    return nn.Sequential(nn.Linear(4, 8), Halved(), nn.Linear(8, 2))
"""


def test_rules_of_a_file_are_followed(tmp_path):
    """With them the layer before an operator of one's own shrinks; without, it is refused."""
    own = tmp_path / "own.py"
    own.write_text(OWN)
    asked = ["shrink", f"{own}:net", "--input", "2x4", "--keep", "0.5", "--dry-run", "--json"]
    done = CliRunner().invoke(app, [*asked, "--rules", f"{own}:RULES"])
    assert json.loads(done.stdout)["units"] == [8, 4]
    refused = CliRunner().invoke(app, asked)
    assert "rules={boxwood_cli_tests.halved.default: …}" in str(refused.exception)
    wrong = CliRunner().invoke(app, [*asked, "--rules", f"{own}:net"])
    assert "rules by operator, got a value of type function" in str(wrong.exception)


def test_a_target_that_is_no_network_is_refused():
    """The factory must return a module."""
    done = CliRunner().invoke(
        app,
        [
            "shrink",
            "boxwood._internal.data.data_paths:data_home",
            "x.safetensors",
            *EXAMPLE,
            "--keep",
            "0.5",
        ],
    )
    assert isinstance(done.exception, BoxwoodError)
