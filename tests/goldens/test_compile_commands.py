"""``boxwood compile`` and ``boxwood bench``: what they print, and what bad input says."""

import json

import pytest
import torch

pytest.importorskip("llvmlite")

from boxwood.cli import main
from boxwood.cli.bench import OURS, _verdict
from boxwood.cli.models import example_of, model_of
from boxwood.core.errors import BoxwoodError
from boxwood.engine.contenders import Contender, Result, onnx_runtime, openvino, race
from boxwood.engine.storage import load

NET = """
import torch
from torch import nn

def net(width=8):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 2))

ready = net(16)
number = 3

def nothing():
    return None
"""


@pytest.fixture
def nets(tmp_path):
    path = tmp_path / "nets.py"
    path.write_text(NET)
    return path


def run(monkeypatch, *arguments: str) -> None:
    monkeypatch.setattr("sys.argv", ["boxwood", *arguments])
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert ended.value.code in (0, None)


def test_compile_writes_a_file_that_runs(nets, tmp_path, monkeypatch, capsys) -> None:
    """The model's file is not needed afterwards."""
    out = tmp_path / "net.bxw"
    run(
        monkeypatch, "compile", f"{nets}:net", "--set", "width=32", "--input", "1x4",
        "--sparsity", "0.5", "--out", str(out), "--explain",
    )  # fmt: skip
    printed = capsys.readouterr().out
    assert "project" in printed
    assert "boxwood.load" in printed
    nets.unlink()
    assert load(out)(torch.zeros(3, 4)).shape == (3, 2)


def test_bench_says_who_wins(nets, monkeypatch, capsys) -> None:
    """In JSON every contender has its turns, and the verdict is a sentence."""
    run(
        monkeypatch, "bench", f"{nets}:ready", "--input", "2x4", "--turns", "6", "--sparsity", "0.5",
        "--keep", "0.25", "--json",
    )  # fmt: skip
    found = json.loads(capsys.readouterr().out)
    names = [result["name"] for result in found["results"]]
    assert {"torch", "torch, pruned weights", "torch, 25% of the units", OURS} <= set(names)
    assert all(len(result["seconds"]) == 6 for result in found["results"])
    assert found["verdict"]


@pytest.mark.parametrize(
    ("ours", "theirs", "verdict"),
    [
        (1.0, 2.0, "wins: 2.00 times as fast as other"),
        (2.0, 1.0, "does not win here: other is 2.00 times as fast"),
        (1.0, 1.0, "Nothing wins"),
    ],
)
def test_the_verdict_follows_the_ratio(ours, theirs, verdict) -> None:
    """Turn by turn, against the best of the others."""
    turns = 9
    results = [
        Result(name, seconds, seconds, seconds, seconds, (seconds,) * turns)
        for name, seconds in (("slow", 9.0), ("other", theirs), (OURS, ours))
    ]
    assert verdict in _verdict(results)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("{file}:number",), "to be a model or a function"),
        (("{file}:nothing",), "to return a model, got NoneType"),
        (("{file}:absent",), "no such name"),
        (("{file}:net", ["width"]), "--set name=value"),
    ],
)
def test_a_wrong_model_is_said(nets, arguments, message) -> None:
    """With the way out."""
    name, *rest = arguments
    with pytest.raises(BoxwoodError, match=message):
        model_of(name.format(file=nets), *rest)


def test_wrong_weights_are_said(nets, tmp_path) -> None:
    """A file that is not there, and one of another model."""
    from safetensors.torch import save_file

    with pytest.raises(BoxwoodError, match="Expected the model's weights in"):
        model_of(f"{nets}:net", (), tmp_path / "none.safetensors")
    save_file({"other": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(BoxwoodError, match="got a checkpoint of another model: lacks"):
        model_of(f"{nets}:net", (), tmp_path / "other.safetensors")


@pytest.mark.parametrize("text", ["", "3x", "axb", "0x3", "1x3:float99", "1x3:0"])
def test_a_wrong_shape_is_said(text) -> None:
    """With an example of a right one."""
    with pytest.raises(BoxwoodError, match="Expected a shape such as 1x3x224x224"):
        example_of([text])


def test_an_input_is_needed() -> None:
    """There is none to guess."""
    with pytest.raises(BoxwoodError, match="at least one input"):
        example_of([])


def test_a_race_needs_runners() -> None:
    """And turns."""
    with pytest.raises(BoxwoodError, match="contenders and at least one turn"):
        race({}, turns=3)
    with pytest.raises(BoxwoodError, match="contenders and at least one turn"):
        race({"nothing": lambda: None}, turns=0)


@pytest.mark.parametrize("make", [onnx_runtime, openvino])
def test_a_contender_that_cannot_run_says_why(make) -> None:
    """An exporter's error is a result, not a crash."""

    class Odd(torch.nn.Module):
        def forward(self, x):
            raise ValueError("odd")

    found = make(Odd(), (torch.zeros(1, 2),), 1)
    assert isinstance(found, Contender)
    assert found.run is None
    assert found.why_not
