"""The Python in the documents runs, so that what is told stays true.

Every block between ```python and ``` of a document is run, in order, in one namespace, in an empty
folder. What a block needs and readers do not, stands in a comment right before it, and so does the
reason why one cannot run:

    <!-- with:
    model = nn.Linear(2, 2)
    -->
    <!-- not run: trains for an hour -->

Blocks with prompts (``>>>``) are doctests. Those of the README are run by pytest itself.
"""

import ast
import doctest
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted((ROOT / "docs").rglob("*.md"))
BLOCK = re.compile(
    r"^(?:<!-- (?P<kind>with|not run):(?P<said>(?:(?!-->).)*)-->\n)?```python\n(?P<code>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
ADVICE = (
    "correct it, give it what it needs in a comment '<!-- with: CODE -->' right before it, or mark "
    "it '<!-- not run: WHY -->'"
)


@dataclass(frozen=True)
class Block:
    """One block: its code with what stands before it, where, and why it cannot run, if so."""

    code: str
    line: int
    why_not: str = ""


def blocks(text: str) -> list[Block]:
    found = []
    for each in BLOCK.finditer(text):
        line = text[: each.start("code")].count("\n") + 1
        said = (each["said"] or "").strip()
        if each["kind"] == "not run":
            found.append(Block(each["code"], line, said or "no reason"))
        else:
            found.append(Block(f"{said}\n{each['code']}", line))
    return found


def run(block: Block, names: dict[str, Any], name: str) -> None:
    """Run a block in ``names``; a mistake in it is told with its place."""
    try:
        if block.why_not:
            ast.parse(block.code)
        elif ">>>" in block.code:
            test = doctest.DocTestParser().get_doctest(block.code, names, name, name, block.line)
            doctest.DebugRunner().run(test, clear_globs=False)
            names.update(test.globs)
        else:
            exec(compile(block.code, f"{name}:{block.line}", "exec"), names)  # noqa: S102
    except Exception as error:
        raise AssertionError(
            f"the Python block at line {block.line} of {name} does not run: "
            f"{type(error).__name__}: {error}; {ADVICE}"
        ) from error


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_documents_run(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each block of a document does what it says, after those before it."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks(path.read_text(encoding="utf-8")):
        run(block, names, path.name)


def test_the_first_page_is_run() -> None:
    """Its blocks have prompts, which pytest collects, but for one program that tests/test_readme.py runs."""
    found = blocks((ROOT / "README.md").read_text(encoding="utf-8"))
    prompts = [block.code.lstrip().startswith(">>>") for block in found]
    assert prompts.count(True) >= 1
    assert prompts.count(False) == 1


GOOD = """
<!-- with: a comment elsewhere -->
<!-- with: import math -->
```python
x = math.pi
```
text
```python
>>> round(x)
3
```
<!-- not run: waits for a year -->
```python
sleep(31_536_000)
```
"""


def test_what_stands_before_a_block_counts() -> None:
    """Code of a comment is run with its block; one that cannot run is read alone."""
    names: dict[str, Any] = {}
    found = blocks(GOOD)
    assert [block.why_not for block in found] == ["", "", "waits for a year"]
    for block in found:
        run(block, names, "good.md")
    assert round(names["x"]) == 3


@pytest.mark.parametrize(
    "code", ["1 / 0\n", "gone()\n", ">>> 1 + 1\n3\n", "<!-- not run: why -->\n```python\nx = (\n"]
)
def test_a_mistake_is_told_with_its_place_and_the_way_out(code: str) -> None:
    """File, line, error, and what to do."""
    text = code if code.startswith("<!--") else f"```python\n{code}"
    (block,) = blocks(f"{text}```\n")
    with pytest.raises(AssertionError, match=r"block at line \d of a.md does not run: .*; correct"):
        run(block, {}, "a.md")
