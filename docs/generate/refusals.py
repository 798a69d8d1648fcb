"""The list of refusals, from the code itself: what Boxwood raises, and what to do about each.

Every ``raise`` of an error of `boxwood.errors` whose message is written where it is raised is on the
list; what the message says of a call is shown as ``…``.
"""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from boxwood import errors

MARK = "<!-- generated: refusals -->"
ROOT = Path(errors.__file__).parent
KINDS = {
    name: each
    for name, each in vars(errors).items()
    if isinstance(each, type) and issubclass(each, errors.BoxwoodError) and name != "BoxwoodError"
}
AREAS = {  # in the order of the page; the folders of the code and what they are for
    "Masks, criteria, schedules and policies": ("core", "model"),
    "Whole units and smaller networks": ("graph",),
    "Compiled and accelerated networks": ("engine", "deployment.py"),
    "Pretrained models and trainers": ("adapters",),
    "Compress": ("compress",),
    "Training and distillation": ("train", "distill", "agent"),
    "Recipes and comparisons": ("recipes",),
    "Data and networks": ("data", "zoo"),
    "Files": ("files",),
    "Stores, statistics and reports": ("runs", "report"),
    "The command line": ("cli",),
}


@dataclass(frozen=True)
class Refusal:
    """One message: the name of its error, its area, what was expected, and what to do."""

    kind: str
    area: str
    expected: str
    do: str


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Put the list where the page says so."""
    return markdown.replace(MARK, "\n".join(_lines())) if MARK in markdown else markdown


def refusals() -> list[Refusal]:
    """Return what is raised anywhere, each message once."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).parts
        folder = parts[1] if parts[0] == "_internal" else parts[0]
        for kind, message in raised(path.read_text(encoding="utf-8")):
            expected, _, do = message.partition("; ")
            found[kind, message] = Refusal(kind, _area(folder), expected, do)
    return sorted(found.values(), key=lambda each: each.expected.casefold())


def raised(code: str) -> Iterator[tuple[str, str]]:
    """Yield the kind and the message of each error that a module makes with a text.

    Example:
        >>> list(raised('raise InvalidInput(f"Expected a, got {b}; do c.")'))
        [('InvalidInput', 'Expected a, got …; do c.')]
    """
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Call) and node.args:
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            if name in KINDS and (message := _message(node.args[0])).startswith("Expected"):
                yield name, message


def _message(node: ast.expr) -> str:
    """Return a text, with … for what is only known in a call."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(_message(each) for each in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _message(node.left) + _message(node.right)
    return "…"


def _area(folder: str) -> str:
    return next(area for area, folders in AREAS.items() if folder in folders)


def _lines() -> Iterator[str]:
    """Write the list: a heading for each kind, and what belongs together in one fold."""
    by_kind: dict[str, dict[str, list[Refusal]]] = defaultdict(lambda: defaultdict(list))
    for each in refusals():
        by_kind[each.kind][each.area].append(each)
    for kind, error in KINDS.items():
        if kind in by_kind:
            yield f"### {kind}\n\n{(error.__doc__ or '').splitlines()[0]}\n"
            for area in (area for area in AREAS if area in by_kind[kind]):
                rows = by_kind[kind][area]
                yield f'??? note "{area} ({len(rows)})"\n'
                yield "    | What it says | What to do |\n    |---|---|"
                yield from (f"    | {_cell(each.expected)} | {_cell(each.do)} |" for each in rows)
                yield ""


def _cell(text: str) -> str:
    """Return a message as the cell of a table, with its signs as they are."""
    text = re.sub("…{2,}", "…", " ".join(text.split()))
    for sign in "\\`*_<[$|":
        text = text.replace(sign, "\\" + sign)
    return text[:1].upper() + text[1:]
