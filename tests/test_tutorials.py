"""Tutorials show parts of programs that run, and what these printed.

Each page of docs/tutorials belongs to a program in examples/ and to its committed output in
examples/output/. Programs are run here with a tiny budget.
"""

import json
import re
import runpy
from pathlib import Path

import pytest
from typer.testing import CliRunner

from boxwood._internal.cli.main import app

ROOT = Path(__file__).parents[1]
PROGRAMS = {
    "faster_classifier": "faster_classifier",
    "language_model": "language_model",
    "lottery_tickets": "lottery",
    "own_parts": "own_parts",
    "pruning_during_training": "during_training",
}


def blocks(page: str, language: str) -> list[str]:
    text = (ROOT / f"docs/tutorials/{page}.md").read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def squeezed(code: str) -> str:
    """Leave out what a formatter may change: white space, and commas at the end of a line."""
    return re.sub(r",(?=[)\]}])", "", re.sub(r"\s+", "", code))


def main(name: str, **settings: object) -> object:
    return runpy.run_path(str(ROOT / f"examples/{name}.py"))["main"](**settings)


def test_every_page_has_a_program() -> None:
    """And every program that a page shows is known here."""
    pages = {path.stem for path in (ROOT / "docs/tutorials").glob("*.md")}
    assert pages - {"index"} == PROGRAMS.keys()


@pytest.mark.parametrize("page", PROGRAMS)
def test_pages_show_what_programs_have(page: str) -> None:
    """Every block of Python is part of the program."""
    program = squeezed((ROOT / f"examples/{PROGRAMS[page]}.py").read_text(encoding="utf-8"))
    assert blocks(page, "python")
    assert [block for block in blocks(page, "python") if squeezed(block) not in program] == []


@pytest.mark.parametrize("page", PROGRAMS)
def test_pages_show_what_programs_printed(page: str) -> None:
    """Every line of output begins a line of the committed output, in its order."""
    printed = (ROOT / f"examples/output/{PROGRAMS[page]}.txt").read_text(encoding="utf-8")
    (shown,) = blocks(page, "text")
    pairs = list(zip(shown.splitlines(), printed.splitlines(), strict=True))
    assert pairs
    assert [one for one, whole in pairs if not whole.startswith(one)] == []


def test_a_classifier_is_compressed_and_served(capsys: pytest.CaptureFixture[str]) -> None:
    """From a trained network to answers from several threads."""
    pytest.importorskip("llvmlite")
    assert main("faster_classifier", epochs=2, steps=40) > 0.8
    said = capsys.readouterr().out
    assert "times less than the dense network's" in said
    assert "model.bxw" in said


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_all_trainers_prune() -> None:
    """A plain loop, Lightning and the Trainer reach the sparsity, and still learn."""
    pytest.importorskip("lightning")
    pytest.importorskip("transformers")
    found = main("during_training", epochs=4)
    assert [round(zeros, 2) for zeros, _ in found] == [0.9] * 3
    assert min(accuracy for _, accuracy in found) > 0.5


def test_a_language_model_is_shrunk_and_healed(capfd: pytest.CaptureFixture[str]) -> None:
    """Three commands, of which each reads what the one before wrote."""
    pytest.importorskip("transformers")
    main("language_model", steps=2, tokens=1000)
    said = capfd.readouterr().out
    assert "Written: small" in said
    assert "Healed into healed" in said
    assert re.search(r"held_out\s+healed", said)


def test_own_parts_work() -> None:
    """Each is used, and networks under policies of one's own learn."""
    found = main("own_parts")
    assert found["dense"] > 0.9
    assert found["stairs"] > 0.9
    assert found["halving"] > 0.9


def test_a_study_of_tickets_has_its_verdicts(tmp_path: Path) -> None:
    """With one seed nothing is decided, and each claim says so."""
    target = f"{ROOT}/examples/lottery.py:study"
    small = ["--set", "steps=10", "--set", "levels=2", "--store", str(tmp_path), "--json"]
    ran = CliRunner().invoke(app, ["run", target, *small])
    assert ran.exit_code == 0, ran.stderr
    names = {row["name"] for row in json.loads(ran.stdout)["summary"]}
    assert names >= {"ticket level-2", "reinit level-2", "random level-2"}
    assert ran.stdout.count("the ticket is") == 3
