"""Nothing that comes from a file, a store or a network steers the terminal."""

import ast
import json
import sys
import unicodedata
import warnings
from contextlib import suppress
from io import BytesIO, StringIO, TextIOWrapper
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table
from safetensors.torch import save_file
from typer.main import get_command
from typer.testing import CliRunner

import boxwood._internal.cli
from boxwood._internal.cli import main
from boxwood._internal.cli.terminal import Console, say, visible
from boxwood._internal.runs.store import Store
from boxwood.errors import BoxwoodError

HOSTILE = "a\x1b]0;owned\x07\x1b[2J\u202etxt.exe\r\x9b31m[/bold][link=x]y"
FOLDER = Path(boxwood._internal.cli.__file__).parent


def harmless(text: str) -> bool:
    """No control characters but line breaks and tabs, and none that turn the direction of text."""
    return not any(
        (unicodedata.category(letter) in ("Cc", "Cs") and letter not in "\n\t")
        or letter in "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u061c"
        for letter in text
    )


@given(st.text())
def test_whatever_is_shown_is_harmless(text: str) -> None:
    """Escaped once is escaped; what was harmless is as it was."""
    shown = visible(text)
    assert harmless(shown)
    assert visible(shown) == shown
    if harmless(text) and text.isprintable():
        assert shown == text


@given(st.text(max_size=20))
def test_the_console_shows_texts_tables_and_titles(text: str) -> None:
    """Whatever the way into the console; and nothing is read as markup."""
    out = StringIO()
    console = Console(file=out, width=400)
    table = Table(text)
    table.add_row(text)
    console.print(text, table)
    assert harmless(out.getvalue())


def test_colours_of_the_console_itself_stay() -> None:
    """What is escaped is the text, not the style."""
    out = StringIO()
    Console(file=out, force_terminal=True, color_system="standard").print(
        HOSTILE, style="bold", highlight=False
    )
    assert out.getvalue().startswith("\x1b[1m")
    assert "\\x1b]0;owned" in out.getvalue()
    assert "\x1b]0" not in out.getvalue()


def test_commands_print_through_one_place() -> None:
    """No command has a console of its own, or prints past it."""
    for path in sorted(FOLDER.glob("*.py")):
        if path.name == "terminal.py":
            continue
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                assert node.module != "rich.console", path
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in (
                    "print",
                    "sys.stdout.write",
                    "sys.stderr.write",
                    "typer.echo",
                ), path


def command(*arguments: object) -> str:
    done = CliRunner().invoke(main.app, [str(each) for each in arguments])
    assert done.exception is None, done.exception
    return done.output


def test_names_of_files_and_tensors(tmp_path: Path) -> None:
    """Paths in what is printed and in errors; a checkpoint with such a name of a tensor is refused."""
    folder = tmp_path / HOSTILE.replace("/", "")
    folder.mkdir()
    source, out = folder / "in.safetensors", folder / "out"
    save_file({"[/bold]w": torch.eye(64)}, source)
    for shown in (
        command("prune", source, "--sparsity", 0.5, "--out", out),
        command("pack", source, "--out", folder / "packed.safetensors"),
        command("pack", source, "--out", folder / "again.safetensors", "--json"),
    ):
        assert harmless(shown)
        assert "owned" in shown
    save_file({HOSTILE: torch.eye(64)}, source)
    refused = CliRunner().invoke(main.app, ["info", str(source)]).exception
    assert "name cannot be printed" in str(refused)


def test_names_in_stores_and_recipes(tmp_path: Path) -> None:
    """Names of runs and of branches, which are no markup either."""
    store, key = tmp_path / "store", "a" * 20
    genesis = {"is": "boxwood.recipes:Genesis", "seed": 0}
    Store(store).note_run(key, {"name": HOSTILE, "chain": [key], "genesis": genesis, "recipe": []})
    shown = command("runs", "list", "--store", store)
    assert harmless(shown)
    assert "owned" in shown
    recipe = tmp_path / "recipe.json"
    recipe.write_text(
        command("plan", "boxwood._internal.cli.demo:experiment", "--json").replace(
            '"pruned"', json.dumps(HOSTILE)
        )
    )
    shown = command("plan", recipe, "--store", store)
    assert harmless(shown)
    assert "owned" in shown


def test_errors_and_warnings(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is refused is named, harmlessly."""

    def refuse() -> None:
        warnings.warn(HOSTILE, UserWarning, stacklevel=1)
        raise BoxwoodError(f"Expected a name, got {HOSTILE}; change it.")

    monkeypatch.setattr(main, "app", refuse)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        with pytest.raises(SystemExit):
            main.main()
    shown = capsys.readouterr().err
    assert harmless(shown)
    assert shown.startswith("boxwood: warning: a\\x1b]0;owned")
    assert "boxwood: Expected a name" in shown


def test_a_terminal_that_knows_few_letters_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What its encoding lacks is escaped; the command ends well."""
    out = TextIOWrapper(BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    monkeypatch.setattr(main, "app", lambda: (say("…"), Console().print("→")))
    main.main()
    out.seek(0)
    assert out.read() == "\\u2026\n\\u2192\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full")
def test_a_full_disk_behind_the_output_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No traceback, and an exit code that says so."""
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    with Path("/dev/full").open("w", buffering=1) as full:
        monkeypatch.setattr(main, "app", lambda: Console(file=full).print("x" * 9999))
        with pytest.raises(SystemExit) as ended:
            main.main()
        with suppress(OSError):  # what is still in its buffer
            full.close()
    assert ended.value.code == 2
    shown = capsys.readouterr().err
    assert shown.startswith("boxwood: Expected to read and write, got [Errno 28] No space left")


def test_help_is_broken_into_lines_by_the_terminal_alone() -> None:
    """A paragraph of a docstring is one line of help text, so that any width shows it evenly."""
    commands = get_command(main.app).commands  # type: ignore[attr-defined]
    helps = [each.help for each in (*commands.values(), *commands["runs"].commands.values())]
    assert len(helps) > 20
    assert [text for text in helps if "\n" in text.replace("\n\n", "")] == []
