"""What a user meets: few names at the top, each name in one place, and documents that use no others."""

import ast
import importlib
import inspect
import pkgutil
import re
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest
from typer.main import get_command

import boxwood
from boxwood._internal.cli.main import app

ROOT = Path(boxwood.__file__).parents[2]
EXTRAS = {"boxwood.integrations.lightning": "lightning", "boxwood.integrations.transformers": "transformers"}  # fmt: skip
DOCUMENTS = sorted(
    [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").glob("*.py")]
)


def modules() -> list[ModuleType]:
    """Every public module, those of missing extras left out."""
    names = [m.name for m in pkgutil.iter_modules(boxwood.__path__) if m.name != "_internal"]
    folder = Path(boxwood.__file__).parent / "integrations"
    names += [f"integrations.{path.stem}" for path in folder.glob("[!_]*.py")]
    found = []
    for name in names:
        extra = EXTRAS.get(f"boxwood.{name}")
        if extra is None or importlib.util.find_spec(extra) is not None:
            found.append(importlib.import_module(f"boxwood.{name}"))
    return found


def names_of(module: ModuleType) -> list[str]:
    """What a module lists, or, of errors, what it defines."""
    listed = getattr(module, "__all__", None)
    if listed is not None:
        return list(listed)
    return [n for n, each in vars(module).items() if inspect.isclass(each)]


def public() -> dict[str, object]:
    """Every public thing by its dotted name."""
    found: dict[str, object] = {
        f"boxwood.{name}": getattr(boxwood, name) for name in boxwood.__all__
    }
    for module in modules():
        found[module.__name__] = module
        found |= {f"{module.__name__}.{name}": getattr(module, name) for name in names_of(module)}
    return found


def test_few_names_are_at_the_top() -> None:
    """At most 24, sorted, and each says what it is."""
    assert len(boxwood.__all__) <= 24
    assert sorted(boxwood.__all__) == boxwood.__all__


def test_every_name_is_in_one_place() -> None:
    """A name means one thing, wherever it is imported from."""
    places = Counter(name for module in modules() for name in names_of(module))
    places.update(name for name in boxwood.__all__ if name != "BoxwoodError")
    assert {name: count for name, count in places.items() if count > 1} == {}


@pytest.mark.parametrize("name", sorted(public()))
def test_public_names_are_documented(name: str) -> None:
    """Each has a text, and the text names nothing private."""
    thing = public()[name]
    if inspect.isclass(thing) or inspect.isfunction(thing) or inspect.ismodule(thing):
        assert thing.__doc__
        assert "boxwood._internal" not in thing.__doc__


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_documents_use_public_names_only(path: Path) -> None:
    """Nothing private is named, and every dotted name is there."""
    text = path.read_text()
    if path.parent.name != "decisions":  # these are read by those who change what is private
        assert "boxwood._internal" not in text
    known = {**public(), "boxwood._internal": boxwood}
    for dotted in re.findall(r"(?<![\w/.-])(boxwood\b(?:\.[A-Za-z_]\w*)+)", text):
        assert _is_known(dotted, known), dotted
    for module, listed in re.findall(
        r"from (boxwood(?:\.[\w.]+)?) import (\([^)]*\)|[^\n]*)", text
    ):
        for name in re.findall(
            r"(\w+)(?: as \w+)?(?:,|\s|$)", re.sub(r"#.*", "", listed).strip("()")
        ):
            assert _is_known(f"{module}.{name}", known), f"{module}.{name}"


def _is_known(dotted: str, known: dict[str, object]) -> bool:
    """Tell whether a name, or what it is an attribute of, is public."""
    if re.search(r"\.(py|bxw|html|sha256|packed|header|masks|structure)$", dotted):
        return True
    return dotted in known or (
        dotted.count(".") > 1
        and dotted.rpartition(".")[0] in known
        and not inspect.ismodule(known[dotted.rpartition(".")[0]])
    )


def test_help_names_nothing_private() -> None:
    """Every command and option is read."""

    def texts(command) -> list[str]:
        found = [command.help or "", *(getattr(p, "help", None) or "" for p in command.params)]
        for other in getattr(command, "commands", {}).values():
            found += texts(other)
        return found

    assert not [text for text in texts(get_command(app)) if "_internal" in text]


def test_messages_name_nothing_private() -> None:
    """Texts that a user reads name modules that he may import."""
    for path in (Path(boxwood.__file__).parent / "_internal").rglob("*.py"):
        tree = ast.parse(path.read_text())
        docs = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Expr)}
        texts = [
            n.value
            for n in ast.walk(tree)
            if isinstance(n, ast.Constant) and isinstance(n.value, str) and id(n) not in docs
        ]
        private = {text for text in texts if "boxwood._internal" in text}
        # The files of pages and charts are found by the name of their package.
        assert not [text for text in private if not text.startswith("boxwood._internal.report")], (
            path
        )
