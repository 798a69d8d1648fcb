"""What the design promises about the package as a whole."""

import ast
import graphlib
from pathlib import Path

import pytest

import boxwood
from boxwood import phases

SOURCE = Path(boxwood.__file__).parent
ROOT = SOURCE / "_internal"
FILES = sorted(ROOT.rglob("*.py"))
LAYERS = (
    {"core"},
    {"model", "graph", "engine", "files"},
    {"train", "distill", "agent", "data", "zoo"},
    {"recipes"},
    {"runs"},
    {"report", "adapters"},
    {"compress"},
    {"cli"},
)
LEVEL = {folder: level for level, folders in enumerate(LAYERS) for folder in folders}


def folder_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0]


def imported_folders(path: Path) -> set[str]:
    modules = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: imports are absolute"
            modules.append(node.module or "")
        elif isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
    parts = [module.split(".") for module in modules]
    return {part[2] for part in parts if part[:2] == ["boxwood", "_internal"] and len(part) > 2}


@pytest.mark.parametrize("path", [p for p in FILES if p.parent != ROOT], ids=lambda p: p.stem)
def test_imports_point_down(path):
    """A file imports from its own folder and from lower layers, never from a sibling or above."""
    mine = folder_of(path)
    above = {f for f in imported_folders(path) if f != mine and LEVEL[f] >= LEVEL[mine]}
    assert not above


def test_the_library_knows_nothing_of_the_studies():
    """What only studies need is in a package that the wheel does not have."""
    named = [path for path in ROOT.parent.rglob("*.py") if "boxwood_studies" in path.read_text()]
    assert not named


def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name."""
    return {
        ".".join(("boxwood", *path.relative_to(SOURCE).with_suffix("").parts)).removesuffix(
            ".__init__"
        ): path
        for path in sorted(SOURCE.rglob("*.py"))
    }


def imports_of(path: Path, known: dict[str, Path]) -> set[str]:
    """The package's modules that a file imports anywhere: on top, in functions, for types alone.

    ``from package import name`` imports the module of that name where there is one, else the
    package.
    """
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {each if each in known else node.module or "" for each in inner}
    return found & known.keys()


def test_no_files_import_each_other_in_a_circle():
    """Whatever a file imports can be read and changed without it."""
    known = modules()
    graph = {name: imports_of(path, known) for name, path in known.items()}
    try:
        order = list(graphlib.TopologicalSorter(graph).static_order())
    except graphlib.CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))
    assert len(order) == len(known)


def test_every_folder_has_a_layer():
    """A new folder says where it stands."""
    assert {folder_of(path) for path in FILES if path.parent != ROOT} <= set(LEVEL)


def test_files_fit_in_the_head():
    """No file has more than 400 lines."""
    assert [p.name for p in FILES if len(p.read_text().splitlines()) > 400] == []


def test_no_file_is_a_drawer():
    """A file is named after what is in it."""
    drawers = {"utils", "util", "helpers", "common", "misc", "base", "manager"}
    assert not drawers & {part for path in FILES for part in (path.stem, path.parent.name)}


def test_public_names_are_true():
    """What the package lists is there, once, and says what it is."""
    assert len(boxwood.__all__) == len(set(boxwood.__all__))
    assert all(hasattr(boxwood, name) for name in boxwood.__all__)
    assert all(getattr(boxwood, name).__doc__ for name in boxwood.__all__)


def test_every_phase_is_in_one_public_place():
    """Whatever class of `recipes/phases` is a phase can be imported from there, and nothing else."""
    found = {
        name
        for path in (ROOT / "recipes" / "phases").glob("*.py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef)
        and {"run"} & {each.name for each in node.body if isinstance(each, ast.FunctionDef)}
        for name in [node.name]
    }
    assert set(phases.__all__) == found
    assert all(hasattr(phases, name) for name in phases.__all__)
