"""What commands print fits 80 columns with every number in it, and in a pipe a row is a line."""

import json
import re
from pathlib import Path

import pytest
import torch
from rich.console import Console as RichConsole
from safetensors.torch import save_file
from typer.testing import CliRunner

from boxwood._internal.cli.main import app
from boxwood._internal.cli.tables import show
from boxwood._internal.report.statistics import Interval
from boxwood._internal.report.summary_rows import SummaryRow
from boxwood._internal.report.tables import summary_table
from boxwood._internal.runs.store import Store

BOX = re.compile(
    "[\u2500-\u257f\u2026]"
)  # what tables are drawn with, and what stands for the rest
NAMES = [f"model.layers.{i}.self_attention.query_key_value_projection.weight" for i in range(2)]
SHAPES = ((1024, 1040), (1040, 1024))


def printed(*words: object) -> str:
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, done.exception
    return done.output


@pytest.fixture
def commands(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple]:
    """Commands that print a table, on names that are long."""
    monkeypatch.chdir(tmp_path)
    weights = {n: torch.randn(s) for n, s in zip(NAMES, SHAPES, strict=True)}
    save_file(weights, "in.safetensors")
    ends = {run["name"]: run["chain"][-1] for run in store.runs()}
    a, b = ends["pruned / seed 0"], ends["by chance / seed 0"]
    where = ("--store", store.root)
    return {
        "prune": ("prune", "in.safetensors", "--sparsity", "0.987", "--out", "out"),
        "info": ("info", "in.safetensors"),
        "plan": ("plan", "boxwood._internal.cli.demo:experiment"),
        "runs list": ("runs", "list", *where),
        "runs diff": ("runs", "diff", a, b, *where),
        "report --compare": ("report", store.root, "--compare", "pruned", "by chance"),
        "compile": ("compile", "boxwood.networks:lenet_5", "--input", "1x1x28x28", "--explain", "--sparsity", "0.9", "--out", "net.bxw"),
        "shrink": ("shrink", "boxwood.networks:conv_4", "--input", "1x3x32x32", "--keep", "0.5", "--dry-run"),
    }  # fmt: skip


NUMBERS = {
    "prune": ["1,064,960", r"\d\d,\d{3} +0\.98\d\d"],
    "info": ["4,259,840", "0.0000"],
    "plan": [r"[0-9a-f]{20}", r"15"],
    "runs list": [r"[0-9a-f]{20}"],
    "runs diff": [r"test\.correct +9\d\d +9\d\d"],
    "report --compare": [r"\+4\.00"],
    "compile": [r"\d\.\d{3} +\d\.\d{3} +\d\.\d{3} +\d+"],
    "shrink": ["multiply-adds", r"\d\d\.\d%"],
}


@pytest.mark.parametrize("name", NUMBERS)
def test_80_columns(name: str, commands: dict[str, tuple], monkeypatch: pytest.MonkeyPatch) -> None:
    """No line is longer, and no number is cut or folded."""
    monkeypatch.setenv("COLUMNS", "80")
    text = printed(*commands[name])
    table = text.partition("ms in all, step by step")[0]  # sentences are as long as they are
    assert max(map(len, table.splitlines())) <= 80, text
    assert not BOX.search(text)
    for number in NUMBERS[name]:
        assert re.search(number, text), (number, text)


@pytest.mark.parametrize("name", NUMBERS)
def test_pipes(name: str, commands: dict[str, tuple], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each row is a line, whose columns awk tells apart; nothing is drawn."""
    monkeypatch.delenv("COLUMNS", raising=False)
    text = printed(*commands[name])
    assert not BOX.search(text)
    for number in NUMBERS[name]:
        assert re.search(number, text), (number, text)
    if name in ("prune", "info"):
        rows = [line for line in text.splitlines() if line.startswith("model.layers.0.")]
        assert len(rows) == 1
        assert re.split(r"\s{2,}", rows[0])[0] == NAMES[0]


def rows() -> list[SummaryRow]:
    return [
        SummaryRow(
            name="L2 iterative pruning of conv-6 at 12x", seeds=5, sparsity=0.917,
            accuracy=Interval(estimate=0.982, low=0.937, high=1.008, n=2, method="Student t"),
            parameters=266_610_000, nonzero=22_218_000, multiply_adds=22_180_000,
            dense_multiply_adds=266_200_000, bytes=122_200_000, dense_bytes=1_066_440_000,
            epochs=1240, seconds=96_100,
        )
    ]  # fmt: skip


def test_the_summary(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Its eight columns of numbers stay whole in 80 characters, and are a line each in a pipe."""
    whole = ("98.2 %", "[93.7, 100.8]", "91.7 %", "22.22M", "12.0x fewer", "22.18M", "122.20 MB",
             "8.7x fewer", "1240 epochs", "26 h 42 min")  # fmt: skip
    monkeypatch.setenv("COLUMNS", "80")
    show(summary_table(rows()))
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80, text
    assert all(number in text for number in whole), text
    monkeypatch.delenv("COLUMNS")
    show(summary_table(rows()))
    head, row = capsys.readouterr().out.splitlines()
    assert head.split()[0] == "network"
    assert row.startswith("L2 iterative pruning of conv-6 at 12x  ")
    assert all(number in row for number in whole), row


def test_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """It has a rule below the headings; one that is too narrow folds numbers, and cuts none."""
    monkeypatch.setattr(RichConsole, "is_terminal", property(lambda _: True))
    for width in (80, 120, 40):
        monkeypatch.setenv("COLUMNS", str(width))
        show(summary_table(rows()))
        text = capsys.readouterr().out
        assert max(map(len, text.splitlines())) <= width, text
        assert "──" in text
        assert "…" not in text
    digits = {int(d) for d in re.findall(r"\d", text)}
    assert digits == {int(d) for d in re.findall(r"\d", json.dumps([98.2, 93.7, 100.8, 5, 2, 1240, 26, 42, 22.18, 122.20]))}  # fmt: skip
