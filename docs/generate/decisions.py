"""The list of decisions, from their titles."""

import re
from pathlib import Path
from typing import Any

MARK = "<!-- generated: decisions -->"
TITLE = re.compile(r"^# (\d{4}): (.+)$")


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Put the list where the page says so."""
    if MARK not in markdown:
        return markdown
    rows = [
        f"| {number} | [{title}]({name}) |"
        for name, (number, title) in decisions(Path(config.docs_dir) / "decisions").items()
    ]
    return markdown.replace(MARK, "\n".join(["| Number | Decision |", "|---|---|", *rows]))


def decisions(folder: Path) -> dict[str, tuple[str, str]]:
    """Return the number and the title of every decision by the name of its file.

    Example:
        >>> decisions(Path(__file__).parents[1] / "decisions")["0002-structure.md"]
        ('0002', 'how structure is found')
    """
    found = {}
    for path in sorted(folder.glob("[0-9]*.md")):
        first = path.read_text(encoding="utf-8").splitlines()[0]
        if titled := TITLE.match(first):
            found[path.name] = (titled[1], titled[2])
    return found
