"""A file that the user names may import the files beside it, as where Python runs it."""

import sys
from pathlib import Path

import pytest
import torch

from boxwood._internal.core.spec import decode, encode, load
from boxwood._internal.core.trust import EVERYTHING
from boxwood._internal.data.digits import digits
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


PACKAGE = {
    "__init__.py": "from .nets import net\n",
    "nets.py": "from .inner import sizes\nfrom own_package.layers import make\n\n"
    "def net():\n    return make(sizes.width)\n\ndef other():\n    return 1\n",
    "layers.py": "def make(size):\n    return size\n",
    "inner/__init__.py": "",
    "inner/sizes.py": "width = 3\n",
}


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = folder / "own_package" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.fixture
def own_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write(tmp_path, PACKAGE)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("own_package", "own_package.nets", "own_package.inner", "own_package.layers"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "before", "after", "another"),
    [
        ("nets.py", "make(sizes.width)", "make(2)", True),
        ("layers.py", "return size", "return 2 * size", True),  # by the package's name
        ("inner/sizes.py", "3", "4", True),  # relative, of a package within
        ("nets.py", "return 1", "return 2", False),
        ("layers.py", "def make", "def more():\n    return 1\n\ndef make", False),
    ],
)
def test_a_package_that_is_not_installed_is_known_by_what_it_says(
    name: str, before: str, after: str, another: bool, own_package: Path
) -> None:
    """Its functions go by their names, and an edit of what they reach in the package is a new key."""
    net = load("own_package:net")
    assert encode(net) == {"function": "own_package.nets:net"}
    first = encode(net, identity=True)["function"]
    assert first.startswith("own_package.nets:net#")
    write(own_package, {name: PACKAGE[name].replace(before, after)})
    assert (encode(net, identity=True)["function"] != first) is another


def test_an_installed_package_is_known_by_its_names(own_package: Path) -> None:
    """Its version says what it is."""
    installed = own_package / "lib" / "site-packages"
    installed.mkdir(parents=True)
    (own_package / "own_package").rename(installed / "own_package")
    sys.path.insert(0, str(installed))  # undone with what the fixture changed
    assert encode(load("own_package:net"), identity=True) == {"function": "own_package.nets:net"}
    assert encode(torch.nn.Linear, identity=True) == {"function": "torch.nn.modules.linear:Linear"}
    assert encode(digits, identity=True) == {"function": "boxwood.data:digits"}


def test_another_process_finds_it(folder: Path, forks) -> None:
    """A store names the file beside, and whoever reads the store needs no more."""
    told = encode(load(f"{folder}/mine.py:maker")())
    code = (
        "from boxwood._internal.core.spec import decode; from boxwood._internal.core.trust import EVERYTHING; "
        f"print(decode({told!r}, trust=EVERYTHING)(4).out_features)"
    )
    done = forks.start(code, entry="code")
    assert done.wait() == 0, done.stderr
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
