"""The commands: what is typed, what is written, and what bad input is told."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from boxwood._internal.cli.main import app
from boxwood._internal.files.mask_files import load_masks, masks_file_of
from boxwood._internal.report.page.store_reader import read
from boxwood._internal.runs.store import Store
from boxwood.errors import BoxwoodError


def typed(*words: object) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_report_writes_one_file(store: Store, tmp_path: Path) -> None:
    """The page is where it was asked for, and only there."""
    pytest.importorskip("vl_convert")
    out = tmp_path / "new" / "report.html"
    assert "report.html" in typed("report", store.root, "--out", out)
    assert out.read_text().startswith("<!doctype html>")
    assert [path.name for path in out.parent.iterdir()] == ["report.html"]


def test_report_prints_json_and_writes_csv(store: Store, tmp_path: Path) -> None:
    """Both need no charts' library, and write no page unless it is asked for."""
    said = json.loads(typed("report", store.root, "--json", "--csv", tmp_path / "csv"))
    assert {"accuracy", "cost", "layers", "runs"} <= set(said["studies"][0]["tables"])
    assert (tmp_path / "csv" / "study-1-cost.csv").exists()
    assert not Path("report.html").exists()


def test_report_draws_figures_for_papers(store: Store, tmp_path: Path) -> None:
    """One trade-off; layers and weights of each recipe's last network; every training. PNG and SVG."""
    typed("report", store.root, "--figures", tmp_path / "figures")
    each = [f"{name}-{i}" for name in ("weights", "layers", "training") for i in (1, 2)]
    names = {"trade-off", "training-3", *each}
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {
        f"study-1-{name}.{kind}" for name in names for kind in ("png", "svg")
    }
    assert "pruned" in (tmp_path / "figures" / "study-1-trade-off.svg").read_text()


def test_report_compares(store: Store) -> None:
    """The comparison is printed with its verdict; every sparsity is a line."""
    said = typed("report", store.root, "--compare", "pruned", "by chance")
    assert "better at 3, worse at 0" in " ".join(said.split())
    assert said.count("+4.00") >= 3


def test_latencies_and_verdicts_join_the_report(store: Store, tmp_path: Path) -> None:
    """Measured times stand in the cost table by key, and a judge's findings in the summary."""
    key = next(r for r in store.runs() if r["name"] == "dense / seed 0")["chain"][-1]
    times = tmp_path / "latency.json"
    times.write_text(json.dumps({"networks": {key: {"my phone": [3.0, 1.0, 2.0]}}}))
    judge = tmp_path / "mine.py"
    judge.write_text(
        "from boxwood._internal.report.study import Finding\n"
        "def judge(measured):\n    return (Finding('all', True, str(len(measured))),)\n"
    )
    words = ("report", store.root, "--json", "--latency-file", times, "--judge", f"{judge}:judge")
    tables = json.loads(typed(*words))["studies"][0]["tables"]
    assert [(r["network"], r["way_0"]) for r in tables["latency"]] == [("dense", 2.0)]
    assert [(v["status"], v["evidence"]) for v in tables["verdicts"]] == [("holds", "35")]


def test_cite_reads_recipes_and_stores(store: Store) -> None:
    """A store is cited by what its runs used, a recipe by what it would use."""
    assert "@misc{han2015learning," in typed("cite", store.root)
    said = json.loads(typed("cite", "examples/mymodel.py:recipe", "--json"))
    assert "han2015learning" in said["bibtex"]


def test_runs_diff(store: Store) -> None:
    """Two runs part where their criterion does."""
    ends = {r["name"]: r["chain"][-1] for r in store.runs()}
    words = ("runs", "diff", ends["pruned / seed 0"], ends["by chance / seed 0"], "--store", store.root)  # fmt: skip
    said = json.loads(typed(*words, "--json"))
    assert said["settings"][0] == {
        "where": "2 Prune", "what": "criterion.function",
        "a": "boxwood.criteria:magnitude", "b": "boxwood.criteria:random",
    }  # fmt: skip
    assert "criterion.function" in typed(*words)


def test_a_network_leaves_its_store_with_its_masks_file_of_it(store: Store, tmp_path: Path) -> None:
    """The file holds the pruned weights; ``masks/`` holds what they kept, as other files have it."""
    (run,) = read([store], only=["pruned / seed 0"])[0].runs
    out = tmp_path / "out.safetensors"
    words = ["runs", "export", run.key, "--out", str(out), "--store", str(store.root)]
    assert CliRunner().invoke(app, words, catch_exceptions=False).exit_code == 0
    state, found, masks = store.load(run.key), load_file(out), load_masks(masks_file_of(out))
    assert set(masks) == set(state.masks)
    assert all(torch.equal(masks[name], state.masks[name]) for name in masks)
    assert all(torch.equal(found[n], w * state.masks.get(n, 1)) for n, w in state.weights.items())
    assert {path.name for path in tmp_path.rglob("*")} == {"out.safetensors", "masks"}


def test_a_full_disk_leaves_what_was_exported_before(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old file and its masks are untouched, and nothing half-written is left."""
    (run,) = read([store], only=["pruned / seed 0"])[0].runs
    out, beside = tmp_path / "out.safetensors", tmp_path / "masks" / "out.safetensors"
    beside.parent.mkdir()
    for path in (out, beside):
        path.write_bytes(b"old")

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    words = [
        "runs",
        "export",
        run.key,
        "--out",
        str(out),
        "--store",
        str(store.root),
        "--overwrite",
    ]
    with pytest.raises(
        BoxwoodError, match=r"Expected to write .*No space left .*; free some space"
    ):
        CliRunner().invoke(app, words, catch_exceptions=False)
    assert [path.read_bytes() for path in (out, beside)] == [b"old"] * 2
    assert len(list(tmp_path.rglob("*"))) == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("report", "missing"), "got no such folder"),
        (("report", "{store}", "--only", "x"), "none has a wanted name"),
        (("report", "{store}", "--latency-file", "missing.json"), "Expected JSON such as"),
        (
            ("report", "{store}", "--judge", "boxwood.errors:__doc__"),
            "to name a function",
        ),
        (("report", "{store}", "--compare", "x", "dense"), "got 'x'; correct the name"),
        (("serve", "missing"), "Expected a store at missing"),
        (("runs", "diff", "zz", "zz", "--store", "{store}"), "matches 0 of the phases"),
        (("runs", "tensorboard", "--out", "x", "--store", "missing"), "got no such folder"),
    ],
)
def test_bad_input_says_what_to_do(
    words: tuple[str, ...], message: str, store: Store, hand: SimpleNamespace
) -> None:
    """Each mistake has a message with what was expected, what came, and what to do."""
    given = [word.replace("{store}", str(store.root)) for word in words]
    with pytest.raises(BoxwoodError, match=r"Expected .*, got .*;") as caught:
        CliRunner().invoke(app, given, catch_exceptions=False)
    assert message in " ".join(str(caught.value).split())
