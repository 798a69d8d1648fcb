"""Names that follow from what is named: of plain values, and of what a definition says."""

import ast
import hashlib
import json
from collections.abc import Iterable, Iterator
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
    Comments and layout do not count, and neither does what is installed.

    Args:
        path: the file.
        name: of a function or class in it.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "a.py"
        ...     _ = path.write_text("def f():\n    return 1  # one\n")
        ...     before = source_digest(path, "f")
        ...     _ = path.write_text("def f():\n    return 1\n\ndef g():\n    return 2\n")
        ...     source_digest(path, "f") == before
        True
    """
    root = _root(path)
    reached: dict[str, list[str]] = {}
    waiting, seen = [(path, name)], set()
    while waiting:
        file, wanted = waiting.pop()
        if (file, wanted) in seen:
            continue
        seen.add((file, wanted))
        definitions = _definitions(file.read_text("utf-8"))
        for each in [wanted] if wanted else definitions:
            nodes = definitions.get(each, ())
            # Relative, so that the whole may be moved.
            place = file.relative_to(root).as_posix()
            reached[f"{place}:{each}"] = [ast.dump(node) for node in nodes]
            inner = [inner for node in nodes for inner in ast.walk(node)]
            waiting += [(file, node.id) for node in inner if isinstance(node, ast.Name)]
            waiting += [found for found in _imported(file, inner) if root in found[0].parents]
    return digest({place: found for place, found in reached.items() if found})[:12]


def _root(path: Path) -> Path:
    """Folder of a file, or the one that has the package which the file belongs to."""
    folder = path.parent
    while (folder / "__init__.py").is_file():
        folder = folder.parent
    return folder


@lru_cache(maxsize=64)
def _definitions(text: str) -> dict[str, list[ast.stmt]]:
    """Top-level statements of a file by the names that they give a meaning to."""
    found: dict[str, list[ast.stmt]] = {}
    for node in ast.parse(text).body:
        for bound in _bound_by(node):
            found.setdefault(bound, []).append(node)
    return found


def _imported(path: Path, nodes: Iterable[ast.AST]) -> Iterator[tuple[Path, str]]:
    """List what comes from files near one, with its name; no name for all that a file defines."""
    near = (path.parent, _root(path))
    for node in nodes:
        if isinstance(node, ast.Import):
            wanted = [(alias.name, "") for alias in node.names]
            folders: tuple[Path, ...] = near
        elif isinstance(node, ast.ImportFrom):
            names = ["" if alias.name == "*" else alias.name for alias in node.names]
            wanted = [(node.module or "", name) for name in names]
            folders = tuple(path.parents)[node.level - 1 : node.level] if node.level else near
        else:
            continue
        for module, name in wanted:
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
