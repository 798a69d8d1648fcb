"""The first page: short, its program runs, and its figures are those of the committed results."""

import json
import re
from pathlib import Path
from statistics import mean

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
RESULTS = ROOT / "experiments/results"


def row(*parts: str) -> list[str]:
    """Return the cells of the one line of a table that has all parts."""
    (found,) = [
        line
        for line in README.splitlines()
        if line.startswith("|") and all(p in line for p in parts)
    ]
    return [cell.strip() for cell in found.strip("|").split("|")]


def read(name: str) -> dict:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def test_it_is_short() -> None:
    """One screen more than two is no first page."""
    assert len(README.splitlines()) < 120


def test_it_has_the_commands_of_a_fresh_machine() -> None:
    """One for the main job, one for the tests."""
    assert "    make demo " in README
    assert "    make test " in README


def test_its_files_are_there() -> None:
    """Links within the repository, pictures, and the programs that made a figure."""
    linked = re.findall(r"\]\((?!http)([^)#]+)", README)
    named = re.findall(r"`((?:experiments|benchmarks|docs)/[\w/.]+)`", README)
    assert [path for path in linked + named if not (ROOT / path).exists()] == []


def test_its_program_runs(capsys: pytest.CaptureFixture[str]) -> None:
    """With a smaller network and picture; the compiled network computes the same."""
    pytest.importorskip("torchvision")
    pytest.importorskip("llvmlite")
    (code,) = re.findall(r"```python\n(from .*?)```", README, re.DOTALL)
    code = code.replace("resnet50()", "resnet18()").replace("224", "64").replace("=20", "=2")
    exec(compile(code, "README.md", "exec"), {})  # noqa: S102
    lines = capsys.readouterr().out.splitlines()
    assert [line.rpartition("  ")[0] for line in lines] == [
        "PyTorch", "Boxwood", "largest difference",
    ]  # fmt: skip
    assert float(lines[-1].split()[-1]) < 1e-4


@pytest.mark.parametrize(
    ("network", "zeros", "key"),
    [
        ("ResNet-50, int8", "80%", "ResNet-50"),
        ("the size of BERT-base", "80%", "encoder, 128 tokens"),
    ],
)
def test_speeds_in_int8(network: str, zeros: str, key: str) -> None:
    """The ratio of the row against dense int8."""
    (made,) = [
        each
        for each in read("engine_int8")[key]["rows"]
        if f"{zeros} in 1x4 blocks, against dense int8" in each["name"]
    ]
    assert row(network)[2].startswith(f"{1 / made['ratio']:.2f} ({made['peer_name'].split()[0]}")


@pytest.mark.parametrize(
    ("network", "zeros", "name"),
    [
        ("ResNet-50, float32", "| 80 %", "ResNet-50, 80% zeros"),
        ("MobileNet-v2", "| 80 %", "MobileNet-v2, 80% zeros"),
        ("ResNet-50, float32", "| none", "ResNet-50, 0% zeros"),
    ],
)
def test_speeds_in_float32(network: str, zeros: str, name: str) -> None:
    """The least ratio against ONNX Runtime and OpenVINO, one thread, batch 1."""
    (run,) = [r for r in read("engine")["runs"] if (r["batch"], r["threads"]) == (1, 1)]
    ratios = [
        1 / each["ratio"]
        for each in run["rows"]
        if each["name"].startswith(name) and each["peer_name"] in {"ONNX Runtime", "OpenVINO"}
    ]
    assert row(network, zeros)[2].startswith(f"{min(ratios):.2f}")


def test_speed_of_decoding() -> None:
    """The ratio of tokens a second."""
    (made,) = [each for each in read("decoding")["rows"] if each["name"].startswith("generate")]
    assert row("SmolLM2-135M, `generate`")[2].startswith(f"{made['ratio']:.2f} ")


def test_accuracies() -> None:
    """Means over seeds, as the pages of the studies have them."""
    exact = read("text_recogniser")["exact"]
    assert (
        f"{100 * exact['dense']:.1f} → {100 * exact['gradual'] + 1e-6:.1f} %"
        in row("90 % of the weights")[2]
    )
    runs = read("surgery")["runs"]

    def surgery(network: str, way: str, measure: str) -> str:
        found = [
            each[measure]
            for run in runs[network]
            for each in run["rows"]
            if each["removed"] == 0.5 and each["way"] == way
        ]
        return f"{100 * mean(found):.1f}"

    peer = "Torch-Pruning, its own scores"
    assert surgery("recogniser_filters", "least squares", "accuracy") in row("not retrained |")[2]
    assert surgery("recogniser_filters", peer, "accuracy") == "0.0"
    assert surgery("resnet", "least squares", "retrained") in row("for one epoch")[2]
    assert surgery("resnet", peer, "retrained") in row("for one epoch")[3]
    found = read("compress")["resnet8_latency_2"]
    cells = row("by `compress`")
    assert f"{found['dense_cost'] / found['cost']:.2f} times" in cells[1]
    assert f"{100 * found['test']['mean']:.1f} points" in cells[2]
    assert f"{found['dense_cost'] / found['int8_alone'][0]['cost']:.2f} times" in cells[3]
