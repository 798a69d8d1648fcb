"""Digests of plain values and of the source of definitions."""

import ast
import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any


def digest(*parts: Any) -> str:
    """Name plain JSON values by the first 20 hex digits of the SHA-256 of their canonical text.

    Example:
        >>> digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
        True
        >>> len(digest("x"))
        20
    """
    text = "\n".join(
        json.dumps(part, sort_keys=True, separators=(",", ":"), allow_nan=False) for part in parts
    )
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def source_digest(path: Path, name: str) -> str:
    r"""Name the definition ``name`` of a file and all that it reaches there and in files near it.

    These are the files in the same folder and those of the package that the file belongs to.
    Comments, docstrings and layout do not count, and neither does what is installed.

    Args:
        path: the file.
        name: of a function or class in it.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "a.py"
        ...     _ = path.write_text("def f():\n    return 1  # one\n")
        ...     before = source_digest(path, "f")
        ...     _ = path.write_text("def f():\n    'Return 1.'\n    return 1\n\ndef g():\n    return 2\n")
        ...     source_digest(path, "f") == before
        True
    """
    root = _root(path)
    files: dict[Path, dict[str, _Definition]] = {}
    reached: dict[str, tuple[str, ...]] = {}
    waiting, seen = [(path, name)], set()
    while waiting:
        file, wanted = waiting.pop()
        if (file, wanted) in seen:
            continue
        seen.add((file, wanted))
        if file not in files:
            files[file] = _definitions(file.read_bytes())
        definitions = files[file]
        for each in [wanted] if wanted else definitions:
            if each in definitions:
                found = definitions[each]
                # Relative, so that the whole may be moved.
                reached[f"{file.relative_to(root).as_posix()}:{each}"] = found.says
                waiting += [(file, used) for used in found.names]
                waiting += [at for at in _imported(file, found) if root in at[0].parents]
    return digest(reached)[:12]


def _root(path: Path) -> Path:
    """Folder of a file, or the one that has the package which the file belongs to."""
    folder = path.parent
    while (folder / "__init__.py").is_file():
        folder = folder.parent
    return folder


@dataclass(frozen=True)
class _Definition:
    """What the top-level statements that define a name say, and what they use.

    Args:
        says: the statements, without comments, docstrings and layout.
        names: all names in them.
        imports: level, module and name of what they import; no name for a whole module.
    """

    says: tuple[str, ...]
    names: frozenset[str]
    imports: tuple[tuple[int, str, str], ...]


@lru_cache(maxsize=512)
def _definitions(content: bytes) -> dict[str, _Definition]:
    """Definitions of a file by their names."""
    statements: dict[str, list[ast.stmt]] = {}
    for statement in _without_docstrings(ast.parse(content)).body:
        for bound in _bound_by(statement):
            statements.setdefault(bound, []).append(statement)
    return {name: _definition(found) for name, found in statements.items()}


def _without_docstrings(module: ast.Module) -> ast.Module:
    documented = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    for node in ast.walk(module):
        if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return module


def _definition(statements: Iterable[ast.stmt]) -> _Definition:
    nodes = [node for statement in statements for node in ast.walk(statement)]
    imports: list[tuple[int, str, str]] = []
    for node in nodes:
        if isinstance(node, ast.Import):
            imports += [(0, alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = ["" if alias.name == "*" else alias.name for alias in node.names]
            imports += [(node.level, node.module or "", name) for name in names]
    return _Definition(
        says=tuple(ast.dump(statement) for statement in statements),
        names=frozenset(node.id for node in nodes if isinstance(node, ast.Name)),
        imports=tuple(imports),
    )


def _imported(path: Path, definition: _Definition) -> Iterator[tuple[Path, str]]:
    """List what comes from files near one, with its name; no name for all that a file defines."""
    for level, module, name in definition.imports:
        relative = [*path.parents][level - 1 : level]
        folders = relative if level else [path.parent, _root(path)]
        yield from _found_in(folders, module, name)


def _found_in(folders: Iterable[Path], module: str, name: str) -> Iterator[tuple[Path, str]]:
    """Find the file of a module, or of the module that ``name`` is in a package."""
    for folder in dict.fromkeys(folders):
        place = folder.joinpath(*module.split(".")) if module else folder
        files = [(place.with_suffix(".py"), name)] if module else []
        if name:
            files += [(place / f"{name}.py", ""), (place / name / "__init__.py", "")]
        files.append((place / "__init__.py", name))
        for file, taken in files:
            if file.is_file():
                yield file, taken
                return


def _bound_by(node: ast.stmt) -> set[str]:
    """Names that a top-level statement gives a meaning, or changes the meaning of."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {node.name}
    inner = list(ast.walk(node))
    imported = [n.asname or n.name.partition(".")[0] for n in inner if isinstance(n, ast.alias)]
    written = [n.id for n in inner if isinstance(n, ast.Name) and not isinstance(n.ctx, ast.Load)]
    defined = [n.name for n in inner if isinstance(n, ast.FunctionDef | ast.ClassDef)]
    return {*imported, *written, *defined}
