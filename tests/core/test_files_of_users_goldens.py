"""A file that the user names may import the files beside it, as where Python runs it."""

import subprocess
import sys
from pathlib import Path

import pytest

from boxwood._internal.core.spec import decode, encode, load
from boxwood._internal.core.trust import EVERYTHING
from boxwood.errors import BoxwoodError

MAIN = """
from nets_beside import make, width

def net(size=width):
    return make(size)

def maker():
    return make
"""
BESIDE = """
from torch import nn

width = 3

def make(size):
    return nn.Linear(size, size)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "mine.py").write_text(MAIN)
    (tmp_path / "nets_beside.py").write_text(BESIDE)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "nets_beside", raising=False)
    return tmp_path


def test_what_a_file_imports_from_beside_it(folder: Path) -> None:
    make = load(f"{folder}/mine.py:maker")()
    assert load(f"{folder}/mine.py:net")().in_features == 3
    # One function, by whichever name it is found.
    assert load(f"{folder}/nets_beside.py:make") is make
    assert decode(encode(make), trust=EVERYTHING) is make


def identity(folder: Path, name: str) -> str:
    return encode(load(f"{folder}/{name}"), identity=True)["function"]


def test_its_identity_follows_what_it_says(folder: Path) -> None:
    """A key changes where the function beside the file does, or what that reaches."""
    net, make = identity(folder, "mine.py:net"), identity(folder, "nets_beside.py:make")
    assert make.startswith("nets_beside.py:make#")
    (folder / "nets_beside.py").write_text(BESIDE + "\n\ndef other():\n    return 1\n")
    assert identity(folder, "mine.py:net") == net
    assert identity(folder, "nets_beside.py:make") == make
    (folder / "nets_beside.py").write_text(BESIDE.replace("(size, size)", "(size, size, False)"))
    assert identity(folder, "mine.py:net") != net
    assert identity(folder, "nets_beside.py:make") != make
    (folder / "nets_beside.py").write_text(BESIDE.replace("width = 3", "width = 4"))
    assert identity(folder, "mine.py:net") != net
    assert identity(folder, "nets_beside.py:make") == make


def test_files_that_import_each_other_have_an_identity(folder: Path) -> None:
    (folder / "nets_beside.py").write_text(
        "import mine\n" + BESIDE.replace("nn.L", "mine and nn.L")
    )
    assert identity(folder, "nets_beside.py:make")


def test_another_process_finds_it(folder: Path) -> None:
    """A store names the file beside, and whoever reads the store needs no more."""
    told = encode(load(f"{folder}/mine.py:maker")())
    code = (
        "from boxwood._internal.core.spec import decode; from boxwood._internal.core.trust import EVERYTHING; "
        f"print(decode({told!r}, trust=EVERYTHING)(4).out_features)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "4\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def net(:", "SyntaxError: invalid syntax .mine.py, line 1."),
        ("import nowhere_at_all", "ModuleNotFoundError: No module named 'nowhere_at_all'"),
        ("from nets_beside import nothing", "ImportError: cannot import name 'nothing'"),
    ],
)
def test_a_file_that_cannot_be_imported_is_named(text: str, words: str, folder: Path) -> None:
    (folder / "mine.py").write_text(text)
    with pytest.raises(BoxwoodError, match=f"Expected .*mine.py to be .*got {words}"):
        load(f"{folder}/mine.py:net")
