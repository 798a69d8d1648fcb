"""Bad values of options are refused in one sentence before anything runs; every option is here."""

import math
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from boxwood._internal.cli.main import app
from boxwood.errors import BoxwoodError

LENET = "boxwood.networks:lenet_5"
EXPERIMENT = "boxwood._internal.cli.demo:experiment"
COMMANDS: dict[str, tuple[str, ...]] = {
    "bench": (LENET, "--input", "1x1x28x28"),
    "compile": (LENET, "--input", "1x1x28x28", "--out", "OUT/net.bxw"),
    "compress": ("examples/compress.py:task", "--out", "OUT/small"),
    "demo": ("--store", "OUT/store"),
    "evaluate": ("IN", "--text", "FILE"),
    "heal": ("IN", "--text", "FILE", "--tokens", "1M", "--out", "OUT/healed"),
    "plan": (EXPERIMENT,),
    "run": (EXPERIMENT, "--store", "OUT/store"),
    "shrink": (LENET, "OUT/small.safetensors", "--input", "1x1x28x28"),
    "prune": ("IN", "--out", "OUT/pruned"),
    "pack": ("IN", "--out", "OUT/packed"),
    "unpack": ("IN", "--out", "OUT/dense"),
    "info": ("IN",),
    "report": ("STORE",),
    "serve": ("STORE",),
    "cite": (EXPERIMENT,),
    "compare": ("examples/own_method.py:comparison", "--store", "OUT/store"),
    "runs list": (),
    "runs show": ("ab",),
    "runs export": ("ab", "--out", "OUT/net.safetensors"),
    "runs diff": ("ab", "cd"),
    "runs tensorboard": ("--out", "OUT/events"),
    "runs mlflow": ("--out", "OUT/events"),
    "runs wandb": ("--out", "OUT/events"),
    "runs latency": (),
    "runs gc": (),
}
COUNTS = ("0", "-1", "99999999999999999999")
SHARES = ("0", "-0.1", "1.5", "nan", "inf")
SPARSITIES = ("1", "1.5", "-0.1", "nan", "inf")
WRITTEN = ("FILE/below", "LOCKED/below", "n" * 300)
BAD: dict[str, tuple[str, ...]] = {
    "--seeds": COUNTS, "--workers": COUNTS, "--threads": COUNTS, "--turns": COUNTS,
    "--batch": COUNTS, "--samples": COUNTS, "--length": COUNTS, "--floor": COUNTS, "--steps": COUNTS,
    "--stride": COUNTS, "--tokens": COUNTS, "--limit": COUNTS, "--dtype": ("float8", "half", ""),
    "--report": (*WRITTEN, "FOLDER"), "--tune": ("-1", "99999999999999999999"), "--multiple": COUNTS, "--examples": COUNTS, "--first-seed": ("-1", "99999999999999999999"), "--port": ("-1", "99999"),
    "--drop-blocks": COUNTS, "--drop-experts": COUNTS,
    "--snapshot-every": ("-1", "nan", "inf"), "--gpus-per-run": ("-1", "1.5", "nan", "inf"), "--device": ("cuda:99", "meta", "nonsense", "gpu", ""),
    "--sparsity": SPARSITIES, "--keep": SHARES, "--macs": SHARES, "--size": SHARES,
    "--latency": SHARES, "--utilisation": SHARES, "--card": ("abacus", "A100 PCIe", ""), "--csv": WRITTEN, "--figures": WRITTEN,
}  # fmt: skip
OF_FILES = (*WRITTEN, "FOLDER")  # where a file is written
OF_FOLDERS = (*WRITTEN, "FILE")
OUT = {
    "compress": OF_FOLDERS, "compile": (*OF_FILES, "MISSING/file"), "run": OF_FILES, "report": OF_FILES,
    "compare": OF_FILES, "heal": OF_FOLDERS, "runs export": (*OF_FILES, "MISSING/file"), "prune": OF_FOLDERS, "pack": (*WRITTEN, "MISSING/file"),
    "unpack": (*WRITTEN, "MISSING/file"), "runs tensorboard": OF_FOLDERS, "runs mlflow": OF_FOLDERS,
    "runs wandb": OF_FOLDERS,
}  # fmt: skip
STORE = dict.fromkeys(COMMANDS, ("FILE",)) | {
    "run": OF_FOLDERS,
    "demo": OF_FOLDERS,
    "compare": OF_FOLDERS,
}
OF_OTHERS: dict[tuple[str, str], tuple[str, ...]] = {
    **{(command, "--pattern"): ("0", "4:2", "x", "0x4", "1x4x1") for command in ("prune", "compile", "bench")},
    ("heal", "--tokens"): ("0", "-1", "many", "1T5", "", "nan", "inf", "1e99"),
    ("heal", "--rank"): COUNTS, ("heal", "--accumulate"): COUNTS, ("heal", "--keep-words"): COUNTS,
    ("heal", "--learning-rate"): ("0", "-1", "1", "nan", "inf"), ("heal", "--temperature"): ("0", "-1", "nan", "inf"),
    ("heal", "--warmup"): SPARSITIES, ("heal", "--weight-decay"): SPARSITIES, ("heal", "--text-weight"): SPARSITIES,
    ("heal", "--seed"): ("-1", "99999999999999999999"), ("heal", "--cache-folder"): OF_FOLDERS,
    ("shrink", "OUT"): (*WRITTEN, "MISSING/file"),
    ("prune", "--start"): ("x", "wanda"),  # without --by
    ("prune", "--keep"): ("2:4", "0.5"),  # as it was before there was --pattern
    ("report", "--latency-file"): (), ("serve", "--latency-file"): (),  # a file that is read
    **{("compress", each): () for each in ("--for", "--at-most", "--hours", "--max-drop", "--seed")},  # the search checks them
}  # fmt: skip
READ = {  # looked up, read or matched when they are used, or shown: tests of their own
    "--data", "--set", "--ray", "--weights", "--input", "--protect", "--by", "--text", "--blocks",
    "--layers", "--skip", "--masks", "--title", "--only", "--without", "--judge", "--compare",
    "--code", "--against", "--teacher", "--tasks", "--task-folder",
    "--rules",
}  # fmt: skip


def options() -> list[tuple[str, Any]]:
    """All options of all commands, switches apart."""
    root = typer.main.get_command(app)
    found = []
    for name, command in root.commands.items():
        for inner, each in (getattr(command, "commands", None) or {"": command}).items():
            full = f"{name} {inner}".strip()
            found += [
                (full, p)
                for p in each.params
                if not getattr(p, "is_flag", False) and p.name != "help"
            ]
    return found


def title_of(parameter: Any) -> str:
    long = [option for option in parameter.opts if option.startswith("--")]
    return long[0] if long else str(parameter.name).upper()


def values_of(command: str, title: str) -> tuple[str, ...] | None:
    if (command, title) in OF_OTHERS:
        return OF_OTHERS[command, title]
    if title == "--out":
        return OUT[command]
    if title == "--store":
        return STORE[command]
    return BAD.get(title)


CASES = [
    (command, title_of(parameter), value)
    for command, parameter in options()
    for value in values_of(command, title_of(parameter)) or ()
]


def test_every_option_is_here() -> None:
    """A new option comes with its bad values, or with the reason why it has none."""
    lacking = {
        (command, title_of(parameter))
        for command, parameter in options()
        if title_of(parameter).startswith("--")
        and values_of(command, title_of(parameter)) is None
        and title_of(parameter) not in READ
    }
    assert not lacking
    assert {command for command, _ in options()} <= COMMANDS.keys()


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Folders and files to name, one of which may not be written; and nothing may run."""
    monkeypatch.chdir(tmp_path)
    for name in ("OUT", "IN", "STORE", "FOLDER", "LOCKED"):
        (tmp_path / name).mkdir()
    (tmp_path / "FILE").write_text("kept")

    def stopped(*_: Any, **__: Any) -> None:
        raise AssertionError("something ran")

    may = __import__("os").access
    locked = str(tmp_path / "LOCKED")
    monkeypatch.setattr("os.access", lambda path, mode: locked != str(path) and may(path, mode))
    for name in (
        "run.execute", "demo.execute", "compare.compare_", "run.resolve", "plan.resolve", "shrink.find_units", "serve.open_server",
        "bench.read_network", "compile.read_network", "shrink.read_network", "prune.prune_checkpoint", "report.page",
        "runs.measure_all", "runs.to_tensorboard", "runs.to_mlflow", "runs.to_wandb", "pack.find_files",
    ):  # fmt: skip
        monkeypatch.setattr(f"boxwood._internal.cli.{name}", stopped)
    return {
        name: str(tmp_path / name)
        for name in ("OUT", "IN", "STORE", "FILE", "FOLDER", "LOCKED", "MISSING")
    }


@pytest.mark.parametrize(("command", "title", "value"), CASES)
def test_a_bad_value(command: str, title: str, value: str, places: dict[str, str]) -> None:
    """One sentence that names the option and what was typed; nothing has been run or written."""
    before = {path: path.stat().st_mtime_ns for path in Path().rglob("*")}

    def placed(text: str) -> str:
        first, slash, rest = text.partition("/")
        return places.get(first, first) + slash + rest

    given = [*command.split(), *(placed(each) for each in COMMANDS[command])]
    if title.startswith("--"):
        if title in given:  # the last one counts
            del given[given.index(title) : given.index(title) + 2]
        given += [f"{title}={placed(value)}"]
    else:
        given[len(command.split()) + 1] = placed(value)
    if command in ("prune", "shrink") and title != "--sparsity" and title not in ("--keep", "--macs", "--size", "--latency", "--pattern", "--drop-blocks"):  # fmt: skip
        given += ["--sparsity=0.5"] if command == "prune" else ["--keep=0.5"]
    if command == "prune" and title == "--pattern":
        given += ["--by=magnitude"]
    error = CliRunner().invoke(app, given).exception
    assert isinstance(error, BoxwoodError), (given, error)
    assert str(error).startswith("Expected ")
    assert title in str(error)
    assert {path: path.stat().st_mtime_ns for path in Path().rglob("*")} == before


def test_good_values_pass() -> None:
    """The ends of the ranges are in."""
    from boxwood._internal.cli import checks

    class Typed:
        opts = ("--number",)
        name = "number"

    typed: Any = Typed()
    assert checks.whole(1, 3)(typed, 3) == 3
    assert checks.whole(1)(typed, None) is None
    assert checks.fraction(of_what="zeros", one=False)(typed, 0.0) == 0
    assert checks.fraction(of_what="units", one=True)(typed, 1.0) == 1
    assert checks.seconds(typed, 0.0) == 0
    assert checks.device("cpu:0") == "cpu:0"
    with pytest.raises(BoxwoodError, match=r"at least 0, got inf"):
        checks.seconds(typed, math.inf)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("1x3x28x28", "got 1x3x28x28:float32, for which it raises RuntimeError: Given groups=1"),
        ("1x1x28x28:int64", "got 1x1x28x28:int64, for which it raises RuntimeError: Input type"),
        ("99999999x99999999x99999", "fits into memory, got '99999999x99999999x99999'"),
    ],
)
@pytest.mark.parametrize("command", ["bench", "compile", "shrink"])
def test_inputs_that_a_network_does_not_take(
    command: str, given: str, said: str, tmp_path: Path
) -> None:
    """The network's own words, before anything is compiled or raced."""
    more = {
        "compile": ["--out", f"{tmp_path}/a.bxw"],
        "shrink": [f"{tmp_path}/a.safetensors", "--keep=0.5"],
    }
    error = (
        CliRunner()
        .invoke(app, [command, LENET, *more.get(command, ()), "--input", given])
        .exception
    )
    assert isinstance(error, BoxwoodError)
    if command != "shrink" or "memory" in said:
        assert said in str(error)
    assert not list(tmp_path.iterdir())


def test_patterns_are_not_kept_fractions() -> None:
    """What `--keep` meant for `prune` has a word of its own, and the error says which."""
    given = ["prune", "in", "--out", "out", "--by", "magnitude", "--keep", "2:4"]
    error = CliRunner().invoke(app, given).exception
    assert isinstance(error, BoxwoodError)
    assert "fraction of the units" in str(error)
    assert str(error).endswith("did you mean --pattern 2:4?")
    assert "--keep" not in CliRunner().invoke(app, ["prune", "--help"]).stdout
