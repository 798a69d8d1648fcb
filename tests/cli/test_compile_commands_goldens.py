"""``boxwood compile`` and ``boxwood bench``: what they print, and what bad input says."""

import json
import re
from functools import partial
from typing import Any

import pytest
import torch

pytest.importorskip("llvmlite")

from boxwood._internal.cli import main
from boxwood._internal.cli.agreement import Agreement, agreement, first_outputs, read_bench_data
from boxwood._internal.cli.bench import OURS
from boxwood._internal.cli.bench_results import Entry, verdict
from boxwood._internal.cli.models import example_of, model_of
from boxwood._internal.engine.backends import (
    Backend,
    BackendTimes,
    boxwood_engine,
    onnx_runtime,
    openvino,
    time_backends,
)
from boxwood._internal.engine.session import load_session
from boxwood.data import digits
from boxwood.errors import BoxwoodError

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
    assert load_session(out)(torch.zeros(3, 4)).shape == (3, 2)


def test_compile_in_int8(nets, tmp_path, monkeypatch, capsys) -> None:
    """Data that a function returns calibrate it, and explain says what it costs."""
    nets.write_text(
        NET
        + "def load():\n    torch.manual_seed(1)\n    return [torch.randn(16, 4) for _ in range(3)]\n"
    )
    out = tmp_path / "net.bxw"
    run(
        monkeypatch, "compile", f"{nets}:net", "--set", "width=64", "--int8", "--data", f"{nets}:load",
        "--out", str(out), "--explain",
    )  # fmt: skip
    assert "dB" in capsys.readouterr().out
    assert load_session(out)(torch.zeros(3, 4)).shape == (3, 2)
    monkeypatch.setattr(
        "sys.argv", ["boxwood", "compile", f"{nets}:net", "--int8", "--out", "o.bxw"]
    )
    with pytest.raises(SystemExit):
        main.main()
    assert "--int8 and --data together" in capsys.readouterr().err


PEERS = ("ONNX Runtime", "OpenVINO")
NETWORKS = ("dense", "50% zeros", "25% of units", "25% of units, 50% zeros")


def raced(monkeypatch, capsys, *arguments: str) -> dict[str, Any]:
    run(monkeypatch, "bench", *arguments, "--json")
    return json.loads(capsys.readouterr().out)


def test_bench_races_every_network_in_every_engine(nets, monkeypatch, capsys) -> None:
    """Each of them has its turns, or a reason; the winner is the fastest of all."""
    found = raced(
        monkeypatch, capsys, f"{nets}:ready", "--input", "2x4", "--turns", "6", "--sparsity", "0.5",
        "--keep", "0.25",
    )  # fmt: skip
    times = {result["name"]: result["median"] for result in found["results"]}
    assert {f"{each}, {name}" for each in ("torch", OURS) for name in NETWORKS} <= times.keys()
    assert {f"{OURS}, {name}, int8" for name in NETWORKS} <= times.keys()
    for peer in (
        f"{peer}, {name}{end}" for peer in PEERS for name in NETWORKS for end in ("", ", int8")
    ):
        assert (peer in times) != bool(found["absent"].get(peer)), peer
    assert all(len(result["seconds"]) == 6 for result in found["results"])
    assert found["winner"]["name"] == min(times, key=times.__getitem__)
    assert found["winner"]["name"] in found["verdict"]
    # 4 to 16 to 2, or to 4 to 2; half of the matrices' weights are zero, the biases are not.
    assert found["networks"] == {
        "dense": {"parameters": 114, "nonzero": 114},
        "50% zeros": {"parameters": 114, "nonzero": 66},
        "25% of units": {"parameters": 30, "nonzero": 30},
        "25% of units, 50% zeros": {"parameters": 30, "nonzero": 18},
    }


def test_bench_of_a_few(nets, monkeypatch, capsys) -> None:
    """Dense torch always runs, as all others are compared with it."""
    given = (f"{nets}:ready", "--input", "2x4", "--turns", "1", "--sparsity", "0.5")
    found = raced(monkeypatch, capsys, *given, "--only", "boxwood", "--only", "torch, 50%")
    names = ["torch, dense", f"{OURS}, dense", f"{OURS}, dense, int8"]
    names += [name.replace("dense", "50% zeros") for name in names]
    assert [result["name"] for result in found["results"]] == names
    monkeypatch.setattr("sys.argv", ["boxwood", "bench", *given, "--only", "tvm"])
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert ended.value.code not in (0, None)
    assert "part of the name of an engine (torch, ONNX Runtime" in capsys.readouterr().err


def test_what_bench_prints_fits_a_pipe(nets, monkeypatch, capsys) -> None:
    """The table is 80 columns wide; every other line is one sentence that grep finds."""
    given = ("--input", "2x4", "--turns", "1", "--sparsity", "0.5", "--keep", "0.25")
    few = ("--only", "torch,", "--only", "boxwood's engine,")
    run(monkeypatch, "bench", f"{nets}:ready", *given, *few)
    table, _, rest = capsys.readouterr().out.partition("dense: 114 parameters")
    assert {OURS, "25% of units, 50% zeros"} <= set(re.split(r"\s{2,}", table.replace("\n", "  ")))
    assert max(map(len, table.splitlines())) <= 80
    assert rest.startswith(", 114 not zero; fastest in ")
    assert "\nFastest: " in rest or "\nNothing is measurably faster than torch, dense." in rest


def results_of(**seconds: tuple[str, bool, float]) -> dict[Entry, BackendTimes]:
    """Each ran nine times, and always took as long."""
    return {
        Entry(engine, name, int8, lambda: Backend("", None)): BackendTimes(
            name, took, took, took, took, (took,) * 9
        )
        for name, (engine, int8, took) in seconds.items()
    }


@pytest.mark.parametrize(
    ("ours", "small", "int8", "said"),
    [
        (1.0, 2.0, 4.0, [
            f"Fastest: {OURS}, pruned.",
            "It is 9.00 times as fast (95 % interval of the ratio 9.00 to 9.00) as torch, dense.",
            ("It is 2.00 times as fast (95 % interval of the ratio 2.00 to 2.00) as other, small, the "
            "best of the other engines."),
        ]),
        (4.0, 2.0, 8.0, [
            "Fastest: other, small.",
            "It is 4.50 times as fast (95 % interval of the ratio 4.50 to 4.50) as torch, dense.",
            (f"It is 2.00 times as fast (95 % interval of the ratio 2.00 to 2.00) as {OURS}, pruned, "
            "the best of the other engines."),
        ]),
        (3.0, 3.5, 1.0, [
            "Fastest: other, quantised, int8; accuracy not checked.",
            "It is 9.00 times as fast (95 % interval of the ratio 9.00 to 9.00) as torch, dense.",
            (f"It is 3.00 times as fast (95 % interval of the ratio 3.00 to 3.00) as {OURS}, pruned, "
            "the best of the other engines."),
            (f"Fastest in float32: {OURS}, pruned, 3.00 times as fast (95 % interval of the ratio "
            "3.00 to 3.00) as torch, dense."),
        ]),
        (2.0, 2.0, 8.0, [
            f"Fastest: {OURS}, pruned.",
            "It is 4.50 times as fast (95 % interval of the ratio 4.50 to 4.50) as torch, dense.",
            ("It is not measurably faster or slower (95 % interval of the ratio 1.00 to 1.00) than "
            "other, small, the best of the other engines."),
        ]),
        (10.0, 18.0, 18.0, [
            "Nothing is measurably faster than torch, dense.",
            ("It is 1.11 times as fast (95 % interval of the ratio 1.11 to 1.11) as "
            f"{OURS}, pruned, the best of the other engines."),
        ]),
    ],
)  # fmt: skip
def test_the_verdict_follows_the_ratios(ours, small, int8, said) -> None:
    """Turn by turn, against dense torch and against the best of the other engines."""
    results = results_of(
        dense=("torch", False, 9.0),
        pruned=(OURS, False, ours),
        small=("other", False, small),
        quantised=("other", True, int8),
    )
    assert verdict(results).splitlines() == said


def test_the_verdict_says_what_speed_costs() -> None:
    """Next to the fastest, the fastest of those that lose at most one point of accuracy."""
    results = results_of(
        dense=("torch", False, 9.0), pruned=(OURS, False, 1.0), small=("other", True, 3.0)
    )
    kinds = {"dense": (1.0, 0.9), "pruned": (0.75, 0.7), "small": (0.98, 0.895)}
    judged = {e: Agreement(200, 0.1, *kinds[e.network]) for e in results}
    assert verdict(results, judged).splitlines()[-2:] == [
        ("On 200 examples it agrees with the dense network on 75.0 %, with an accuracy of 70.0 % "
         "against 90.0 %."),
        ("Fastest of those that lose at most one point: other, small, int8, 3.00 times as fast (95 % "
         "interval of the ratio 3.00 to 3.00) as torch, dense."),
    ]  # fmt: skip
    less = {e: Agreement(200, 0.1 * (e.network != "dense"), None, None) for e in results}
    assert verdict(results, less).splitlines()[-2:] == [
        "On 200 examples it is off by 10 % of the dense network's outputs.",
        "Nothing that loses at most one point is faster than torch, dense.",
    ]
    judged = {e: Agreement(200, 0.1, 1.0, 0.9) for e in results}
    assert verdict(results, judged).splitlines()[-1].startswith("On 200 examples it agrees")


def test_bench_tells_accuracy_on_data(nets, monkeypatch, capsys) -> None:
    """Of splits the training examples calibrate; the input's shape is that of the data."""
    nets.write_text(
        "import torch\nfrom torch import nn\n"
        "torch.manual_seed(0)\nnet = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
        "batches = [(torch.randn(2, 1, 8, 8), torch.tensor([1, 2])) for _ in range(9)]\n"
        "def load():\n    return batches\n"
    )
    few = ("--turns", "1", "--only", "torch", "--only", "int8", "--sparsity", "0.5")
    found = raced(monkeypatch, capsys, f"{nets}:net", "--data", "digits", "--examples", "30", *few)
    net = model_of(f"{nets}:net")
    inputs, targets = digits().test.take(torch.arange(30))
    right = (net(inputs).argmax(1) == targets).double().mean()
    judged = {each["name"]: each["judged"] for each in found["results"]}
    whole = {"examples": 30, "error": 0.0, "agrees": 1.0, "accuracy": pytest.approx(right.item())}
    assert judged["torch, dense"] == whole
    assert 0 < judged["torch, 50% zeros"]["agrees"] < 1
    assert all(0 < e["error"] < 0.05 for n, e in judged.items() if n.endswith("dense, int8"))
    found = raced(monkeypatch, capsys, f"{nets}:net", "--data", f"{nets}:load", "--input", "2x1x8x8", *few)  # fmt: skip
    assert found["results"][0]["judged"]["examples"] == 10
    run(monkeypatch, "bench", f"{nets}:net", "--data", "digits", *few)
    printed = capsys.readouterr().out
    assert "accuracy not measured" not in printed
    assert re.search(r"torch +dense .* 100.0 % +0 %", printed)


def test_agreement_is_counted_place_by_place() -> None:
    """Classes along the second dimension or the last; without targets only the outputs count."""
    torch.manual_seed(0)
    dense, mine = torch.randn(4, 5, 7).double(), torch.randn(4, 5, 7).double()
    x = (torch.zeros(4, 3),)
    for at, shape in ((1, (4, 7)), (2, (4, 5))):
        targets = torch.randint(5, shape)
        found = agreement([mine], [dense], [(x, targets)])
        same, right = (mine.argmax(at) == other for other in (dense.argmax(at), targets))
        assert (found.agrees, found.accuracy) == (same.double().mean(), right.double().mean())
        assert found.error == pytest.approx(float((mine - dense).norm() / dense.norm()))
    alone = agreement([mine], [dense], [(x, None)])
    assert (alone.examples, alone.agrees, alone.accuracy) == (4, None, None)


def test_data_that_cannot_judge_is_refused(nets) -> None:
    """Too little of it, or of other shapes than the input that was typed."""
    nets.write_text("import torch\none = lambda: [torch.zeros(1, 4)]\ntwo = lambda: 2 * one()\n")
    with pytest.raises(BoxwoodError, match=r"--data .*one with examples to calibrate"):
        read_bench_data(f"{nets}:one", None, 10)
    with pytest.raises(BoxwoodError, match=r"got too few; give more"):
        read_bench_data("digits", 4096, 10)
    found = read_bench_data(f"{nets}:two", None, 10)
    assert found.shapes() == ("1x4:float32",)
    with pytest.raises(BoxwoodError, match=r"shapes of --data, 1x4:float32, got other shapes"):
        found.like((torch.zeros(2, 4),))
    assert first_outputs(lambda inputs: [inputs[0] + 1], found.judged)[0].tolist() == [[1.0] * 4]


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
    with pytest.raises(BoxwoodError, match="backends and at least one turn"):
        time_backends({}, turns=3)
    with pytest.raises(BoxwoodError, match="backends and at least one turn"):
        time_backends({"nothing": lambda: None}, turns=0)


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("make", [onnx_runtime, openvino])
def test_a_contender_that_cannot_run_says_why(make, int8) -> None:
    """An exporter's error is a result, not a crash."""

    class Odd(torch.nn.Module):
        def forward(self, x):
            raise ValueError("odd")

    found = make(Odd(), (torch.zeros(1, 2),), 1, int8=int8)
    assert isinstance(found, Backend)
    assert found.run is None
    assert found.why_not


@pytest.mark.parametrize(("make", "package"), [(onnx_runtime, "onnx"), (openvino, "nncf")])
def test_int8_without_what_quantises(make, package, monkeypatch) -> None:
    """The package that is missing is named."""
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name == package else object()
    )
    found = make(torch.nn.Linear(2, 2), (torch.zeros(1, 2),), 1, int8=True)
    assert found == Backend(found.name, None, f"{package} is not installed")


@pytest.mark.parametrize(
    ("make", "packages"),
    [(onnx_runtime, ("onnxruntime", "onnx")), (openvino, ("openvino", "nncf"))],
)
def test_int8_peers_compute_nearly_the_same(make, packages, capsys) -> None:
    """What runs is the network, in eight bits, which cannot be equal; nothing is printed."""
    for package in packages:
        pytest.importorskip(package)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Flatten())
        x = torch.randn(1, 3, 8, 8)
    found = make(net.eval(), (x,), 1, int8=True)
    assert found.run is not None, found.why_not
    result: Any = found.run()
    off = torch.as_tensor(result[0]) - net(x).detach()
    assert 0 < off.norm() / net(x).norm() < 0.03
    assert capsys.readouterr() == ("", "")


def test_a_network_with_more_arguments_and_named_results_runs_in_onnx_runtime() -> None:
    """As those of transformers: the exporter would call it with every argument by position."""
    pytest.importorskip("onnxruntime")

    class Named(torch.nn.Module):
        def forward(self, x, cache=None, *, twice=False, **more):
            assert cache is None
            assert not more
            return {"one": x + 1, "none": None, "two": x * (3 if twice else 2)}

    found = onnx_runtime(Named(), (torch.ones(2),), 1)
    assert found.run is not None, found.why_not
    result: Any = found.run()
    assert [each.tolist() for each in result] == [[2, 2], [2, 2]]


def test_the_engine_is_absent_where_it_leaves_a_network_to_torch() -> None:
    """Torch is in the race already."""

    class Looks(torch.nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    found = boxwood_engine(Looks(), (torch.ones(2),), 1)
    assert found.run is None
    assert "leaves this network to torch, because" in found.why_not


def test_a_race_tells_its_turns() -> None:
    """For a bar of progress."""
    told: list[tuple[int, int]] = []
    time_backends(
        {"nothing": lambda: None}, turns=2, progress=lambda done, turns: told.append((done, turns))
    )
    assert told == [(1, 2), (2, 2)]


def test_no_contender_of_a_race_always_follows_the_same_one() -> None:
    """What ran before leaves caches and threads behind; each has its turns all the same."""
    ran: list[str] = []
    names = "abcde"
    results = time_backends(
        {name: partial(ran.append, name) for name in names}, turns=40, warm_up=0
    )
    assert [(result.name, len(result.seconds)) for result in results] == [(n, 40) for n in names]
    turns = [ran[first : first + 10] for first in range(0, len(ran), 10)]
    assert len(turns) == 40
    assert all(turn[::2] == turn[1::2] and sorted(turn[::2]) == list(names) for turn in turns)
    for name in names:
        before = [turn[place - 2] for turn in turns if (place := turn.index(name))]
        assert all(1 <= before.count(other) <= 20 for other in names if other != name)
