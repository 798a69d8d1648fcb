"""Names that follow from what is named: of plain values, and of what a definition says."""

import ast
import hashlib
import json
from collections.abc import Iterable, Iterator
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


def source_digest(path: Path, name: str, seen: frozenset[tuple[Path, str]] = frozenset()) -> str:
    r"""Name the definition ``name`` of a file and all that it reaches there and in files beside it.

    Comments and layout do not count, and neither does what is installed.

    Args:
        path: the file.
        name: of a function or class in it; all that the file defines where it is empty.
        seen: what is being named already, as files may import each other.

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
    definitions: dict[str, list[ast.stmt]] = {}
    for node in ast.parse(path.read_text()).body:
        for bound in _bound_by(node):
            definitions.setdefault(bound, []).append(node)
    reached: dict[str, list[str]] = {}
    waiting = [name] if name else list(definitions)
    while waiting:
        each = waiting.pop()
        if each in reached or each not in definitions:
            continue
        nodes = [inner for node in definitions[each] for inner in ast.walk(node)]
        reached[each] = [ast.dump(node) for node in definitions[each]]
        for file, taken in _beside(path, nodes):
            if (file, taken) not in seen:
                reached[each].append(source_digest(file, taken, seen | {(file, taken)}))
        waiting += [node.id for node in nodes if isinstance(node, ast.Name)]
    return digest(reached)[:12]


def _beside(path: Path, nodes: Iterable[ast.AST]) -> Iterator[tuple[Path, str]]:
    """List what is imported from files in the same folder; no name for all that a file defines."""
    for node in nodes:
        taken: list[tuple[str, str]] = []
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            taken = [(node.module, "" if a.name == "*" else a.name) for a in node.names]
        elif isinstance(node, ast.Import):
            taken = [(alias.name, "") for alias in node.names]
        for module, name in taken:
            file = path.parent.joinpath(*module.split(".")).with_suffix(".py")
            if file.is_file():
                yield file, name


def _bound_by(node: ast.stmt) -> set[str]:
    """Names that a top-level statement gives a meaning, or changes the meaning of."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {node.name}
    inner = list(ast.walk(node))
    imported = [n.asname or n.name.partition(".")[0] for n in inner if isinstance(n, ast.alias)]
    written = [n.id for n in inner if isinstance(n, ast.Name) and not isinstance(n.ctx, ast.Load)]
    defined = [n.name for n in inner if isinstance(n, ast.FunctionDef | ast.ClassDef)]
    return {*imported, *written, *defined}
